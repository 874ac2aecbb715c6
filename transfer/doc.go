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
//   - What a Hint leaves unread is counted as assumed, and no block that was not read
//     travels without being read and checked.
//   - Neither end waits for a write of its own while it should read, so the
//     conversation cannot lock up: see netproto on flow control.
//
// # Resuming
//
// A transfer that was cut is carried on by another one that starts at the
// watermark, an extent below which everything is durable at the sink and recorded.
// Neither end looks at what lies below. The result digest, the verdicts and the
// records of an attempt cover the extents from its start; a root covers the whole
// disk, and so is computed only by whoever has seen all of it: a RootHasher that is
// given to each attempt takes every extent once. What the sink wrote beyond its
// watermark before the cut is found there, by the scan or, when trusted, by reading
// offered blocks before they are asked for, and does not travel again.
//
// Every wait ends with the context, and every goroutine ends before the function
// that started it returns.
package transfer
