// Command bench is 'make bench': it measures the engine and the tools that Debian has for the same job, side by side, on the same disks
// and over the same lines, and holds the results against the budgets.
//
//	dataset ─▶ workloads ─┐
//	                      ├─ round by round: each tool once ─▶ rows ─▶ medians ─▶ report
//	peers ───▶ tools ─────┘   (target prepared, caches dropped)
//
// A round runs every tool of a case once, in another order each time, so that a machine whose speed drifts changes them all alike. The first run of each tool is proved
// by comparing the disks. It is no test: a missed budget is shown as such and the exit status is 0; only what could not be measured
// makes it fail. It builds the understudy program and measures it as a user would, with 'understudy bench'.
package main
