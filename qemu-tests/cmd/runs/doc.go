// Command runs tells how long a run of a VM takes from its beginning to its end, and where the time goes: in the pools, whose
// answers everything waits for, or in the delegates.
//
//	a VM with one disk ─▶ first copy ─▶ 1 % changed ─▶ a run, in each of the ways that there are
//
// The pools are simulated and answer at once, the delegates are processes on this machine: what a real pool takes for a snapshot, a
// clone, a boot and a hot-plug comes on top, and the table says how many calls of it a run makes.
package main
