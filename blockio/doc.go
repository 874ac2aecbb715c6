// Package blockio reads and writes block devices and disk images.
//
// Everything above it moves disks by their blocks and must be able to say how fast a disk can be read, when a write is durable and what
// happens when storage fails. So there is one small interface, [Device], and everything else is either an implementation of it or
// a decorator around one:
//
//	            Scanner (in order, chosen queue depth, buffers from a Pool)
//	               │ ReadAt × QueueDepth
//	               ▼
//	Device ── Meter (counts, busy time) ── Faulty (errors, delays, torn writes by rule)
//	               │
//	     ┌─────────┴──────────┐
//	     ▼                    ▼
//	   Open               NewMemory
//	   │
//	   ├─ O_DIRECT, whole sectors, queued (io_submit) ── image file or block device
//	   └─ page cache ── all of it when Options.Buffered, else only an image's tail
//
// Direct I/O is the rule because a disk is read once and is larger than memory: the page cache would only cost a copy and push out what
// is useful. The kernel takes direct requests in whole sectors and from aligned memory (open(2), O_DIRECT); this package hides
// that. Aligned requests go straight through, others through an aligned buffer, and part of a sector is written by reading,
// changing and writing it back while no other write is under way. Callers that care for speed use [AlignedBuffer] or a [Pool] and offsets
// that are multiples of [Alignment].
//
// An image whose size is no multiple of the sector cannot be written to its last byte by direct I/O without growing. Its tail, from the last
// multiple of [Alignment], is therefore always read and written through the page cache. Alignment is the smallest page, so no page of the cache
// holds bytes that are also written directly. A block device that ends within a sector is refused: no one can read its end.
//
// An [AllocationMap] says where a device holds data or has changed, so that a Scanner may leave the rest out.
//
// The package blockiotest holds the conformance suite that every Device passes. Linux only.
package blockio
