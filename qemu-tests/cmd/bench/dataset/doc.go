// Package dataset makes the disks that 'make bench' measures on: real file systems, and what may have happened to them since the
// last replication. No part of it needs root.
//
//	files of this machine ┐
//	a database, a film    ├─mke2fs -d─▶ base.raw ──debugfs: film copied, then removed──▶ moved.raw
//	                      ┘                │
//	                       Workload.Prepare: target.raw = source, then the old content of what shall differ
//
// A run leaves the target equal to the source, so that preparing the next one costs only the writes that make them differ. Images are
// written whole, holes too: a disk of a thick storage repository has none, and reading holes measures nothing. The content written is
// a function of the seed, of the size, and of the machine's files.
package dataset
