// Command xapisim runs one simulated pool until it is told to end, so that any client of the XenAPI can be pointed at it.
//
//	go run ./qemu-tests/cmd/xapisim --hosts 2 --sr nfs:shared --sr ext:local --vm web:8GiB,2GiB
//
// It prints where the pool listens, the user, the password, the SHA-256 of each host's certificate, and what is in the pool; with
// --json as one document, for programs that start it. A line, or the document, means that it is ready. SIGINT and SIGTERM end it
// in order; a folder that it made for the disks goes with it, one that was named with --dir stays. --faults reads rules that
// make calls go wrong (docs/development.md has the format).
//
//	flags ── parse ──▶ xapisim.Config, VMs, rules ──▶ xapisim.New ── printed ──▶ serves until a signal
//
// No world is connected: VMs have the simulator's built-in guests, and a delegate cannot be started. Exit codes: 0 ended by a
// signal; 1 failed; 2 wrong usage.
package main
