package replication_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestResyncAndDetachThatFail: what was cut short leaves the replica held, and is done when it is repeated.
func TestResyncAndDetachThatFail(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	vm, _ := w.replicaVM()
	record := w.record()
	resync := replication.ResyncRequest{Replica: record.ID, Target: w.b}
	if run, err := w.engine.Resync(t.Context(), resync); !errors.Is(err, replication.ErrNotDiverged) || run.State != report.StateFailed {
		t.Errorf("resync of a replica that nobody used is %s, %v", run.State, err)
	}
	w.must(w.b.API.Call(t.Context(), "VM.set_blocked_operations", nil, vm, map[string]string{"destroy": "mine"}))
	w.must(w.b.API.Run(t.Context(), "VM.start", nil, vm, false, false))
	w.must(w.b.API.Run(t.Context(), "VM.hard_shutdown", nil, vm))
	fault := func(method string) {
		w.simB.Fault(xapisim.Rule{Method: method, Count: 1, Error: &xapisim.Error{Code: "INTERNAL_ERROR", Params: []string{"injected"}}})
	}
	for _, method := range []string{"VM.snapshot", "VM.set_name_label"} {
		fault(method)
		if run, err := w.engine.Resync(t.Context(), resync); !xapi.IsCode(err, "INTERNAL_ERROR") || run.State != report.StateFailed {
			t.Errorf("resync with %s failing is %s, %v", method, run.State, err)
		}
		if d := w.details(); d.Standing != replication.StandingDiverged || len(d.Kept) != 0 {
			t.Errorf("after that it is %s, and %d snapshots are kept", d.Standing, len(d.Kept))
		}
	}
	w.resync()

	fault("VM.remove_tags")
	detach := replication.DetachRequest{Replica: record.ID, Target: w.b}
	if run, err := w.engine.Detach(t.Context(), detach); !xapi.IsCode(err, "INTERNAL_ERROR") || run.State != report.StateFailed {
		t.Errorf("detach that fails is %s, %v", run.State, err)
	}
	run, err := w.engine.Detach(t.Context(), detach)
	if err != nil || run.State != report.StateCommitted {
		t.Fatalf("detach is %s, %v", run.State, err)
	}
	if _, err := w.store.Replica(t.Context(), record.ID); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("the record is still there: %v", err)
	}
	if stored, err := w.store.Run(t.Context(), run.ID); err != nil || stored.Report.State != report.StateCommitted || stored.Kind != state.RunDetach {
		t.Errorf("the run is recorded as %+v, %v", stored, err)
	}
	w.isOfItsOwn(record.TargetVM)

	w.replicate()
	w.equal()
	if again := w.record(); again.TargetVM == record.TargetVM || again.ID == record.ID {
		t.Errorf("replica %s has VM %s, as before", again.ID, again.TargetVM)
	}
}

// isOfItsOwn checks that nothing of a VM with its disks and its snapshots, of which there are two, says that it was a replica.
func (w *world) isOfItsOwn(uuid string) {
	w.Helper()
	ref, err := xapi.GetByUUID(w.Context(), w.b.API, "VM", uuid)
	w.must(err)
	vms, err := xapi.AllRecords[xapi.VM](w.Context(), w.b.API, "VM")
	w.must(err)
	vdis, err := xapi.AllRecords[xapi.VDI](w.Context(), w.b.API, "VDI")
	w.must(err)
	vbds, err := xapi.AllRecords[xapi.VBD](w.Context(), w.b.API, "VBD")
	w.must(err)
	marked := func(otherConfig map[string]string) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(otherConfig)), func(key string) bool { return strings.HasPrefix(key, "understudy:") })
	}
	snapshots := 0
	for at, vm := range vms {
		if at != ref && vm.SnapshotOf != ref {
			continue
		}
		if at != ref {
			snapshots++
		} else if len(vm.BlockedOperations) != 1 || vm.BlockedOperations["destroy"] != "mine" {
			w.Errorf("VM %s blocks %v", vm.NameLabel, vm.BlockedOperations)
		}
		if marked(vm.OtherConfig) || slices.Contains(vm.Tags, replica.TagLeaveAlone) {
			w.Errorf("VM %s has %v, tags %v", vm.NameLabel, vm.OtherConfig, vm.Tags)
		}
		for _, vbd := range vbds {
			if vbd.VM == at && marked(vdis[vbd.VDI].OtherConfig) {
				w.Errorf("the disk of VM %s has %v", vm.NameLabel, vdis[vbd.VDI].OtherConfig)
			}
		}
	}
	if snapshots != 2 {
		w.Errorf("%d snapshots are left, want the restore point and what was kept", snapshots)
	}
}

// TestForget: a replica whose pool is lost can be named as before, and is forgotten without a call to the pool, even in the middle of a dead
// process's run.
func TestForget(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	record := w.record()
	w.dieAt("after mark dirty")
	calls := maps.Clone(w.simB.AllCalls())
	all, err := replication.Replicas(t.Context(), w.store)
	w.must(err)
	if len(all) != 1 || all[0].VM.Name != "web" || all[0].Replica.Name != "web (replica)" || all[0].Replica.Pool != "b" {
		t.Errorf("with no pool to ask the replicas are %+v", all)
	}
	run, err := w.engine.Forget(t.Context(), record.ID, w.a)
	w.must(err)
	if now := w.simB.AllCalls(); !maps.Equal(now, calls) {
		t.Errorf("the lost pool was asked: %v, before %v", now, calls)
	}
	if !slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == "left-behind" }) {
		t.Errorf("what the dead run left in the lost pool is not told: %+v", run.Events)
	}
	if _, err := w.store.Replica(t.Context(), record.ID); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("the record is still there: %v", err)
	}
}
