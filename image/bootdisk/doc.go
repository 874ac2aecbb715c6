// Package bootdisk writes the delegate's disk: one kernel and one initramfs that BIOS and UEFI firmware both start
// through GRUB. It needs no root, no loop device and no tool.
//
//	LBA 0      protective MBR with GRUB's boot.img ──┐ BIOS
//	    1      GPT                                   │
//	    2048   partition 1 'BIOS boot': core.img ◀───┘ finds the ESP by its label
//	    4096   partition 2, the ESP, FAT16:            ◀── UEFI: EFI/BOOT/BOOTX64.EFI
//	             vmlinuz, initrd.img
//	    end    second GPT
//
// The label, and not a disk's number, finds the ESP: the disks of other machines are plugged beside this one, in any
// order. The disk is read once, by the loader; the system that runs never opens it.
//
// The same contents give the same bytes: identifiers and dates are fixed. What boot.img and core.img need to know of each
// other is written into them as grub-install's own setup does (grub-core/boot/i386/pc/{boot,diskboot}.S).
package bootdisk
