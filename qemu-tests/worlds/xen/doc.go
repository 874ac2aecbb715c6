// Package xen is the world whose machines are guests of a real Xen hypervisor, which runs inside QEMU without KVM and without
// root. One Host serves many machines, of several simulated pools, one after another or a few at once.
//
//	this process                                   QEMU: Xen ── dom0 ── guests
//	xapisim ─▶ World.Start ── agent's port ──────▶ agent ─▶ xl create, XenStore
//	           Guest.Plug ── QMP: hot-add a SCSI disk ─▶ /dev/sdX ── xl block-attach ─▶ blkback ─▶ xen-blkfront
//	           Guest.Tree, Changed ◀── events ──── agent ◀─ watches ◀── XenStore ◀── guest
//	           console.log ◀────────────────────── agent ◀─ xenconsoled
//	lan.LAN ◀── the outer QEMU's network card ──── bridge in dom0 ◀── netback ◀── xen-netfront
//
// A disk is a file of this computer; the guest's direct, flushed writes are in it at once. PV and PVH guests boot the kernel,
// initramfs and command line that stand on their boot disk; HVM guests boot the disk itself, by Xen's firmware.
//
// Known limits, all of the emulation: guests have one processor whatever their VMs have, without AVX, and hash some 10 MB/s; PVH can
// fail when two such guests run for minutes (PV does not); no UEFI; MTU 1500. A paused guest's requests that dom0 has already taken
// are still carried out. Package dom0 builds what is booted, package agent is what runs in it.
package xen
