// Command abd is the delegate: the program that runs inside the appliance VM and reads and writes disks for the orchestrator.
//
//	abd --guest DIR [--buffered]   as a local process over a guest directory, for tests
//	abd --version
//
// It logs to standard error. Exit codes: 0 ended in an ordered way; 1 it could not work, the cause is on standard error and
// published through the guest; 2 wrong usage.
package main
