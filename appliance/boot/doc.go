// Package boot is what the delegate's program does because it is PID 1 of its machine, before and around its work, and how the work
// is a process of its own.
//
//	kernel ──▶ /init ──▶ Init: mounts ▶ console ▶ modules ▶ watchdog ──▶ Machine
//
//	PID 1: Machine.Run                                             its child, the same program: Worker.Run(work)
//	  │ ── fork, exec ───────────────────────────────────────────▶  OpenWorker
//	  │ ── channel: end (cause) · trim ──────────────────────────▶  ctx of the work ends · memory is given back
//	  │ ◀─────────────────────────────── channel: beat · off (cause) ── Beat · PowerOff, after the guest has published
//	  │ ◀──────── standard error: log lines, what the runtime says of a panic ── Console
//	  │ ◀─ exit status
//	  ├── ends the worker: signal · memory short · main loop stands still; kills it after a while
//	  ├── reaps orphans, kicks the watchdog while the worker beats
//	  └── PowerOff(cause): sync, last line, watchdog off, reboot(2); first Publish, if the worker died without a cause
//
//	kernel (clean shutdown under Xen) ──▶ /sbin/poweroff, the same program ── SIGPWR ──▶ PID 1, or reboot(2) if that does not help
//
// The machine has no disk of its own, no log-in and no other program: what it has to say stands on its consoles, and whatever
// goes wrong ends in a power-off that names the cause, on the console and to the pool. A panic that nobody recovers, a fatal error of
// the Go runtime and the kernel's want of memory end a process, and nothing in it can say so: therefore the work has its own, which
// the kernel kills first, and PID 1, small and with little to do, outlives it. An end that was asked for and does not happen is
// forced. What no program can do any more – the kernel's own panic – is left to the kernel (kernel.panic, set by Init) and to the
// watchdog.
//
// Kernel modules are loaded from /etc/modules (one name a line) by the kernel's own dependency list, with their parameters from
// the kernel's command line (module.parameter=value), as modprobe would; u-root's kmodule would drop those of dependencies. What is
// built into the kernel takes its parameters by itself.
//
// The image must hold /dev/console and /dev/null: the Go runtime opens them before any code of ours runs.
package boot
