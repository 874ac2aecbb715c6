// Package boot is what the delegate's program does because it is PID 1 of its machine, before and around its work.
//
//	kernel ──▶ /init ──▶ Init: mounts ▶ console ▶ modules ▶ watchdog ──▶ Machine
//
//	Machine.Run(work) ── ctx ──▶ work ── returns or panics ──▶ PowerOff(cause): sync, last line, watchdog off, reboot(2)
//	        │             ▲
//	        │             └── ends with a cause: signal · memory short · main loop stands still
//	        └── reaps orphans, kicks the watchdog while the main loop beats
//
//	kernel (clean shutdown under Xen) ──▶ /sbin/poweroff, the same program ── SIGPWR ──▶ PID 1, or reboot(2) if that does not help
//
// The machine has no disk of its own, no log-in and no other program: what it has to say stands on its consoles, and whatever
// goes wrong ends in a power-off that names the cause. An end that was asked for and does not happen is forced. What no program can
// do any more – the kernel's own panic, out of memory with only PID 1 to kill – is left to the kernel (kernel.panic, set by Init)
// and to the watchdog.
//
// Kernel modules are loaded from /etc/modules (one name a line) by the kernel's own dependency list, with their parameters from
// the kernel's command line (module.parameter=value), as modprobe would; u-root's kmodule would drop those of dependencies. What is
// built into the kernel takes its parameters by itself.
//
// The image must hold /dev/console and /dev/null: the Go runtime opens them before any code of ours runs.
package boot
