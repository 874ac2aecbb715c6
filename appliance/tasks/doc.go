// Package tasks runs what the orchestrator orders: scans, sends, receives and copies, each one transfer.
//
//	           Post                                     Connect (data connections, by token)
//	             │                                          │
//	             ▼                                          ▼
//	control ─▶ task: digests known? ─▶ slot, memory ─▶ disks ─▶ peers ─▶ package transfer ─▶ status
//	             ▲                                                        │          │
//	PUT known, ──┴──▶ table ─────────── Extents ─────────────────────────▶│          │
//	PUT blocks ─────▶ baseline ◀─ Prefetch, Blocks ───────────────────────┘          ▼
//	GET journal ◀───────────────────────────────────────────── journal (bounded) ◀─ RecordFunc
//
// A task gets a slot before it looks for its peers, so that no one is kept waiting who could work. Two delegates whose slots wait
// for each other would hang; therefore every wait for a peer is bounded, and the orchestrator starts both ends of a disk together
// and at most control.MaxTransfers disks on one delegate.
//
// A transfer whose connection was cut keeps its slot and its disks, meets its peer again and goes on from the last acknowledgement, until
// the specification's window has passed.
//
// Everything is in memory and bounded: transfers share a fixed budget of buffers, digests sent by the orchestrator are reserved
// when a task is posted, a journal holds maxUnacknowledged records and then stops its transfer, and of tasks that ended the newest
// few are kept.
package tasks
