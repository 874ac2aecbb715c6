// Command understudy-demo shows the main job on one machine, without a hypervisor and without root: a VM is replicated between two
// simulated pools, three times, by the same engine that 'understudy replicate' drives and by real delegates: cmd/abd as a process or,
// with --world qemu, the built image of the appliance, imported into both pools and booted by QEMU.
//
//	mkfs.ext4 -d ─▶ disks of VM 'web' ─▶ run 1: push, first copy
//	debugfs -w ───▶ add, edit, delete, move ─▶ run 2: push, trusted
//	debugfs -w ───▶ and again ─▶ run 3: pull ─▶ replica = source, byte for byte? ─▶ table, new files read from the replica
//
// What a simulated pool lacks is the hypervisor alone: API, disks, delegates, TLS and the comparison are real. In the qemu world
// so are firmware, kernel, network and hot-plug.
//
// With --story failback it tells another story, by the orchestrator's own commands and their output: a job, its runs, a failover, the way
// back by the reverse job, and a failback; then both VMs are compared. See failback.go.
//
//	understudy-demo [--world process|qemu] [--story runs|failback] [--keep DIR] [--disk-size 4GiB] [--json]
//
// With --keep DIR the disks of the last run stay, as sparse raw files, and DIR/demo.json names them. Exit codes: 0 the replica is
// equal; 1 it is not, or something failed; 2 wrong usage; 130 interrupted.
package main
