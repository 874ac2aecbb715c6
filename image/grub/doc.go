// Package grub makes the two boot loaders of the delegate's disk from Debian's unpacked GRUB packages, with their own
// grub-mkimage: it runs on the packages' C library, whatever the building machine has, so the result depends on the
// locked packages alone.
//
//	TREE/usr/bin/grub-mkimage + TREE/lib/…/*.so ─┬─ early.cfg (BIOS) ─▶ core.img    ┐
//	TREE/usr/lib/grub/{i386-pc,x86_64-efi}/*.mod ┴─ early.cfg (UEFI) ─▶ BOOTX64.EFI ├─▶ bootdisk
//	TREE/usr/lib/grub/i386-pc/boot.img ─────────────────────────────────────────────┘
//
// There is no menu and no grub.cfg: a configuration inside the loader finds the disk by its label, loads, boots. When that
// fails it says so on the screen and the serial line and switches the machine off: nobody sits at a delegate's keyboard.
package grub
