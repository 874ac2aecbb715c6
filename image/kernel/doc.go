// Package kernel reads a Linux kernel from an unpacked Debian package and chooses the modules that an image needs.
//
// A kernel package holds thousands of modules and no modules.dep: that file is made by depmod when a package is
// installed, which nobody does here. What a module needs stands in the module itself, in its section .modinfo.
//
//	TREE/boot/vmlinuz-RELEASE ───────────────────────▶ Image
//	TREE/lib/modules/RELEASE/modules.builtin ─┐
//	                         kernel/**.ko ────┴─▶ Select(names) ─▶ []Module, dependencies first
//	                              .modinfo: depends=, softdep=          │
//	                                                                   ▼
//	                                                      Dependencies: a modules.dep of these alone
package kernel
