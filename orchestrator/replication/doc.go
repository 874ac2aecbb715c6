// Package replication carries out the replication of one VM: every disk of it, from a consistent look at both pools to a
// commit of the VM as a whole. It decides and records; the data goes from delegate to delegate or, by the standard method and where no
// delegate can run, through the pools' own export and import (standard.go). With the same means it verifies a
// replica, starts a clone of a restore point to see whether it boots, and tries a delegate out on a scratch disk.
//
//	      inventory ─▶ trust ─▶ placement                      Plan: a value, printed by a dry run
//	                     │
//	source pool          ▼                     target pool
//	 VM ─▶ snapshot ─▶ clones                  replica VM and its disks    recorded before they are made
//	                     │ plug                  │ plug
//	                  delegate ═══ disks ═══▶ delegate                     at most four at a time
//	                     │   ▲                   │
//	       journal, root ▼   │ block digests     ▼ journal, root
//	                   state database: dirty ─▶ journal ─▶ manifest ─▶ clean
//	                                                                │
//	                                            restore point ◀─────┘
//
// What holds at every moment of a run, whatever kills it:
//
//   - The source VM is only snapshotted, and on demand paused for that, which is undone like everything that a run makes (pause.go); the
//     snapshot's disks are read through clones.
//   - By the standard method the same holds, but that nobody has the replica's disks all the while, which is looked after at the commit,
//     and that a run which was cut begins anew.
//   - Before the first byte is written, 'dirty' with the run's generation is durable in the state database and in the
//     markers of the replica and its disks. 'Clean' is written after every disk has been flushed and unplugged, and after the
//     results of both ends, the composed manifest and the roots agree.
//   - Every object is recorded before it is created. Unwinding the record removes whatever is not part of the result; the
//     same record serves the process that recovers after a crash (Engine.Recover).
//   - A run whose line, delegates or process are lost goes on from what is durable, with the snapshot that it had taken, for as
//     long as no host of the target was rebooted since; else everything is read and compared.
//   - The run after one that ended badly relies on what that one had noted to be as before, and reads what it wrote and what is in
//     doubt; see unfinished.go. Without the wish to trust, or where anything speaks against it, everything is read and compared.
//   - The replica VM follows its source's machine, interfaces and drives at every run, before the restore point is made, so that each
//     restore point boots as it was; see setting. What protects it is put back each time.
//   - The newest restore point stays as it is until another one is committed. Where none can be made the last one is kept.
//   - A revert to a restore point that was interrupted is finished by whoever comes next; see revert.go.
//   - Whoever changes a replica has its lease, from before the first change until after the last; see tenure.go and package lease. Once it is lost
//     nothing more is changed, but for the removal of what the run has made. Who takes over from one that did not give it back halts the delegates
//     that hold the replica's disks first. Verifying a replica changes nothing of it and needs none.
//   - What the source's storage says did not change since the generation that the replica's manifest holds is not read, but for a slice of
//     it in turn; a base of that is kept between runs, one for each disk, and bound to the generation: see cbt.go.
//   - A seed, another replica that is looked into for the content of a new disk, is only cloned: see seed.go.
//   - A test starts a clone of a restore point, which no run and no retention touches; see rehearse.go. It goes on beside the replica's runs.
//   - A replica that somebody used, or that is not known to be ours, is not written: *HeldError. Before its disks are plugged they
//     are compared with the last restore point in the pool's own storage (leaf.go), so that writes past every marker are found.
//     An administrator ends the hold: Engine.Resync, Engine.Detach.
//   - A replica does its source's work only by Engine.Failover, whose state suspends every run of it until Engine.UndoFailover or what
//     comes after Engine.CommitFailover; see failover.go.
//   - A VM and the one that does its work never both run: the one that is not to is halted and blocked before the other is started; see
//     reverse.go and failback.go.
//   - Every way round the cheapest path is an event of the report, with its cause.
package replication
