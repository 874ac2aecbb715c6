// Package replica knows how a replica, and every other object of ours in a pool, is recognised, protected and believed.
//
// Three questions, each answered by a pure function over what was read from the pool and from the state database:
//
//	other_config ──▶ Read ────────────▶ is this object ours?            Ownership
//	Evidence ──────▶ Trust ───────────▶ may its content be believed,     Decision
//	                                    and may it be written at all?
//	state ─────────▶ BlockedOperations ▶ what must nobody do with it?
//
// Markers are keys of other_config. Clones, snapshots and reverts copy them, so each marker names the uuid of the object that
// it was written for: on any other object it is a stranger's, who is never written, never collected, only reported
// (xapi-facts §14.2). The keys of a lease (package lease) are no marker: a late call may add one to an object that is nobody's any more.
//
// Trust is a ladder. A cached manifest stands for the replica's content only when every rung holds: the markers and the state
// database agree, the replica has not run, its disks are the same and nobody else held them. A rung that fails costs a scan
// of the replica. Signs that somebody used the replica cost more: it has diverged, and nothing is written to it. One of them is
// found by a look at the storage alone, which costs time and comes when the run begins: data in the active disk over the last
// restore point.
package replica
