// Package xen tests the delegate's image as a guest of a real Xen hypervisor (qemu-tests/worlds/xen), through the product's own
// orchestrator and simulated pools.
//
//	orchestrator ─▶ pool a, pool b ─▶ world xen: PV   ─┐
//	             ─▶ pool c         ─▶ world xen: PVH  ─┼─▶ one dom0 in QEMU ─▶ delegates, booted from build/image/abd.xva
//	             ─▶ pool d         ─▶ world xen: HVM  ─┘
//
// The tests stand behind the build tags xen (make xen) and xenhvm (make xen-hvm, slow). They share one dom0, since that takes a
// quarter of a minute to boot. The consoles of dom0 and of every guest are in build/consoles/xen afterwards.
package xen
