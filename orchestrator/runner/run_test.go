package runner_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/runner"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

func failing(err error) func(context.Context, string) (*delegate.Pool, error) {
	return func(context.Context, string) (*delegate.Pool, error) { return nil, err }
}

func record(got *replication.Request) func(context.Context, replication.Request) error {
	return func(_ context.Context, request replication.Request) error {
		*got = request
		return nil
	}
}

func names(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("vm-%d", i))
	}
	return all
}

// TestAJobReplicates runs a job for real: two VMs of one pool, at a time, and once more, when their replicas lie beside them.
func TestAJobReplicates(t *testing.T) {
	w := newWorld(t, 19, "web", "db")
	w.runner.Engine = nil
	var seen []report.JobRun
	w.runner.Observe = func(run report.JobRun) { seen = append(seen, run) }
	vmRuns := map[string]bool{}
	w.runner.ObserveVM = func(run report.Run) { vmRuns[run.ID] = true }
	for range 2 {
		run := w.run(report.StateCommitted, runner.RunOptions{})
		if want := map[string]report.State{"web": report.StateCommitted, "db": report.StateCommitted}; !maps.Equal(states(run), want) {
			t.Errorf("VMs %v", states(run))
		}
		runs, err := w.store.RunsOf(t.Context(), run.ID)
		w.must(err)
		var ids []string
		for _, r := range runs {
			ids = append(ids, r.Report.ID)
			if r.Report.State != report.StateCommitted || !vmRuns[r.Report.ID] {
				t.Errorf("VM run %+v", r.Report)
			}
		}
		for _, vm := range run.VMs {
			if !slices.Contains(ids, vm.Run) {
				t.Errorf("VM %s has the run %q, those of the job's are %v", vm.VM.Name, vm.Run, ids)
			}
		}
	}
	if len(seen) == 0 || seen[len(seen)-1].State != report.StateCommitted {
		t.Errorf("%d reports were shown", len(seen))
	}
}

func TestOneFailureStopsNoOther(t *testing.T) {
	w := newWorld(t, 39, names(4)...)
	broken := errors.New("the storage is broken")
	w.fake.do = func(_ context.Context, request replication.Request) error {
		if request.VM == w.vms["vm-0"] {
			return broken
		}
		return nil
	}
	run := w.run(report.StateFailed, runner.RunOptions{})
	if run.VMs[0].State != report.StateFailed || run.VMs[0].Error != broken.Error() || len(run.Uncommitted()) != 1 {
		t.Errorf("VMs %+v", run.VMs)
	}
	w.fake.do, w.fake.begun = nil, nil
	again := w.run(report.StateCommitted, runner.RunOptions{Only: run.Uncommitted()})
	if len(again.VMs) != 1 || !slices.Equal(w.fake.begun, run.Uncommitted()) {
		t.Errorf("tried again: %+v", again.VMs)
	}
	gone := w.run(report.StateFailed, runner.RunOptions{Only: []string{w.vms["vm-1"], "gone"}})
	if !slices.Equal(codes(gone.Findings), []string{runner.CodeNotChosen}) || len(gone.VMs) != 1 || gone.VMs[0].State != report.StateCommitted {
		t.Errorf("with a VM that the job does not mean: %+v", gone)
	}
	w.must(w.store.EnableJob(t.Context(), w.job.ID, false))
	if run, err := w.runner.Run(t.Context(), w.job, runner.RunOptions{}); !errors.Is(err, state.ErrDisabled) || run.ID != "" {
		t.Errorf("a disabled job: %+v, %v", run, err)
	}
}

// TestLimits has many VMs, of which as many are at work at a time as the job, the storage and the addresses allow.
func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name           string
		parallel, last int // of the addresses, from 10 on
		held           int // of them by another run
		want           int
	}{
		{"default", 0, 39, 0, 2},
		{"job", 3, 39, 0, 3},
		{"storage", 8, 39, 0, 4},
		{"addresses", 8, 14, 2, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.last, names(7)...)
			w.change(func(d *job.Definition) { d.Options.Parallel = c.parallel })
			other := w.hold(c.held)
			w.fake.together(c.want)
			run := w.run(report.StateCommitted, runner.RunOptions{})
			if w.fake.most != c.want || len(run.VMs) != 7 {
				t.Errorf("%d VMs were at work at a time, want %d", w.fake.most, c.want)
			}
			if other != nil {
				other()
			}
		})
	}
}

