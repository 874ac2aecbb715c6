// Command scale moves a disk that no machine at hand could hold between two processes, and fails when one of them takes more memory
// than a delegate may. The disk is made up (package synthetic), everything else is the engine's: TLS on loopback, scan, comparison,
// index, records into a journal.
//
//	scale ── starts ──▶ scale (receiver) ◀── TLS ── scale (sender)
package main
