// Package transfer moves the content of one disk from a source to one sink or
// several. It is the one engine of the product: replication, copying inside a
// delegate, and scanning for a check use the same pipeline.
//
//	source ─read─> extents ─hash─┬─> session ══ line ══ receiver ─> target
//	 (once, in order, all cores) ├─> session ══ line ══ receiver ─> target
//	                             └─> …          (each with its own baseline)
//
// Send is one end of the conversation of docs/protocol.md, Receive the other, over
// any connection of netproto. Copy joins the two in one process, Scan only reads.
//
// What must hold, whatever the peer or the disk does:
//
//   - A block is written only after its digest was checked, and counted only when
//     it is settled; the verdicts add up to the logical size.
//   - A watermark is reported only after everything below it was flushed.
//   - Both ends agree on the full digests of all that was offered, or both fail.
//   - Memory is bounded by Tuning.Memory and the window, whatever the disk's size,
//     but for the extent digests of a manifest that is at hand (8 MiB a TiB).
//   - Neither end waits for a write of its own while it should read, so the
//     conversation cannot lock up: see netproto on flow control.
//
// Every wait ends with the context, and every goroutine ends before the function
// that started it returns.
package transfer
