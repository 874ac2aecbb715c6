// Package inventory gives one consistent view of a pool: hosts, storage, VMs, disks and networks as they were
// at one moment, with the look-ups that planning needs.
//
// A run decides many things from many records. Were they read one by one while it decides, it would see a disk
// that its VM no longer has. So Load reads them all once, and what changed during the reading is brought up to
// date from the pool's own change log:
//
//	event.inject → token ──┐
//	get_all_records × n ───┼─▶ tables ──▶ apply ──▶ counts equal? ──▶ Pool
//	event.from(token) ─────┴────────────────┘            │ no: again
//
// A Pool is a value: it does not follow the pool afterwards, and nothing here changes anything but the one
// harmless event that Load injects to learn where the log stands (xapi-facts §4).
package inventory
