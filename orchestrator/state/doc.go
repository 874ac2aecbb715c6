// Package state keeps everything that the orchestrator must remember: who it is, the pools it knows, its replicas and what
// is believed of their content, its runs and what they made, journals and manifests.
//
// All of it lives in one directory:
//
//	STATE/understudy.db                            SQLite: rows, small and transactional
//	STATE/understudy.lock                          held while the schema is brought up to date
//	STATE/manifests/<replica>/<disk>.<generation>  manifests and deltas: large, immutable once named in the database
//	STATE/manifests/<replica>/<disk>.journal       new block digests of runs that have not committed
//
// A file counts only once a row names it, and a row is written only after its file is durable, so that a crash leaves
// files too many, never rows that point to nothing. Those files are removed when the disk's next manifest is stored.
//
//	run ──SetDirty──▶ ┌────────┐   before the first byte is written to a target
//	    ──Journal───▶ │        │   file first (fsync), then its length and watermark
//	    ──manifest──▶ │  db    │   file first (fsync, rename), then
//	    ──SetClean──▶ │        │   one transaction for all disks of the VM
//	                  └────────┘
//
// 'Dirty' has to be durable before anything is written, hence WAL with synchronous=FULL: a transaction that returned
// survives a loss of power.
//
// Several processes may have one directory open. A run belongs to the process that began it (Owner); what changes a run, or
// the replica that it works on, is refused to others with ErrNotOwner, and a replica has at most one unfinished run, as has a job.
// That this database is a copy of another one in use it cannot know; package lease sees to it.
// The owner gives signs of life and looks for the wish to cancel (Keep). When it is dead, or silent for LeaseTime on another host,
// its run can be taken over: by a run that goes on in its place, or by package saga, which cleans up after it.
//
//	owner ──beat every 5 s──▶ ┌─────┐ ◀──CancelRun── anybody
//	      ◀─cancel, ≤ 1 s──── │ row │ ◀──TakeOver─── the next process, 30 s after the last beat
//	                          └─────┘
//
// Passwords and keys are encrypted with an age identity that is kept outside the directory (Secrets): a copy of the
// directory alone reveals none of them.
package state
