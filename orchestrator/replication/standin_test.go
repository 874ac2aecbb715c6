package replication_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// failover is a failover without the source, as after its loss.
func (w *world) failover() replication.FailoverRequest {
	w.Helper()
	return replication.FailoverRequest{Replica: w.record().ID, Target: w.b}
}

func (w *world) failsOver(request replication.FailoverRequest) report.Run {
	w.Helper()
	run, err := w.engine.Failover(w.Context(), request)
	if err != nil || run.State != report.StateCommitted {
		w.Fatalf("failover is %s: %v\nevents: %v", run.State, err, run.Events)
	}
	return run
}

func (w *world) undo(source *delegate.Pool) report.Run {
	w.Helper()
	run, err := w.engine.UndoFailover(w.Context(), replication.UndoRequest{Replica: w.record().ID, Target: w.b, Source: source})
	if err != nil || run.State != report.StateCommitted {
		w.Fatalf("undo is %s: %v\nevents: %v", run.State, err, run.Events)
	}
	return run
}

// standsIn checks that the replica does the work, and is as it is to be then.
func (w *world) standsIn(now replica.Failover, power xapi.VMPowerState) xapi.VM {
	w.Helper()
	_, vm := w.replicaVM()
	if got := w.record().Failover.State; got != string(now) || vm.PowerState != power {
		w.Errorf("the replica is %s and %s, want %s and %s", got, vm.PowerState, now, power)
	}
	if vm.BlockedOperations["start"] != "" || slices.Contains(vm.Tags, replica.TagLeaveAlone) {
		w.Errorf("it is not let go: blocked %v, tags %v", vm.BlockedOperations, vm.Tags)
	}
	if marker, owner, err := replica.Read(w.store.Installation().UUID, vm.UUID, vm.OtherConfig); owner != replica.Ours || marker.Kind != replica.KindReplica {
		w.Errorf("its marker: %+v (%s), %v", marker, owner, err)
	}
	return vm
}

// standsBy checks that the replica waits, protected, and that no restore point is pinned.
func (w *world) standsBy() {
	w.Helper()
	_, vm := w.replicaVM()
	if f := w.record().Failover; f != (state.Failover{}) || vm.PowerState != xapi.Halted || vm.BlockedOperations["start"] == "" || !slices.Contains(vm.Tags, replica.TagLeaveAlone) {
		w.Errorf("the replica is %+v and %s, blocked %v, tags %v", f, vm.PowerState, vm.BlockedOperations, vm.Tags)
	}
	if pinned := w.pinned(); len(pinned) != 0 {
		w.Errorf("%v are pinned", pinned)
	}
}

func (w *world) pinned() (uuids []string) {
	w.Helper()
	points, err := replication.Points(w.Context(), w.store, w.record().ID, w.b)
	w.must(err)
	for _, p := range points {
		if p.Keep != "" {
			uuids = append(uuids, p.UUID)
		}
	}
	return uuids
}

// works is what the replica's guest does to its disk.
func (w *world) works(content string) {
	w.Helper()
	w.write(w.replicaPath(0), 3*mib, []byte(content))
}

func (w *world) crash(sim *xapisim.Pool, hosts ...int) {
	w.Helper()
	for _, n := range hosts {
		w.must(sim.CrashHost(n))
	}
}

// TestFailoverWithoutTheSource: with the source's pool switched off the replica goes on with the last commit, and nothing but the verbs of
// a failover touches it. After the undo it is its restore point again, byte for byte, and the next run trusts it.
func TestFailoverWithoutTheSource(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{8 * mib, 4 * mib}})
	w.request.Trust = true
	w.replicate()
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 5*mib, []byte("later"))
	w.replicate()
	point := w.points()[0]
	held := w.content(point)
	before := w.record()
	w.crash(w.simA, 1, 0)

	run := w.failsOver(w.failover())
	if run.RestorePoint != point.UUID || len(told(run, "source-unreachable")) != 1 || len(told(run, "reverted")) != 0 {
		t.Errorf("the run: %+v", run)
	}
	vm := w.standsIn(replica.FailedOver, xapi.Running)
	if w.content(vm) != held || w.record().Disks[0] != before.Disks[0] {
		t.Error("it does not work on what was committed last")
	}
	if pinned := w.pinned(); !slices.Equal(pinned, []string{point.UUID}) || w.record().Failover.Note.Since.IsZero() {
		t.Errorf("pinned %v, note %+v", pinned, w.record().Failover.Note)
	}
	w.works("what the replica did")

	w.must(w.simA.BootHost(0))
	w.must(w.simA.BootHost(1))
	w.isSuspended()
	if w.content(vm) == held {
		t.Error("what the replica did is gone")
	}
	run = w.undo(w.a)
	w.isAt(point, held)
	w.standsBy()
	w.tidy(2)
	w.write(w.simA.VDIPath(w.vm.VDIs[1]), 2*mib, []byte("and later"))
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("the next run: mode %s (%s)", d.Mode, d.Cause)
	}
	w.equal()
	w.tidy(3)
	var refused *replica.FailoverError
	if _, err := w.engine.UndoFailover(t.Context(), replication.UndoRequest{Replica: before.ID, Target: w.b}); !errors.As(err, &refused) {
		t.Errorf("an undo of nothing: %v", err)
	}

	// For good.
	w.failsOver(w.failover())
	if _, err := w.engine.CommitFailover(t.Context(), replication.CommitRequest{Replica: before.ID, Target: w.b}); err != nil {
		t.Fatal(err)
	}
	w.standsIn(replica.Committed, xapi.Running)
	if pinned := w.pinned(); len(pinned) != 0 {
		t.Errorf("committed, and %v are pinned", pinned)
	}
	if _, err := w.engine.UndoFailover(t.Context(), replication.UndoRequest{Replica: before.ID, Target: w.b}); !errors.As(err, &refused) {
		t.Errorf("an undo after the commit: %v", err)
	}
	if _, err := w.engine.Detach(t.Context(), replication.DetachRequest{Replica: before.ID, Target: w.b}); err != nil {
		t.Errorf("detach: %v", err)
	}
}

