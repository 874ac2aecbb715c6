// Package devices knows the disks that are plugged into the delegate, and who uses them.
//
// A disk has one user at a time. It is opened for a task and flushed and closed with it, so that nothing holds it afterwards and
// the pool can unplug it: a kernel may refuse to let go of an open disk (xapi-facts §8.3). Detaching marks it: no one may open it
// again until it was unplugged.
//
//	guest ── Plug, Unplug ──▶ Registry ◀── Acquire ── task      List, Detach ── control API
//	                             │            │
//	                             └─ cancels ─▶ Lease: Open … Release    (a disk unplugged under a task ends it, and so does one
//	                                                    that fails because it is gone: the kernel knows before the guest)
package devices
