// Command abd is the delegate: the program that runs inside the appliance VM and reads and writes disks for the orchestrator.
//
//	/init                          as PID 1 of the appliance VM: boots it, starts the worker, and powers it off
//	abd-worker                     by this name, for PID 1 alone: serves
//	/sbin/poweroff                 by this name, for the kernel: has PID 1 end in an ordered way
//	abd --guest DIR [--buffered] [--peer-wait TIME]
//	                               as a local process over a guest directory, for tests
//	abd --version
//
// PID 1 and its worker log to the consoles, others to standard error. Exit codes: 0 ended in an ordered way; 1 it could not work, the
// cause is on standard error and published through the guest; 2 wrong usage.
package main
