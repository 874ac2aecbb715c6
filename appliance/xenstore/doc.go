// Package xenstore is a client of XenStore, the small tree of text values through which a Xen host and its guests configure each
// other. It speaks the wire protocol (xen/include/public/io/xs_wire.h and docs/misc/xenstore.txt of Xen) over the kernel's device
// /dev/xen/xenbus, or over any other connection. Paths are relative to the domain's own directory unless they begin with '/'.
//
//	Read, Write, Rm, … ──▶ calls ──▶ send ──── one request ───▶ /dev/xen/xenbus ──▶ xenstored
//	      ▲                           ▲                                │
//	      └────────── answer ─────────┴──── answer ──── receive ◀──────┘
//	Watch.Events ◀──────────────────────── 'read again' ──┘
//
// At most one request is in flight: the kernel keeps a pointer into the descriptor's buffer until the answer is there, so a second
// request would corrupt the first. Watch events arrive between a request and its answer, and even before the answer to the request
// that sets the watch.
//
// Transactions are left out: a delegate writes its own keys alone and reads values that stand for themselves.
package xenstore
