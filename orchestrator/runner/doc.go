// Package runner carries jobs out: it finds the VMs that a job means, checks what stands in their way, and has each replicated by
// package replication, several at a time.
//
//	state.Job ─▶ selectors on the source pool as it is now ─▶ VMs ─▶ waiting ─▶ running ─▶ committed
//	                 │                                                │ limits:             failed
//	                 └▶ Findings: chooses nothing, …                  │ VMs at a time       cancelled
//	                                                                  │ free addresses
//	                                                                  └ VMs at each SR
//
// A VM that fails keeps no other from being replicated. The run of a job, and each VM run in it, belong to this process for as long
// as it gives signs of life (state.Store.Keep); a job's run whose process is gone is resumed by the next one that is to run the
// job: the VMs that have not committed go on, each from where its own run was cut.
//
// After a failover Reverse makes the job in the other direction, and Failback has it forget a VM whose work has gone home.
//
// Nothing here touches a pool but to read its inventory.
package runner
