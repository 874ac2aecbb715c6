// Package peers runs the tools that 'make bench' compares, each as a user would run it, and measures what they use.
//
//	server (rsync's daemon, nbdkit) ◀══ line ══ client        the clock: from the client's start until the target is synced
//	     ╰───────── processor time, disk reads: what the kernel has added up of the processes that ended
//	     ╰───────── memory: the largest VmHWM, looked at every tenth of a second
//	     ╰───────── wire: the line's own counter, or that of a loopback device in a namespace of their own
//
// One run at a time: the counters are of all children of this process.
package peers
