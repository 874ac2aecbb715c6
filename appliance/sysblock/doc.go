// Package sysblock reports the machine's disks as they come and go, for every guest that finds them in sysfs: each guest only says
// which number a disk has.
//
//	kernel ── uevents (netlink): look now ──┐
//	          a slow poll: look anyway ─────┴▶ Watch ── <Sys>/block/*: size, ro, diskseq ──▶ DeviceEvent: came, went
//	                                                └── Number(directory) ◀── the guest: nodename (Xen), serial (virtio)
//
// What counts is what sysfs shows; an event only says that it is time to look. So a lost event costs a moment and nothing else. The
// poll is needed anyway: Xen's front end announces that a disk goes away by giving it the size 0, without an event, and takes up to
// 1.7 s more until the disk is gone (seen with Linux 6.1 under Xen 4.17).
package sysblock
