// Package image builds the delegate's appliance: a boot disk, and the XVA by which a pool imports it.
//
// Everything that goes in is pinned: Debian's packages by lock.json, Go modules by go.sum, the delegate by its source.
// The same inputs give the same bytes, so that anybody can check what was shipped by building it again.
//
//	lock.json ─▶ debian.Fetch ─┬▶ kernel ──▶ vmlinuz ─────────────┐
//	                           │     └─▶ modules ─┐               │
//	./cmd/abd ─▶ go build ─────┼─▶ /init ─────────┴▶ initramfs ───┼▶ bootdisk ─▶ xva ─▶ abd.xva
//	                           └▶ grub ──▶ core.img, BOOTX64.EFI ─┘      │
//	                                                                     └▶ version: VERSION-<digest of the disk>
//
// The parts are packages of their own: debian (exact packages, through apt), kernel (modules and what they need),
// initramfs, grub, bootdisk, xva. This one says what goes in, holds the budgets and writes the list of contents.
package image
