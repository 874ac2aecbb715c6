// Package netproto is the wire between two ends of a transfer: who the peer is, frames, flow control, heartbeats and errors.
// It knows nothing about disks; package transfer puts its messages into the frames. The specification, with golden bytes that
// this package's tests read, is docs/protocol.md.
//
// The pool's database is readable by every API user, so no secret can be handed to a delegate. Each end makes an Ed25519 key,
// publishes its [Fingerprint], and pins that of the peer; TLS 1.3 proves possession of the keys. Nothing else about a
// certificate is looked at, above all not its dates, for guest clocks lie.
//
//	WriteFrame ──► window ──► batch being filled ──► write loop ──► TLS ──► Meter ──► socket
//	               (bulk)     (small frames gather   ▲ WINDOW, PONG, PING
//	                           while another batch   │
//	                           is on its way)        │
//	ReadFrame ◄── inbox ◄──────────────────────── read loop ◄────── TLS ◄── Meter ◄── socket
//	  │           (window + QueueLimit)              │
//	  └─► Frame.Release ──► window grants ───────────┘
//
// # Why it cannot lock up
//
// The read loop never waits for the write loop: what it has to answer (PONG, WINDOW) is noted and sent when the write loop
// next comes round. It waits for one thing only, room in the inbox. Bulk frames always find room, for the peer sends no more
// of them than the window; other frames find room until [QueueLimit] bytes of them are unread. So both directions move as
// long as each application goes on calling ReadFrame. An application therefore either reads in a goroutine that never waits
// for a WriteFrame, or keeps by its own rules the non-bulk frames on their way to one end below QueueLimit.
//
// Both a connection over TLS and the in-process twin made by [Pipe] are a [Conn]; one conformance suite runs over both.
package netproto
