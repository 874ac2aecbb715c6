// Package guestxen is the appliance.Guest of a virtual machine on XenServer, XCP-ng or plain Xen: XenStore carries configuration and
// publications, the kernel's front end shows the disks.
//
//	pool (xapi, xenopsd)              XenStore                              delegate
//	─ VM.xenstore_data, VM.start ──▶ vm-data/understudy/in/* ────────────▶ Input
//	─ each boot, resume, migration ▶ vm, unique-domain-id ───────────────▶ Domain
//	─ VM.clean_shutdown ───────────▶ control/shutdown ──▶ kernel (1) ────▶ /sbin/poweroff: the caller's context ends
//	                                               └────▶ if it did not ─▶ AwaitShutdown (2), which acknowledges
//	◀ VM.xenstore_data, guest_metrics  vm-data/…/out/*, attr/*, … ◀──────── Publish, PowerOff
//	─ VBD.plug ────────────────────▶ device/vbd/<id> ──▶ xen-blkfront ───▶ WatchDevices (package sysblock)
//
// control/shutdown has two readers. Linux itself watches it (drivers/xen/manage.c), acknowledges by writing "" and runs
// /sbin/poweroff, whose second process signals PID 1; /sbin/reboot must be there likewise. Its watch was set first and events are
// delivered one after the other, so it nearly always comes first (1). AwaitShutdown takes what the kernel left (2). When both read
// the word before either wrote, the machine is asked twice for the same end, which does no harm. A request to suspend is the
// kernel's alone: acknowledging it here would promise the pool a suspend that never comes. Words that nobody knows are not
// acknowledged either; the pool then says VM_FAILED_SHUTDOWN_ACK.
//
// Of control/feature-* the kernel publishes poweroff, reboot and suspend; the delegate publishes others alone.
//
// Watches survive resume and migration: the kernel sets them again, and each fires.
package guestxen
