// Package progress shows a run while it lasts: a bar a disk on a terminal, plain lines every few seconds elsewhere.
//
//	replication ──report.Run, a few a second──▶ Display ──┬─ terminal: bars, rewritten in place
//	log ────────────────────lines─────────────▶  (Write)  └─ file, pipe: lines
//
// It computes nothing but rates. What is written to the Display as an io.Writer, such as log lines, appears above the bars.
package progress
