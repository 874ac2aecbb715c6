// Package dom0 builds what the Xen world's outer QEMU boots: the hypervisor, dom0's kernel, and an initramfs with Xen's tools and
// the world's agent in the place of an operating system.
//
//	apt's signed index ─▶ image/debian: packages and what they depend on ─▶ an unpacked tree
//	                                                                            │
//	       cache/dom0/KEY/xen, kernel, tools.cpio  ◀── programs, their shared libraries, kernel modules
//	                                     │
//	       DIR/dom0.img  =  tools.cpio + agent.cpio  ◀── go build ./agent
//
// No shell, no udev, nothing of Debian beside Xen's programs: forks are slow under emulation. KEY is a digest over the packages
// and this package's own choice, so that the slow part is done once a machine and again after an update. No root is needed.
package dom0
