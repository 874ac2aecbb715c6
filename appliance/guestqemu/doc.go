// Package guestqemu is an appliance.Guest for a virtual machine of plain QEMU, which has no XenStore: the same keys and values come
// in through the firmware's configuration device and travel both ways over a virtio-serial port.
//
//	world (QEMU's host side)                                              delegate
//	─ fw_cfg opt/org.understudy/guest: one JSON object, key → value ────▶ Domain, Input (as of boot)
//	─ port org.understudy.guest: {"write":{…}}, {"remove":[…]} ─────────▶ Domain, Input (as of now), AwaitShutdown
//	◀ port: {"write":{"key":"value"}} for each entry, in order ───────── ◀ Publish, PowerOff
//	◀ port: {"remove":["control/shutdown"]} ───────────────────────────── ◀ AwaitShutdown (acknowledges)
//	─ virtio-blk with serial=vbd-<number> ──────────────────────────────▶ WatchDevices (package sysblock)
//
// A message is one line of JSON with either 'write' or 'remove' in it. The port's driver takes a line as a whole or not at all, and
// takes none while nobody is connected on the host's side: then publishing waits, and nothing is lost or torn. A line that is no
// message breaks the protocol; the guest then fails for good, as it might have missed a request.
package guestqemu