// hold has another run hold addresses, and gives what has it give them back.
func (w *world) hold(n int) (release func()) {
	w.Helper()
	begun, err := w.store.BeginRun(w.Context(), "", state.RunTest, report.Run{VM: report.VM{PoolUUID: w.uuid}})
	w.must(err)
	var all []netip.Prefix
	for a := netip.MustParseAddr("127.77.0.10"); len(all) < n; a = a.Next() {
		all = append(all, netip.PrefixFrom(a, 8))
	}
	for range n {
		_, err := w.store.Lease(w.Context(), w.uuid, begun.Report.ID, slices.Values(all))
		w.must(err)
	}
	return func() {
		if err := w.store.ReleaseRun(context.Background(), begun.Report.ID); err != nil {
			w.Error(err)
		}
	}
}

// TestWaitingForAddresses has all addresses held by others, and then an engine that finds none although there seemed to be.
func TestWaitingForAddresses(t *testing.T) {
	w := newWorld(t, 11, "web")
	release := w.hold(2)
	tries := 0
	w.fake.do = func(context.Context, replication.Request) error {
		if tries++; tries == 1 {
			return fmt.Errorf("spawning: %w", state.ErrNoAddress)
		}
		return nil
	}
	waited := 0
	w.runner.Observe = func(run report.JobRun) {
		if len(run.VMs) == 1 && run.VMs[0].State == report.StateWaiting {
			if waited++; waited == 1 {
				release()
			}
		}
	}
	w.run(report.StateCommitted, runner.RunOptions{})
	if tries != 2 || waited != 2 {
		t.Errorf("tried %d times, waited %d times", tries, waited)
	}

	w.runner.Observe, w.runner.AddressWait, tries = nil, time.Nanosecond, 0
	run := w.run(report.StateFailed, runner.RunOptions{})
	if tries != 1 || run.VMs[0].Error == "" {
		t.Errorf("tried %d times: %+v", tries, run)
	}
}

