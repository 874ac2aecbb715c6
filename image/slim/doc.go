// Package slim builds the delegate's own kernel from Debian's kernel source: what Xen, QEMU and a delegate need, in one
// file without modules, a quarter of the size of Debian's kernel for clouds.
//
//	linux-source-6.1.deb ─▶ source ─┐
//	slim.config ────────────────────┴▶ make allnoconfig ─▶ every line took effect? ─▶ make bzImage ─▶ TREE
//
// TREE looks like an unpacked kernel package (boot/vmlinuz-RELEASE, lib/modules/RELEASE/modules.builtin), so package kernel
// reads it like any other. It takes some ten minutes of processor time, so finished trees are kept, by a key of all that
// decides their bytes: source, configuration, compiler. Unlike everything else in an image, the compiler is the machine's.
package slim