// isSuspended tries all that would write to a replica that has failed over, read it or forget it.
func (w *world) isSuspended() {
	w.Helper()
	id := w.record().ID
	var suspended *replication.SuspendedError
	for what, do := range map[string]func() error{
		"replicate": func() error { _, err := w.engine.Replicate(w.Context(), w.request); return err },
		"verify": func() error {
			_, err := w.engine.Verify(w.Context(), replication.VerifyRequest{Replica: id, Target: w.b})
			return err
		},
		"revert": func() error {
			_, err := w.engine.Revert(w.Context(), replication.RevertRequest{Replica: id, Target: w.b, Point: replication.Newest})
			return err
		},
		"resync": func() error {
			_, err := w.engine.Resync(w.Context(), replication.ResyncRequest{Replica: id, Target: w.b})
			return err
		},
	} {
		if err := do(); !errors.As(err, &suspended) {
			w.Errorf("%s: %v", what, err)
		}
	}
	var refused *replica.FailoverError
	if _, err := w.engine.Failover(w.Context(), w.failover()); !errors.As(err, &refused) {
		w.Errorf("once more: %v", err)
	}
	if all, err := w.engine.Recover(w.Context(), w.a, w.b); err != nil || len(all) != 0 {
		w.Errorf("gc recovered %d runs, %v", len(all), err)
	}
}

// TestFailoverOfADirtyReplica: a run was killed while it wrote. The replica goes back to its last restore point, byte for byte; so it does
// when somebody wrote past every marker, or an older point is chosen. A failover that cannot start stays on its way.
func TestFailoverOfADirtyReplica(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.request.Trust = true
	w.replicate()
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 3*mib, []byte("second"))
	w.replicate()
	points := w.points()
	newer, older := points[0], points[1]
	contents := map[string]string{newer.UUID: w.content(newer), older.UUID: w.content(older)}

	w.write(w.simA.VDIPath(w.vm.VDIs[1]), 2*mib, []byte("half"))
	w.dieAt("after transfer")
	if s := w.record().Disks[0].State; !s.Dirty {
		t.Fatalf("the run that was killed left it %s", s)
	}
	run := w.failsOver(w.failover())
	if vm := w.standsIn(replica.FailedOver, xapi.Running); w.content(vm) != contents[newer.UUID] || run.RestorePoint != newer.UUID {
		t.Errorf("it does not hold its newest restore point: %+v", run)
	}
	w.works("in vain")
	w.undo(nil)
	w.isAt(newer, contents[newer.UUID])

	w.works("somebody's") // no marker tells
	run = w.failsOver(w.failover())
	if vm := w.standsIn(replica.FailedOver, xapi.Running); w.content(vm) != contents[newer.UUID] || len(told(run, "foreign-writes")) != 1 {
		t.Errorf("somebody's writes: %v", run.Events)
	}
	w.undo(nil)

	request := w.failover()
	request.Point, request.Host = older.UUID, "no such host"
	if _, err := w.engine.Failover(t.Context(), request); err == nil || w.record().Failover.State != "" {
		t.Errorf("to a host that there is not: %v, %+v", err, w.record().Failover)
	}
	request.Host = ""
	full := w.simB.Fault(xapisim.Rule{Method: "VM.start", Error: &xapisim.Error{Code: "NO_HOSTS_AVAILABLE"}})
	var failed *replication.StartError
	if run, err := w.engine.Failover(t.Context(), request); !errors.As(err, &failed) || !xapi.IsCode(err, "NO_HOSTS_AVAILABLE") || run.State != report.StateFailed {
		t.Errorf("without a host: %v, run %s", err, run.State)
	}
	w.standsIn(replica.FailingOver, xapi.Halted)
	full()
	request.Point = ""
	w.failsOver(request)
	if vm := w.standsIn(replica.FailedOver, xapi.Running); w.content(vm) != contents[older.UUID] {
		t.Error("it does not hold the restore point that was chosen")
	}
	w.undo(w.a)
	w.isAt(older, contents[older.UUID])
	if _, err := w.engine.Recover(t.Context(), w.a, w.b); err != nil { // what the run that was killed left at its source
		t.Error(err)
	}
	w.tidy(2)
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("the next run: mode %s (%s)", d.Mode, d.Cause)
	}
	w.equal()
}

