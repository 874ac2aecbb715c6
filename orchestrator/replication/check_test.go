package replication_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// interrupted is an API with somebody else who gets in before a call of the run.
type interrupted struct {
	xapi.API
	before func(method string, args []any)
}

func (i interrupted) Call(ctx context.Context, method string, result any, args ...any) error {
	i.before(method, args)
	return i.API.Call(ctx, method, result, args...)
}

func (i interrupted) Run(ctx context.Context, method string, result *string, args ...any) error {
	i.before(method, args)
	return i.API.Run(ctx, method, result, args...)
}

// interrupt has act called once, before the target pool gets the first call of a method, or the first with this argument. It must
// be one that the engine makes in the caller's goroutine, since act may end the test.
func (w *world) interrupt(method string, first any, act func()) {
	var once sync.Once
	target := *w.b
	target.API = interrupted{API: w.b.API, before: func(called string, args []any) {
		if called == method && (first == nil || args[0] == first) {
			once.Do(act)
		}
	}}
	w.request.Target = &target
}

// detached takes the replica's disks off its VM, and gives their uuids.
func (w *world) detached() (vm xapi.Ref, disks []string) {
	w.Helper()
	vm, record := w.replicaVM()
	for _, vbd := range record.VBDs {
		w.must(w.b.API.Call(w.Context(), "VBD.destroy", nil, vbd))
	}
	for _, d := range w.record().Disks {
		disks = append(disks, d.TargetVDI)
	}
	return vm, disks
}

func hasEvent(run report.Run, cause string) bool {
	return slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == cause })
}

// TestStartedInTheCommit: somebody starts the replica after the delegate has let go of its disks.
func TestStartedInTheCommit(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	vm, _ := w.replicaVM()
	w.interrupt("VM.snapshot", vm, func() {
		w.must(w.b.API.Call(t.Context(), "VM.set_blocked_operations", nil, vm, map[string]string{}))
		w.must(w.b.API.Run(t.Context(), "VM.start", nil, vm, false, false))
		w.must(w.b.API.Run(t.Context(), "VM.hard_shutdown", nil, vm))
	})
	run, err := w.engine.Replicate(t.Context(), w.request)
	var held *replication.HeldError
	if !errors.As(err, &held) || !held.Diverged || held.VM != w.record().TargetVM || run.State != report.StateFailed {
		t.Errorf("the run is %s, %v", run.State, err)
	}
	if d := w.record().Disks[0]; !d.State.Dirty {
		t.Errorf("the disk is %s", d.State)
	}
	w.tidy(1)
	w.isHeld(replica.RungPower, replication.StandingDiverged)
}

// TestCommitTime: it is taken while the delegate holds the replica's disks, so that every start comes after it.
func TestCommitTime(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	holders := 0
	target := *w.b
	target.API = interrupted{API: w.b.API, before: func(called string, _ []any) {
		if called != "host.get_servertime" || len(w.record().Disks) == 0 { // before there is a disk it is that of the lease
			return
		}
		disk, err := xapi.GetByUUID(t.Context(), w.b.API, "VDI", w.record().Disks[0].TargetVDI)
		w.must(err)
		vdi, err := xapi.GetRecord[xapi.VDI](t.Context(), w.b.API, "VDI", disk)
		w.must(err)
		holders = len(vdi.VBDs)
	}}
	w.request.Target = &target
	w.replicate()
	if holders != 2 {
		t.Errorf("%d VBDs hold the disk, want the replica's and the delegate's", holders)
	}
}

// TestTrustLostWhileTheRunBegan: what the plan stood on is gone when the disks are plugged.
func TestTrustLostWhileTheRunBegan(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{8 * mib}})
	w.replicate()
	w.request.Trust = true
	w.interrupt("VDI.get_virtual_size", nil, func() {
		disk, err := xapi.GetByUUID(t.Context(), w.b.API, "VDI", w.record().Disks[0].TargetVDI)
		w.must(err)
		w.must(xapi.SetOtherConfigKey(t.Context(), w.b.API, "VDI", disk, "understudy:state", "clean:00112233445566778899aabbccddeeff"))
	})
	run := w.replicate()
	w.equal()
	if d := run.Disks[0]; d.Mode != report.Untrusted || d.Rung != string(replica.RungDiskMarkers) || d.Untested != "" || !hasEvent(run, "trust-lost") {
		t.Errorf("mode %s at rung %s, events %v", d.Mode, d.Rung, run.Events)
	}
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("the run after that: mode %s (%s)", d.Mode, d.Cause)
	}
}

// TestWriterWhileTheRunBegan: another VM takes a disk after the plan.
func TestWriterWhileTheRunBegan(t *testing.T) {
	for name, first := range map[string]bool{"new disk": true, "old disk": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, layout{sizes: []int64{4 * mib}})
			before := "VBD.create" // of the new disk, which is recorded by then
			if !first {
				before = "VDI.get_virtual_size"
				w.replicate()
			}
			other, err := w.simB.AddVM(xapisim.VMConfig{Name: "other"})
			w.must(err)
			w.interrupt(before, nil, func() { w.attach(w.b.API, xapi.Ref(other.Ref), w.record().Disks[0].TargetVDI, "0") })
			_, err = w.engine.Replicate(t.Context(), w.request)
			var held *replication.HeldError
			if first && !errors.Is(err, replication.ErrChanged) || !first && (!errors.As(err, &held) || held.Rung != string(replica.RungWriters)) {
				t.Errorf("got %v", err)
			}
			if d := w.record().Disks[0]; d.State.Dirty {
				t.Errorf("the disk is %s: it was about to be written", d.State)
			}
		})
	}
}