func TestCancel(t *testing.T) {
	w := newWorld(t, 39, names(3)...)
	w.change(func(d *job.Definition) { d.Options.Parallel = 1 })
	w.fake.do = func(ctx context.Context, request replication.Request) error {
		if request.VM == w.vms["vm-0"] {
			return nil
		}
		if err := w.store.CancelRun(context.Background(), request.JobRun); err != nil {
			return err
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	run, err := w.runner.Run(t.Context(), w.job, runner.RunOptions{})
	if !errors.Is(err, state.ErrCancelled) || run.State != report.StateCancelled {
		t.Errorf("the job's run is %s: %v", run.State, err)
	}
	want := map[string]report.State{"vm-0": report.StateCommitted, "vm-1": report.StateCancelled, "vm-2": report.StateCancelled}
	if !maps.Equal(states(run), want) || len(w.fake.begun) != 2 {
		t.Errorf("VMs %v", states(run))
	}
}

// TestResume has the run of a process on another host go on once that may be taken for dead.
func TestResume(t *testing.T) {
	w := newWorld(t, 39, names(5)...)
	vm := func(i int, s report.State) report.JobVM {
		name := fmt.Sprintf("vm-%d", i)
		return report.JobVM{VM: report.VM{UUID: w.vms[name], Name: name, PoolUUID: w.uuid}, State: s}
	}
	begun, err := w.store.BeginJobRun(t.Context(), w.job.ID, report.JobRun{JobName: "nightly", VMs: []report.JobVM{
		vm(0, report.StateCommitted), vm(1, report.StateRunning), vm(2, report.StateFailed), vm(3, report.StateRunning)}})
	w.must(err)
	record, err := w.store.CreateReplica(t.Context(), state.Replica{SourcePool: w.uuid, SourceVM: w.vms["vm-3"], TargetPool: w.uuid, TargetSR: "sr"})
	w.must(err)
	committed, err := w.store.BeginRun(t.Context(), record.ID, state.RunReplicate, report.Run{ // the process died before it noted the end
		JobRun: begun.ID, VM: vm(3, "").VM, Direction: report.Push, Trust: report.TrustVerify})
	w.must(err)
	committed.Report.State, committed.Report.Finished = report.StateCommitted, time.Now()
	w.must(w.store.SaveReport(t.Context(), committed.Report))
	if _, err := w.runner.Run(t.Context(), w.job, runner.RunOptions{}); !errors.Is(err, state.ErrBusy) {
		t.Errorf("beside a run of this very process: %v", err)
	}
	w.must(statetest.GiveAway(t.Context(), w.dir, statetest.Elsewhere))
	if _, err := w.runner.Run(t.Context(), w.job, runner.RunOptions{}); !errors.Is(err, state.ErrBusy) {
		t.Errorf("beside a process elsewhere: %v", err)
	}
	w.store.SetClock(func() time.Time { return time.Now().Add(state.LeaseTime) })
	run := w.run(report.StateCommitted, runner.RunOptions{})
	slices.Sort(w.fake.begun)
	want := []string{w.vms["vm-1"], w.vms["vm-2"]}
	slices.Sort(want)
	if run.ID != begun.ID || len(run.VMs) != 4 || !slices.Equal(w.fake.begun, want) || run.VMs[3].Run != committed.Report.ID {
		t.Errorf("resumed: %+v, replicated %v", run, w.fake.begun)
	}
	if !slices.Equal(codes(run.Findings), []string{runner.CodeResumed}) {
		t.Errorf("findings %+v", run.Findings)
	}
}

// TestResumeBeforeAnythingWasChosen: the process died while it looked at the pools.
func TestResumeBeforeAnythingWasChosen(t *testing.T) {
	w := newWorld(t, 39, "web")
	begun, err := w.store.BeginJobRun(t.Context(), w.job.ID, report.JobRun{JobName: "nightly"})
	w.must(err)
	dead := w.store.Owner()
	dead.Start += "0"
	w.must(statetest.GiveAway(t.Context(), w.dir, dead))
	if run := w.run(report.StateCommitted, runner.RunOptions{}); run.ID != begun.ID || len(run.VMs) != 1 {
		t.Errorf("resumed: %+v", run)
	}
}

// TestASuspendedVMIsLeftOut: of a VM whose replica has failed over no run is a failure, and no check finds fault with it.
func TestASuspendedVMIsLeftOut(t *testing.T) {
	w := newWorld(t, 10, "web", "db")
	suspended := func(vm string) error {
		if vm != w.vms["web"] {
			return nil
		}
		return fmt.Errorf("as of web: %w", &replication.SuspendedError{Replica: "r", State: replica.FailedOver})
	}
	w.fake.plan = suspended
	w.fake.do = func(_ context.Context, request replication.Request) error { return suspended(request.VM) }
	run := w.run(report.StateCommitted, runner.RunOptions{})
	if want := map[string]report.State{"web": report.StateSuspended, "db": report.StateCommitted}; !maps.Equal(states(run), want) {
		t.Errorf("VMs %v", states(run))
	}
	for _, vm := range run.VMs {
		if vm.State == report.StateSuspended && vm.Error != "the replica r is failed-over, and its runs are suspended; what can be done about it is undo or commit or reverse" {
			t.Errorf("it says %q", vm.Error)
		}
	}
	check, err := w.runner.Check(t.Context(), w.job)
	w.must(err)
	found := 0
	for _, vm := range check.VMs {
		found += len(vm.Findings)
		if report.Errors(vm.Findings) {
			t.Errorf("findings %v", vm.Findings)
		}
	}
	if found != 1 {
		t.Errorf("%d findings", found)
	}
}

// TestRequestFor: a planned failover replicates as the job of the replica does, and without one as nobody said anything.
func TestRequestFor(t *testing.T) {
	w := newWorld(t, 10, "web", "db")
	w.change(func(d *job.Definition) {
		d.VMs, d.Networks = []job.Selector{{Pattern: "web"}}, map[string]string{"lan": "other lan"}
		d.Options.Trust = true
	})
	srs, err := xapi.AllRecords[xapi.SR](t.Context(), w.pool.API, "SR")
	w.must(err)
	record := state.Replica{SourcePool: w.uuid, TargetPool: w.uuid}
	for _, sr := range srs {
		if sr.NameLabel == "target" {
			record.TargetSR = sr.UUID
		}
	}
	for name, of := range map[string]bool{"web": true, "db": false} {
		record.SourceVM = w.vms[name]
		request, err := w.runner.RequestFor(t.Context(), record)
		w.must(err)
		if request.VM != record.SourceVM || request.Trust != of || (len(request.NetworkMap) == 1) != of || !request.OverwriteTarget || request.Direction != report.Push {
			t.Errorf("for %s: %+v", name, request)
		}
		if wanted := map[bool]string{true: "target", false: record.TargetSR}[of]; request.SR != wanted {
			t.Errorf("for %s: SR %s", name, request.SR)
		}
	}
}
