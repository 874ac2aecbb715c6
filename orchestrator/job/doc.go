// Package job says what a job is: a standing order to keep replicas of some VMs. It holds values alone, which are stored, shown,
// edited and checked; package runner carries jobs out.
//
//	Definition ── Selectors ─▶ VMs of the source pool, resolved anew at each run
//	           ── Target    ─▶ pool, SR (by disk if wanted), networks, names
//	           ── Options   ─▶ how each VM run goes
//
// Pools, repositories and networks are kept as the administrator gave them, by name or uuid, but for the two pools, which are kept
// by uuid: a pool that is renamed is still the same.
package job
