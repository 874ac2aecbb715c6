// Package xenstoretest is a XenStore daemon for tests: a tree, permissions, quota and watches as a guest of XenServer sees them.
//
//	test ('dom0') ── Write, Remove, RewriteVMData ──▶ tree ── watches ──▶ events, merged ─┐
//	                                                   ▲                                  ▼
//	xenstore.Client ──── net.Pipe ──── one whole request a write, one at a time ──── connection
//	                                                                                      │
//	                ◀──── in small pieces ──── Hold, Intercept ◀──── answers ◀────────────┘
//
// It judges the client as the kernel's device would: a second request before the answer to the first, a request in more than one
// write, and one larger than the device's buffer fail the test.
package xenstoretest