// TestAnotherRunCameBetween: it committed between the look at the pools and the beginning of this run.
func TestAnotherRunCameBetween(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	snapshots := w.simA.Calls("Async.VM.snapshot")
	run, err := w.engine.ReplicateWith(t.Context(), w.request, func() { w.replicate() })
	if !errors.Is(err, replication.ErrChanged) || run.State != report.StateFailed || w.simA.Calls("Async.VM.snapshot") != snapshots+1 {
		t.Errorf("the run is %s, %v", run.State, err)
	}
	w.equal()
	w.tidy(2)
}

// TestExchangedDisksAreHeld: both bear our markers, and neither is the one of its position.
func TestExchangedDisksAreHeld(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.replicate()
	vm, disks := w.detached()
	w.attach(w.b.API, vm, disks[0], "1")
	w.attach(w.b.API, vm, disks[1], "0")
	w.isHeld(replica.RungOwnership, replication.StandingStranger)
}

// TestReplicaOfAnotherVMIsHeld: the VM that the record names is marked as the copy of another.
func TestReplicaOfAnotherVMIsHeld(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	vm, _ := w.replicaVM()
	w.must(xapi.SetOtherConfigKey(t.Context(), w.b.API, "VM", vm, "understudy:source", "00112233-4455-4677-8899-aabbccddeeff"))
	w.isHeld(replica.RungOwnership, replication.StandingStranger)
}

// TestStrangerInPlaceOfARemovedDisk: the source loses a disk, and somebody has put one of his own in its place on the replica.
func TestStrangerInPlaceOfARemovedDisk(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.replicate()
	other, err := w.simB.AddVM(xapisim.VMConfig{Name: "other", Disks: []xapisim.DiskConfig{{Size: 4 * mib, SR: "target"}}})
	w.must(err)
	vm, disks := w.detached()
	w.attach(w.b.API, vm, disks[0], "0")
	w.attach(w.b.API, vm, other.VDIs[0], "1")
	source, err := xapi.GetByUUID(t.Context(), w.a.API, "VDI", w.vm.VDIs[1])
	w.must(err)
	var vbds []xapi.Ref
	w.must(w.a.API.Call(t.Context(), "VDI.get_VBDs", &vbds, source))
	w.must(w.a.API.Call(t.Context(), "VBD.destroy", nil, vbds[0]))
	run := w.replicate()
	if _, record := w.replicaVM(); len(record.VBDs) != 2 || !hasEvent(run, "foreign-disk") {
		t.Errorf("the replica has %d disks, events %v", len(record.VBDs), run.Events)
	}
	if n := len(w.record().Disks); n != 1 {
		t.Errorf("%d disks are recorded", n)
	}
}

// TestRestorePointWithoutADisk: somebody takes a disk off the replica just before its snapshot.
func TestRestorePointWithoutADisk(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.replicate()
	vm, record := w.replicaVM()
	w.interrupt("VM.snapshot", vm, func() { w.must(w.b.API.Call(t.Context(), "VBD.destroy", nil, record.VBDs[0])) })
	run, err := w.engine.Replicate(t.Context(), w.request)
	if err == nil || !strings.Contains(err.Error(), "0 copies of disk") || run.State != report.StateFailed {
		t.Errorf("the run is %s, %v", run.State, err)
	}
	w.replicate() // puts the disk back
	w.equal()
	w.tidy(2)
}

// TestGrownDiskOfARunThatFailed: the size was recorded, the manifest is of the old one.
func TestGrownDiskOfARunThatFailed(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{6 * mib}})
	w.replicate()
	w.request.Trust = true
	source, err := xapi.GetByUUID(t.Context(), w.a.API, "VDI", w.vm.VDIs[0])
	w.must(err)
	w.must(w.a.API.Run(t.Context(), "VDI.resize", nil, source, int64(14*mib)))
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 13*mib, []byte("grown"))
	w.fails(fault{w.simB, "VM.start_on", 0, "HOST_NOT_ENOUGH_FREE_MEMORY"}, 1)
	if d := w.record().Disks[0]; d.State.Dirty || d.LogicalSize != 14*mib {
		t.Fatalf("the disk is %s, of %d bytes", d.State, d.LogicalSize)
	}
	run := w.replicate()
	w.equal()
	if d := run.Disks[0]; d.Mode != report.Untrusted || d.Rung != string(replica.RungDisks) {
		t.Errorf("mode %s at rung %s", d.Mode, d.Rung)
	}
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("the run after that: mode %s (%s)", d.Mode, d.Cause)
	}
}

// TestPruneComesLast: a restore point that is slow to remove keeps no delegate waiting.
func TestPruneComesLast(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.engine.Retention = 1
	w.replicate()
	vm, record := w.replicaVM()
	pruned := false
	w.interrupt("VM.destroy", record.Snapshots[0], func() {
		pruned = true
		vms, err := xapi.AllRecords[xapi.VM](t.Context(), w.b.API, "VM")
		w.must(err)
		for ref, found := range vms {
			if marker, _, _ := replica.Read(w.store.Installation().UUID, found.UUID, found.OtherConfig); ref != vm && marker.Kind == replica.KindDelegate {
				t.Errorf("delegate %s is still there", found.NameLabel)
			}
		}
	})
	w.replicate()
	if !pruned {
		t.Error("nothing was pruned")
	}
	w.tidy(1)
}
