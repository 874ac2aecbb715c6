package replication_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// fault is a call that goes wrong in a pool.
type fault struct {
	sim    *xapisim.Pool
	method string
	after  int
	code   string
}

func (w *world) faults() []fault {
	return []fault{
		{w.simA, "VM.snapshot", 0, "SR_BACKEND_FAILURE_44"},
		{w.simA, "VDI.clone", 1, "SR_BACKEND_FAILURE_109"},
		{w.simA, "VM.start_on", 0, "HOST_NOT_ENOUGH_FREE_MEMORY"},
		{w.simB, "VBD.plug", 1, "INTERNAL_ERROR"},
		{w.simB, "VM.set_blocked_operations", 0, "INTERNAL_ERROR"},
		{w.simB, "VBD.unplug", 1, "INTERNAL_ERROR"},
		{w.simB, "VM.snapshot", 0, "INTERNAL_ERROR"},
		{w.simB, "host.get_servertime", 1, "INTERNAL_ERROR"},
	}
}

// fails runs the request with one fault in it.
func (w *world) fails(f fault, points int) {
	w.Helper()
	source := w.hash()
	remove := f.sim.Fault(xapisim.Rule{Method: f.method, After: f.after, Count: 1, Error: &xapisim.Error{Code: f.code, Params: []string{"", "injected", ""}}})
	defer remove()
	run, err := w.engine.Replicate(w.Context(), w.request)
	if !xapi.IsCode(err, f.code) || run.State != report.StateFailed || run.Error == "" {
		w.Errorf("%s fails: run %s, error %v", f.method, run.State, err)
	}
	w.tidy(points)
	if w.hash() != source {
		w.Errorf("%s fails: the source changed", f.method)
	}
	if w.Failed() {
		w.Fatalf("with %s failing", f.method)
	}
}

func TestFailingFirstRun(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	creating := []fault{
		{w.simB, "VM.create", 0, "INTERNAL_ERROR"},
		{w.simB, "VIF.create", 0, "INTERNAL_ERROR"},
		{w.simB, "VDI.create", 1, "SR_BACKEND_FAILURE_44"},
		{w.simB, "VBD.create", 1, "INTERNAL_ERROR"},
	}
	for _, f := range slices.Concat(creating, w.faults()[3:5]) {
		w.fails(f, 0)
	}
	w.replicate()
	w.equal()
	w.tidy(1)
}

func TestFailingLaterRun(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{5 * mib, 5 * mib}}) // two extents each
	w.replicate()
	generation := w.record().Disks[0].State.Generation
	w.request.Trust = true
	for i, f := range w.faults() {
		w.write(w.simA.VDIPath(w.vm.VDIs[i%2]), int64(i)*100<<10, []byte(f.method))
		w.fails(f, 1)
		for _, d := range w.record().Disks {
			if !d.State.Dirty && d.State.Generation != generation {
				t.Fatalf("%s fails: disk %s is %s", f.method, d.Disk, d.State)
			}
		}
	}
	run := w.replicate()
	// The last one failed at its commit: it is known what it left as it was, the second extent of each disk.
	if run.Disks[0].Mode != report.Trusted || !strings.Contains(run.Disks[0].Cause, "did not commit") {
		t.Errorf("after failed runs: mode %s, cause %q", run.Disks[0].Mode, run.Disks[0].Cause)
	}
	w.equal()
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("after a good run: mode %s (%s)", d.Mode, d.Cause)
	}
	w.equal()
}

// TestSourceTakenBack: what a failed run noted is not what the source holds at the next.
func TestSourceTakenBack(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{12 * mib}})
	first := w.replicate()
	path := w.simA.VDIPath(w.vm.VDIs[0])
	old, err := os.ReadFile(path)
	w.must(err)
	w.request.Trust = true
	w.write(path, 0, []byte("for a while"))
	w.write(path, 9*mib, []byte("for a while"))
	w.fails(fault{w.simB, "VBD.unplug", 0, "INTERNAL_ERROR"}, 1)
	journal, err := w.store.ReadJournal(t.Context(), w.record().ID, "0")
	w.must(err)
	if len(journal.Extents()) != 2 {
		t.Errorf("extents %v were journalled", journal.Extents())
	}
	journal.Close()
	w.write(path, 0, old[:1*mib])
	run := w.replicate()
	w.equal()
	w.write(path, 0, old)
	if root := w.replicate().Disks[0].Root; root != first.Disks[0].Root || run.Disks[0].Root == root {
		t.Errorf("roots %s, %s, %s", first.Disks[0].Root, run.Disks[0].Root, root)
	}
	w.equal()
}

