// Package report is what 'make bench' leaves behind: rows, their medians, the table that a person reads, and two plots.
//
//	rows of every repetition ─▶ Median ─▶ results.json        one row a case and tool
//	                                  ├─▶ results.md          ratios to the limit and to each peer, ✓ or ✗
//	                                  └─▶ throughput.svg, wire.svg
//
// A ratio is our wall time divided by the other tool's. A missed budget is a plain ✗ in the table, never left out.
package report
