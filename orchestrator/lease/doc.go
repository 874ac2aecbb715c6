// Package lease sees to it that of several orchestrators at most one at a time works on a replica. They may share nothing but the
// pool that the replica lies in: a state folder restored from a backup may run beside the original.
//
// The lease is a log in the replica VM's other_config. Each entry is a key of its own, and the entry with the highest number counts:
//
//	understudy:lease.7 = <until, by the pool's clock> <token> <run> <process>     held
//	understudy:lease.8 = released <token> <run> <process>                         free
//
// Whatever is done to the lease is one more entry, and an entry is added by add_to_other_config alone, which fails when the key is
// there (MAP_DUPLICATE_KEY): of all who read n as the highest number, one adds n+1.
//
//	take     highest n is free, was not renewed in time, or its holder is known to be dead ─▶ add n+1
//	renew    n is mine                                                                     ─▶ add n+1, with a later time
//	release  n is mine                                                                     ─▶ add n+1, released
//	         then the entries below one's own are removed; the highest never is
//
// # Why there are never two holders
//
// Any call may be executed late, after its sender has given up, and any answer may be lost.
//
//   - The highest number only grows, for only entries below another one are removed, and a removal that is executed late finds the
//     number below the highest all the more. So an entry is never replaced by another of its number while it is the highest.
//   - Whoever adds n+1 reads the log again, and has the lease when n+1 is the highest and bears his token, which is drawn anew
//     for each taking. What was not answered is decided by the same look: MAP_DUPLICATE_KEY with my own token means that I have it.
//     An entry that is added late, when others have come and gone and its number was free again, is not the highest: its sender sees that.
//   - When n+1 is the highest right after it was added, nobody else had built upon n: n was as its adder had read it.
//   - The holder of an entry counts its time from a moment before he read the pool's clock for it, and stops after Time less a margin;
//     the entry is valid until Time after what the clock showed. So he has stopped when it may be taken, whatever delays there
//     were between. The margin covers that the pool tells whole seconds, steps of its clock, and the cancelling of what delegates do.
//   - He renews in good time. A renewal whose answer is lost counts for nothing until he has seen it in the log; it is repeated with
//     the same entry. One that is executed after the entry before it ran out either comes first, and then the other one sees it, or
//     finds the key taken.
//   - A dead holder's last call may come late. It finds the key taken, or takes it, which the successor sees and adds the next.
//
// What a clock cannot give away: a taker who sees an entry unchanged for all of Time by his own clock takes it, too. A pool whose clock
// was set back, or that fails over to a host with another time, does not lock its replicas for longer than that.
//
// # What the log cannot decide, and what does
//
// A holder that does not run (SIGSTOP, its VM paused) cannot stop what its delegates do, and wakes up without knowing. Guard has it look
// at the time before each call that changes something; a call that it has sent before may still be executed. Therefore who takes over an
// entry that was not released (Lease.Former) halts the former holder's delegates before he writes, and looks whether somebody else
// holds the disks. A pool's clock that is set forward by more than the margin has the same effect, and the same remedy.
//
// The log can be set back from outside: VM.revert brings back the other_config of the snapshot, a coordinator that crashes may lose its last
// writes, a tool may write the whole map. The holder finds out with his next renewal, goes on counting from his own number, and has lost the
// lease when somebody else took it meanwhile. Who reverts the VM himself says so before (SetBack), and renews before he changes
// anything else.
//
// Clones and snapshots copy the entries. Nobody reads them there, since a lease is only looked for at a VM that names itself; Clear removes them.
package lease