// answersToLose are the calls of a run that change something and may not simply be sent again.
var answersToLose = []string{
	"VM.snapshot", "VM.clone", "VM.create", "VM.provision", "VM.start_on", "VM.destroy", "VM.add_to_other_config",
	"VDI.clone", "VDI.create", "VDI.resize", "VDI.destroy", "VDI.add_to_other_config",
	"VBD.create", "VBD.plug", "VBD.unplug", "VBD.destroy", "VIF.create", "event.inject",
}

// TestLostAnswers: calls are carried out and their answers lost, one of each in each pool. The second run finds a disk that has grown.
func TestLostAnswers(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	for _, sim := range []*xapisim.Pool{w.simA, w.simB} {
		for _, method := range answersToLose {
			sim.Fault(xapisim.Rule{Method: method, Count: 1, CutReply: true})
		}
	}
	w.replicate()
	w.equal()
	w.tidy(1)
	w.grow(0, 6*mib)
	w.replicate()
	w.equal()
	for _, method := range answersToLose {
		if w.simA.Calls(method)+w.simA.Calls("Async."+method)+w.simB.Calls(method)+w.simB.Calls("Async."+method) == 0 {
			t.Errorf("no answer of %s was lost: the run does not call it", method)
		}
	}
}

// TestNoRoomForARestorePoint: the replica is brought up to date, the last restore point stays.
func TestNoRoomForARestorePoint(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	w.simB.Fault(xapisim.Rule{Method: "VM.snapshot", Count: 1, Error: &xapisim.Error{Code: "SR_BACKEND_FAILURE_44", Params: []string{"", "full", ""}}})
	run := w.replicate()
	w.tidy(1)
	if !slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == "no-restore-point" }) {
		t.Errorf("events %v", run.Events)
	}
}

func TestFullTarget(t *testing.T) {
	w := newWorld(t, layout{target: "lvm", capacity: 8 * mib})
	_, err := w.engine.Plan(t.Context(), w.request)
	var infeasible *placement.Infeasible
	if !errors.As(err, &infeasible) {
		t.Errorf("planning for an SR that is too small gave %v", err)
	}
	if run, err := w.engine.Replicate(t.Context(), w.request); !errors.As(err, &infeasible) || run.ID != "" {
		t.Errorf("replicating to it gave %v", err)
	}
	if records, err := w.store.Replicas(t.Context()); err != nil || len(records) != 0 {
		t.Errorf("%d replicas were recorded, %v", len(records), err)
	}
}

// atTransfer calls act once, as soon as something has been written to the replica's first disk.
func (w *world) atTransfer(act func()) {
	path := ""
	w.when(func() bool {
		if path == "" {
			if records, err := w.store.Replicas(w.Context()); err == nil && len(records) == 1 && len(records[0].Disks) > 0 {
				path = w.simB.VDIPath(records[0].Disks[0].TargetVDI)
			}
			return false
		}
		var stat syscall.Stat_t
		return syscall.Stat(path, &stat) == nil && stat.Blocks > 0
	}, act)
}

// when calls act once, as soon as something is so.
func (w *world) when(so func() bool, act func()) {
	ctx, stop := context.WithCancel(w.Context())
	var group sync.WaitGroup
	w.Cleanup(func() { stop(); group.Wait() })
	group.Go(func() {
		for ctx.Err() == nil {
			if so() {
				act()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

func TestCancelInTransfer(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{48 * mib}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.atTransfer(cancel)
	run, err := w.engine.Replicate(ctx, w.request)
	if !errors.Is(err, context.Canceled) || run.State != report.StateCancelled {
		t.Fatalf("the run is %s, %v", run.State, err)
	}
	w.tidy(0)
	if d := w.record().Disks[0]; !d.State.Dirty {
		t.Errorf("the disk is %s", d.State)
	}
	_, vm := w.replicaVM()
	disk, err := xapi.GetByUUID(t.Context(), w.b.API, "VDI", w.record().Disks[0].TargetVDI)
	w.must(err)
	vdi, err := xapi.GetRecord[xapi.VDI](t.Context(), w.b.API, "VDI", disk)
	w.must(err)
	for uuid, config := range map[string]map[string]string{vm.UUID: vm.OtherConfig, vdi.UUID: vdi.OtherConfig} {
		if marker, owner, _ := replica.Read(w.store.Installation().UUID, uuid, config); owner != replica.Ours || marker.State != w.record().Disks[0].State {
			t.Errorf("marker %s: %s, recorded is %s", owner, marker.State, w.record().Disks[0].State)
		}
	}
	if vm.BlockedOperations["clone"] == "" || vm.BlockedOperations["snapshot"] == "" {
		t.Errorf("of a dirty replica is blocked: %v", vm.BlockedOperations)
	}
	w.replicate()
	w.equal()
	w.tidy(1)
	if _, vm := w.replicaVM(); vm.BlockedOperations["clone"] != "" {
		t.Errorf("of a clean replica is blocked: %v", vm.BlockedOperations)
	}
}
