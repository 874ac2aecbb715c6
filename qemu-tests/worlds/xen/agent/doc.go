// Command agent is PID 1 of the dom0 in which the Xen world's guests live: all of its user space beside Xen's own tools.
//
//	Xen ── dom0's kernel ── agent ──┬── xenstored, xenconsoled        started once
//	                                ├── xl create, block-attach, …    what the world asks for (package wire)
//	                                │     └── agent as vif-bridge, block    xl's hotplug scripts, told apart by their names
//	                                ├── XenStore's socket             vm-data in; watches on what the guests publish
//	                                └── /var/log/xen/console          what they print
//
// Domains are built as xapi builds them where the guest can see it: the directories that it may write (xapi-facts §7.3), vm-data
// before it runs, a rewrite of vm-data that takes its write access (§7.2), control/shutdown (§7.7). A domain that has shut down
// stays until what it published last has been read.
//
// The kernel of a PV or PVH guest is taken from its own first disk: the agent mounts the FAT file system there and reads
// what GRUB would load out of GRUB itself.
package main
