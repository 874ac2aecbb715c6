// Package bench measures the engine between any two images of this machine, by TLS over the loopback device.
//
// Both ends are processes of their own, started from the program that runs, so that each one's memory and processor time can be
// told apart from the other's and from the parent's, which also makes the manifest for a trusted run:
//
//	Run (parent)
//	 │ 1 sizes, same file?                      stdin:  order, "go", end of file = stop
//	 │ 2 trusted: scan target ─▶ manifest file  stdout: ready, result
//	 ├──▶ End, receiver ── opens target, listens ◀──┐
//	 └──▶ End, sender ──── opens source ── "go" ────┘ TLS 1.3, keys drawn for this run
//
// Holes of a file are told to the engine as a map of what is allocated (transfer.Hint).
//
// The clock runs from "go", when both ends have their disks open, until both have reported; the receiver reports after its final
// flush. Row is what comes out, in the units of its field names. With a line the sender dials
// a proxy in the parent (netproto/line), whose own time and memory are not counted, and which tells how full the line was.
package bench