// TestFailoverBesideItsSource: in one pool, with a source that can be reached. While it runs the failover is refused; afterwards it cannot
// be started until the failover is undone, and blocks of others stay.
func TestFailoverBesideItsSource(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}, onePool: true})
	w.replicate()
	source, _ := w.sourceVM()
	w.setVM(w.a.API, source, "add_to_blocked_operations", "resume", "ask Ann")
	w.must(w.a.API.Run(t.Context(), "VM.start", nil, source, false, false))
	request := w.failover()
	request.Source = w.a
	var runs *replication.SourceRunsError
	if _, err := w.engine.Failover(t.Context(), request); !errors.As(err, &runs) || len(runs.MACs) != len(w.macs()) || !strings.Contains(err.Error(), w.macs()[0]) {
		t.Errorf("beside a running source: %v", err)
	}
	w.standsBy()
	w.must(w.a.API.Run(t.Context(), "VM.hard_shutdown", nil, source))
	request.NoStart = true
	w.failsOver(request)
	w.standsIn(replica.FailedOver, xapi.Halted)
	if err := w.a.API.Run(t.Context(), "VM.start", nil, source, false, false); !xapi.IsCode(err, "OPERATION_BLOCKED") || !strings.Contains(err.Error(), "failed over") {
		t.Errorf("the source beside its replica: %v", err)
	}
	ref, _ := w.replicaVM()
	w.must(w.b.API.Run(t.Context(), "VM.start", nil, ref, false, false))
	w.undo(w.a)
	w.standsBy()
	if _, vm := w.sourceVM(); len(vm.BlockedOperations) != 1 || vm.BlockedOperations["resume"] != "ask Ann" || vm.PowerState != xapi.Halted {
		t.Errorf("the source is %s, blocked %v", vm.PowerState, vm.BlockedOperations)
	}
	w.replicate()
	w.equal()

	// By force; the source is blocked for the time after its shutdown.
	w.must(w.a.API.Run(t.Context(), "VM.start", nil, source, false, false))
	request.NoStart, request.Force = false, true
	if run := w.failsOver(request); len(told(run, "source-runs")) != 1 {
		t.Errorf("by force: %v", run.Events)
	}
	w.undo(w.a)

	// What must not fail over.
	begun, err := w.store.BeginRun(t.Context(), w.record().ID, state.RunVerify, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	w.must(err)
	if _, err := w.engine.Failover(t.Context(), request); !errors.Is(err, state.ErrBusy) {
		t.Errorf("beside a run: %v", err)
	}
	begun.Report.State, begun.Report.Finished = report.StateFailed, begun.Report.Started
	w.must(w.store.SaveReport(t.Context(), begun.Report))
	w.setVM(w.b.API, ref, "set_blocked_operations", map[string]string{})
	w.must(w.b.API.Run(t.Context(), "VM.start", nil, ref, false, false))
	var held *replication.HeldError
	if _, err := w.engine.Failover(t.Context(), request); !errors.As(err, &held) || !held.Diverged {
		t.Errorf("of a replica that somebody started: %v", err)
	}
}

// TestFailoverWithoutARestorePoint: it is refused unless that is wanted; an undo has the next run scan the replica.
func TestFailoverWithoutARestorePoint(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	full := w.simB.Fault(xapisim.Rule{Method: "VM.snapshot", Error: &xapisim.Error{Code: "SR_BACKEND_FAILURE_44", Params: []string{"", "full", ""}}})
	w.request.Trust = true
	w.replicate()
	full()
	request := w.failover()
	if _, err := w.engine.Failover(t.Context(), request); !errors.Is(err, replication.ErrNoWayBack) {
		t.Errorf("without a way back: %v", err)
	}
	w.standsBy()
	request.NoUndo = true
	w.failsOver(request)
	w.equal()
	w.works("what nobody wants")
	w.undo(nil)
	w.standsBy()
	if d := w.replicate().Disks[0]; d.Mode != report.Untrusted {
		t.Errorf("the next run: mode %s (%s)", d.Mode, d.Cause)
	}
	w.equal()
	w.tidy(1)
}

// macs are the addresses of the replica.
func (w *world) macs() (macs []string) {
	w.Helper()
	_, vm := w.replicaVM()
	for _, ref := range vm.VIFs {
		vif, err := xapi.GetRecord[xapi.VIF](w.Context(), w.b.API, "VIF", ref)
		w.must(err)
		macs = append(macs, vif.MAC)
	}
	return macs
}
