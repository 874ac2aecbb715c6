package replication_test

import (
	"errors"
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

// worksOn checks that the replica's VM does the work as before, and that the former source cannot be started beside it.
func (w *world) worksOn() {
	w.Helper()
	w.isNow(replica.Reversed)
	if _, vm := w.replicaOf(); vm.PowerState != xapi.Running || vm.BlockedOperations["start"] != "" {
		w.Errorf("the replica's VM is %s, blocked %v", vm.PowerState, vm.BlockedOperations)
	}
	if _, vm := w.sourceVM(); vm.PowerState != xapi.Halted || vm.BlockedOperations["start"] == "" {
		w.Errorf("the former source is %s, blocked %v", vm.PowerState, vm.BlockedOperations)
	}
}

// TestFailbackThatFails leads back, whatever fails before the former source was started; and then it can be done. A reverse whose storage
// has no room for what it keeps is a choice.
func TestFailbackThatFails(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	ctx := t.Context()
	w.replicate()
	refused := (*replication.ReverseError)(nil)
	state := (*replica.FailoverError)(nil)
	if _, err := w.reverse(nil); !errors.As(err, &state) {
		t.Errorf("a reverse in standby: %v", err)
	}
	if _, err := w.failsBack(nil); !errors.As(err, &state) {
		t.Errorf("a failback in standby: %v", err)
	}
	w.fallsOver()

	full := &xapisim.Error{Code: "SR_BACKEND_FAILURE_44", Params: []string{"", "full"}}
	w.simA.Fault(xapisim.Rule{Method: "VM.snapshot", Count: 1, Error: full})
	if _, err := w.reverse(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "--no-keep") {
		t.Errorf("without room for what is kept: %v", err)
	}
	w.isNow(replica.Reversing)
	w.suspended()
	x, _ := w.sourceVM() // somebody looks into it meanwhile
	w.must(w.a.API.Call(ctx, "VM.set_blocked_operations", nil, x, map[string]string{}))
	w.must(w.a.API.Run(ctx, "VM.start", nil, x, false, false))
	w.must(w.a.API.Run(ctx, "VM.hard_shutdown", nil, x))
	if _, err := w.reverse(func(r *replication.ReverseRequest) { r.NoKeep = true }); err != nil {
		t.Fatal(err)
	}
	if note := w.isNow(replica.Reversed); note.Kept != "" {
		t.Errorf("kept %s", note.Kept)
	}
	w.onB(0, 2*mib, "on the other side")

	internal := &xapisim.Error{Code: "INTERNAL_ERROR", Params: []string{"injected"}}
	undo := w.simB.Fault(xapisim.Rule{Method: "VM.clean_shutdown", Error: internal})
	run, err := w.failsBack(nil)
	if !xapi.IsCode(err, "INTERNAL_ERROR") || !strings.Contains(err.Error(), "--hard") || run.State != report.StateFailed {
		t.Errorf("without a shutdown: %v", err)
	}
	w.worksOn()
	w.simA.Fault(xapisim.Rule{Method: "VM.start", Count: 1, Error: internal})
	run, err = w.failsBack(func(r *replication.FailbackRequest) { r.Hard = true })
	if !xapi.IsCode(err, "INTERNAL_ERROR") || !slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == "back" }) {
		t.Errorf("without a start: %v, %v", err, run.Events)
	}
	w.worksOn()
	undo()

	w.onB(0, 3*mib, "and on it goes")
	if run, err := w.failsBack(func(r *replication.FailbackRequest) { r.NoStart, r.Hard = true, true }); err != nil {
		t.Fatalf("%v\n%v", err, run.Events)
	}
	w.isNow(replica.Standby)
	w.same()
	_, vm := w.sourceVM()
	if vm.PowerState != xapi.Halted || len(vm.BlockedOperations) != 0 {
		t.Errorf("the former source is %s, blocked %v", vm.PowerState, vm.BlockedOperations)
	}
	w.must(w.a.API.Run(ctx, "VM.start", nil, x, false, false))
	w.replicate()
	w.equal()
}

// TestReverseOfAReplicaThatSomebodyStarted: it counts as failed over when it runs and its source does not. Detached, its former source stays
// its replica for good.
func TestReverseOfAReplicaThatSomebodyStarted(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	ctx := t.Context()
	w.replicate()
	y, _ := w.replicaVM()
	w.startAndHalt()
	held := (*replication.HeldError)(nil)
	if _, err := w.engine.Replicate(ctx, w.request); !errors.As(err, &held) || !strings.Contains(err.Error(), "'understudy job reverse'") {
		t.Errorf("a run of what was used: %v", err)
	}
	if _, err := w.reverse(nil); err == nil || !strings.Contains(err.Error(), "name its VM") {
		t.Errorf("of one that is halted again: %v", err)
	}
	w.isNow(replica.Standby)
	w.must(w.b.API.Run(ctx, "VM.start", nil, y, false, false))
	w.onB(0, 1*mib, "by hand")
	w.reversed()
	forth, request := w.forth(), w.back()
	if forth.Failover.Note.Point != "" {
		t.Errorf("it has a way back: %+v", forth.Failover.Note)
	}

	if _, err := w.engine.Detach(ctx, replication.DetachRequest{Replica: forth.ID, Target: w.b, RemoveRestorePoints: true}); err != nil {
		t.Fatal(err)
	}
	records, err := w.store.Replicas(ctx)
	w.must(err)
	if len(records) != 1 || records[0].ID != forth.Failover.Note.Reverse || records[0].TargetVM != w.vm.UUID || records[0].Failover != (state.Failover{}) {
		t.Fatalf("of both pairs there are %+v", records)
	}
	if run, err := w.engine.Replicate(ctx, request); err != nil || run.Disks[0].Mode != report.Untrusted || run.Replica.UUID != w.vm.UUID {
		t.Errorf("the other way: %+v, %v", run, err)
	}
}

// TestReverseWithoutTheFormerSource: it is gone, a run makes another one, and the failback has the replica follow that.
func TestReverseWithoutTheFormerSource(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	ctx := t.Context()
	w.replicate()
	w.fallsOver()
	x, _ := w.sourceVM()
	w.must(w.a.API.Run(ctx, "VM.destroy", nil, x))
	refused := (*replication.ReverseError)(nil)
	if _, err := w.reverse(nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "name a storage") {
		t.Errorf("without a storage: %v", err)
	}
	run, err := w.reverse(func(r *replication.ReverseRequest) { r.SR = "source" })
	if err != nil || !slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == "source-gone" }) {
		t.Fatalf("reverse: %v, %v", err, run.Events)
	}
	w.isNow(replica.Reversed)
	run, err = w.failsBack(func(r *replication.FailbackRequest) { r.Hard, r.Run.NamePattern = true, "web" })
	if err != nil {
		t.Fatalf("failback: %v\n%v", err, run.Events)
	}
	record := w.record()
	if record.SourceVM == w.vm.UUID || record.Failover.State != "" {
		t.Fatalf("the replica follows VM %s and is %q", record.SourceVM, record.Failover.State)
	}
	w.request.VM = record.SourceVM
	if again := w.replicate(); again.Replica.UUID != record.TargetVM || again.Disks[0].Sent != 0 || again.VM.Name != "web" {
		t.Errorf("the next run: %+v", again)
	}
}
