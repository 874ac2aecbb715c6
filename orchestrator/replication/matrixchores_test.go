package replication_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// pauses kills runs that pause the source: it goes on by gc and by the next run, and one that its administrator paused does not.
func (m *matrix) pauses() {
	m.runs()
	points := len(m.points())
	paused := consistencyVariable + "=" + string(report.ConsistencyPaused)
	borders := []string{"after a: VM.pause 1", "after a: VM.snapshot 1", "after a: VM.unpause 1"}
	if *wholeMatrix {
		borders = append(borders, "before pause", "before a: VM.pause 1", "after pause", "before a: VM.snapshot 1", "before unpause", "before a: VM.unpause 1", "after unpause")
	}
	for i, border := range borders {
		m.dieAt(border, paused)
		then := "gc"
		if i == 1 {
			then = "again"
			m.replicate()
			points = min(points+1, replication.DefaultRetention)
		} else {
			m.recover()
		}
		if power := m.power(); power != xapi.Running {
			m.Errorf("the source is %s", power)
		}
		m.tidy(points)
		when, step, _ := strings.Cut(border, " ")
		m.tell("paused", when, step, then, rolledBack)
	}
	m.must(m.a.API.Run(m.Context(), "VM.pause", nil, m.vm.Ref))
	m.dieAt("after a: VM.snapshot 1", paused)
	m.recover()
	if power := m.power(); power != xapi.Paused {
		m.Errorf("its administrator had paused the source, and it is %s", power)
	}
	m.must(m.a.API.Run(m.Context(), "VM.hard_shutdown", nil, m.vm.Ref))
}

// diverge has somebody start the replica, and halt it again.
func (m *matrix) diverge() {
	m.Helper()
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // pools tell whole seconds, and the last start was accepted
	ref, _ := m.replicaVM()
	m.must(m.b.API.Call(m.Context(), "VM.set_blocked_operations", nil, ref, map[string]string{}))
	m.must(m.b.API.Run(m.Context(), "VM.start", nil, ref, false, false))
	m.must(m.b.API.Run(m.Context(), "VM.hard_shutdown", nil, ref))
}

// copies kills runs whose successor knows nothing of them: an orchestrator on a copy of the state folder. It waits for the lease, and halts the
// delegates that are left. What else the dead run made is for its own state folder to remove.
func (m *matrix) copies() {
	successor := m.copied(shortLease)
	borders := []string{"after mark dirty"}
	if *wholeMatrix {
		borders = []string{"after take the lease", "after prepare the target", "after spawn", "after mark dirty", "before commit", "after commit", "before clean up"}
	}
	for _, border := range borders {
		m.change()
		m.dieAt(border, leaseVariable+"="+shortLease.String())
		m.change()
		if run := successor.replicate(); !hasEvent(run, "lease-taken-over") {
			m.Errorf("%s: events %v", border, run.Events)
		}
		successor.equal()
		m.recover()
		successor.equal()
		m.tidy(len(m.points()))
		m.tidyLeases()
		when, step, _ := strings.Cut(border, " ")
		m.tell("copied", when, step, "copy", tookOver)
	}
	m.engine.SetLeaseTime(0)
	m.replicate()
	m.equal()
}

// resyncs kills resyncs: either the hold is still there and another one lifts it, or it is lifted. What the replica held is kept.
func (m *matrix) resyncs() {
	chore := choreVariable + "=" + string(state.RunResync)
	m.diverge()
	m.each("resync", m.borders(chore), func(border string, gc bool) string {
		m.replicate()
		m.removeSnapshots(m.b.API, m.snapshots(m.b.API, replica.KindDiverged))
		m.change()
		m.diverge()
		_, vm := m.replicaVM()
		held := m.content(vm)
		m.dieAt(border, chore)
		if gc {
			m.recover()
		}
		outcome := committed
		if m.details().Standing == replication.StandingDiverged {
			outcome = rolledBack
			m.resync()
		}
		if _, err := m.engine.Resync(m.Context(), replication.ResyncRequest{Replica: m.record().ID, Target: m.b}); !errors.Is(err, replication.ErrNotDiverged) {
			m.Errorf("once more: %v", err)
		}
		kept := m.snapshots(m.b.API, replica.KindDiverged)
		if len(kept) == 0 {
			m.Error("what the replica held is not kept")
		}
		for _, snapshot := range kept {
			if m.content(snapshot) != held {
				m.Error("what is kept is not what the replica held")
			}
		}
		m.replicate()
		m.equal()
		m.tidy(replication.DefaultRetention)
		return outcome
	})
	m.removeSnapshots(m.b.API, m.snapshots(m.b.API, replica.KindDiverged))
}

// detaches kills detaches, which are done when they are repeated.
func (m *matrix) detaches() {
	chore := choreVariable + "=" + string(state.RunDetach)
	listed := m.borders(chore)
	m.each("detach", listed, func(border string, gc bool) string {
		m.replicate()
		record := m.record()
		m.dieAt(border, chore)
		if gc {
			m.recover()
		}
		outcome := committed
		if run, err := m.engine.Detach(m.Context(), replication.DetachRequest{Replica: record.ID, Target: m.b, RemoveRestorePoints: true}); err == nil {
			outcome = rolledBack
			if run.State != report.StateCommitted {
				m.Errorf("repeated it is %s", run.State)
			}
		} else if !errors.Is(err, state.ErrNotFound) {
			m.Errorf("repeated: %v", err)
		}
		m.recover()
		m.nothingMarked()
		if got := m.simB.VDIPath(record.Disks[0].TargetVDI); got == "" {
			m.Error("the VM lost its disk")
		}
		return outcome
	})
}

// nothingMarked checks that but the delegate's template nothing in the target pool says that it is ours.
func (m *matrix) nothingMarked() {
	m.Helper()
	vms, err := xapi.AllRecords[xapi.VM](m.Context(), m.b.API, "VM")
	m.must(err)
	for _, vm := range vms {
		if !vm.IsATemplate && slices.ContainsFunc(slices.Collect(maps.Keys(vm.OtherConfig)), func(key string) bool { return strings.HasPrefix(key, "understudy:") }) {
			m.Errorf("VM %s has %v", vm.NameLabel, vm.OtherConfig)
		}
	}
	m.tidy(0)
}

// snapshots are those of a pool that are ours, of a kind.
func (m *matrix) snapshots(api xapi.API, kind replica.Kind) map[xapi.Ref]xapi.VM {
	m.Helper()
	vms, err := xapi.AllRecords[xapi.VM](m.Context(), api, "VM")
	m.must(err)
	maps.DeleteFunc(vms, func(_ xapi.Ref, vm xapi.VM) bool {
		marker, owner, _ := replica.Read(m.store.Installation().UUID, vm.UUID, vm.OtherConfig)
		return owner != replica.Ours || marker.Kind != kind
	})
	return vms
}

// removeSnapshots is what an administrator does by hand.
func (m *matrix) removeSnapshots(api xapi.API, snapshots map[xapi.Ref]xapi.VM) {
	m.Helper()
	for ref, vm := range snapshots {
		for _, at := range vm.VBDs {
			vbd, err := xapi.GetRecord[xapi.VBD](m.Context(), api, "VBD", at)
			m.must(err)
			if vbd.Type == xapi.TypeDisk {
				m.must(api.Run(m.Context(), "VDI.destroy", nil, vbd.VDI))
			}
		}
		m.must(api.Run(m.Context(), "VM.destroy", nil, ref))
	}
}
