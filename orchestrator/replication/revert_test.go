package replication_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// revert takes the replica back, which must succeed.
func (w *world) revert(point string) report.Run {
	w.Helper()
	run, err := w.engine.Revert(w.Context(), replication.RevertRequest{Replica: w.record().ID, Target: w.b, Point: point})
	if err != nil {
		w.Fatalf("revert: %v\nevents: %v", err, run.Events)
	}
	return run
}

// isAt checks that the replica is a standby copy that holds, and says that it holds, what a restore point does.
func (w *world) isAt(point xapi.VM, content string) {
	w.Helper()
	marker, _, err := replica.Read(w.store.Installation().UUID, point.UUID, point.OtherConfig)
	w.must(err)
	_, vm := w.replicaVM()
	if got := w.content(vm); got != content {
		w.Errorf("the replica does not hold what restore point %s does", point.UUID)
	}
	own, owner, err := replica.Read(w.store.Installation().UUID, vm.UUID, vm.OtherConfig)
	if owner != replica.Ours || own.State != marker.State || own.Kind != replica.KindReplica || err != nil {
		w.Errorf("the replica is marked %+v (%s, %v), want %s", own, owner, err, marker.State)
	}
	for _, d := range w.record().Disks {
		if d.State != marker.State {
			w.Errorf("disk %s is recorded as %s, want %s", d.Disk, d.State, marker.State)
		}
	}
	if vm.BlockedOperations["start"] == "" || vm.BlockedOperations["clone"] != "" || vm.OtherConfig["auto_poweron"] != "" || vm.HARestartPriority != "" {
		w.Errorf("blocked %v, other_config %v, HA %q", vm.BlockedOperations, vm.OtherConfig, vm.HARestartPriority)
	}
}

// TestRevert: to an older restore point, whose machine differs and that has a disk less, then forward again; each time the next run
// trusts what it finds, and sends what differs.
func TestRevert(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{8 * mib, 4 * mib}})
	w.request.Trust = true
	w.replicate()
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 5*mib, []byte("later"))
	source, _ := w.sourceVM()
	w.setVM(w.a.API, source, "set_memory_limits", int64(256*mib), int64(512*mib), int64(512*mib), int64(512*mib))
	w.grow(1, 6*mib)
	w.replicate()
	points := w.points()
	newer, older := points[0], points[1]
	contents := map[string]string{newer.UUID: w.content(newer), older.UUID: w.content(older)}
	ref, _ := w.replicaVM()
	w.setVM(w.b.API, ref, "set_name_label", "called otherwise")
	w.setVM(w.b.API, ref, "add_to_blocked_operations", "destroy", "ask Ann")
	before := w.record()

	run := w.revert(older.UUID)
	w.isAt(older, contents[older.UUID])
	if run.State != report.StateCommitted || run.RestorePoint != older.UUID || run.Phases == nil {
		t.Errorf("the run: %+v", run)
	}
	_, vm := w.replicaVM()
	if vm.MemoryStaticMax == 512*mib || vm.NameLabel != "called otherwise" || vm.BlockedOperations["destroy"] != "ask Ann" {
		t.Errorf("memory %d, name %q, blocked %v", vm.MemoryStaticMax, vm.NameLabel, vm.BlockedOperations)
	}
	now := w.record()
	if now.Disks[0].TargetVDI == before.Disks[0].TargetVDI || now.Disks[1].LogicalSize != 4*mib || !now.LastCommit.After(before.LastCommit.Add(-1)) {
		t.Errorf("recorded: %+v", now)
	}
	listed, err := replication.Points(t.Context(), w.store, now.ID, w.b)
	if err != nil || len(listed) != 2 || !listed[1].Current || listed[0].Current || !listed[0].Manifest || !listed[1].Manifest {
		t.Errorf("listed: %+v, %v", listed, err)
	}
	w.tidy(2)

	w.simB.Fault(xapisim.Rule{Method: "VM.revert", Count: 1, CutReply: true})
	w.revert(newer.NameLabel)
	w.isAt(newer, contents[newer.UUID])
	w.revert(now.Disks[0].State.Generation.String()[:8])
	w.isAt(older, contents[older.UUID])

	next := w.replicate()
	w.equal()
	if d := next.Disks[0]; d.Mode != report.Trusted || d.Sent == 0 || d.Sent > 128<<10 || d.ReadTarget > mib {
		t.Errorf("the next run: mode %s (%s), %d bytes sent, %d read of the target", d.Mode, d.Cause, d.Sent, d.ReadTarget)
	}
	if d := w.replicate().Disks[1]; d.Mode != report.Trusted {
		t.Errorf("the run after: mode %s (%s)", d.Mode, d.Cause)
	}
	w.tidy(3)
	for _, p := range w.points() {
		if content, known := contents[p.UUID]; known && w.content(p) != content {
			t.Errorf("restore point %s changed", p.UUID)
		}
	}
	w.revertIsRefused(points)
}

// revertIsRefused tries what must not be done; nothing is touched.
func (w *world) revertIsRefused(points []xapi.VM) {
	before := w.record()
	ref, vm := w.replicaVM()
	content := w.content(vm)
	try := func(point string) error {
		_, err := w.engine.Revert(w.Context(), replication.RevertRequest{Replica: before.ID, Target: w.b, Point: point})
		return err
	}
	refused := func(what, cause string, err error) {
		var failure *replication.RevertError
		if !errors.As(err, &failure) || !strings.Contains(err.Error(), cause) {
			w.Errorf("%s: %v", what, err)
		}
	}
	refused("a point that there is not", "0 of its 3", try("nothing"))
	w.setVM(w.b.API, ref, "add_to_blocked_operations", "revert", "ask Bob")
	refused("with a block of somebody else", "ask Bob", try(replication.Newest))
	w.setVM(w.b.API, ref, "remove_from_blocked_operations", "revert")

	var sr, vdi, vbd xapi.Ref
	w.must(w.b.API.Call(w.Context(), "SR.get_by_uuid", &sr, before.TargetSR))
	w.must(w.b.API.Call(w.Context(), "VDI.create", &vdi, map[string]any{
		"name_label": "Ann's", "name_description": "", "SR": sr, "virtual_size": int64(mib), "type": "user", "sharable": false,
		"read_only": false, "other_config": map[string]string{}, "tags": []string{}, "xenstore_data": map[string]string{}, "sm_config": map[string]string{},
	}))
	w.must(w.b.API.Call(w.Context(), "VBD.create", &vbd, map[string]any{
		"VM": ref, "VDI": vdi, "userdevice": "9", "bootable": false, "mode": "RW", "type": "Disk", "empty": false,
		"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	}))
	refused("with a disk of somebody else", "not ours", try(points[0].UUID))
	w.must(w.b.API.Call(w.Context(), "VBD.destroy", nil, vbd))

	blocked := vm.BlockedOperations
	w.setVM(w.b.API, ref, "set_blocked_operations", map[string]string{})
	w.must(w.b.API.Call(w.Context(), "VM.start", nil, ref, false, false))
	var held *replication.HeldError
	if err := try(replication.Newest); !errors.As(err, &held) || !held.Diverged {
		w.Errorf("of a running replica: %v", err)
	}
	w.must(w.b.API.Call(w.Context(), "VM.hard_shutdown", nil, ref))
	w.setVM(w.b.API, ref, "set_blocked_operations", blocked)
	if err := try(replication.Newest); !errors.As(err, &held) {
		w.Errorf("of a replica that was used: %v", err)
	}
	if _, vm = w.replicaVM(); w.content(vm) != content || w.record().Disks[0] != before.Disks[0] {
		w.Error("the replica was touched")
	}
}

// TestRevertAfterAFailedRun: what it left behind is gone, and no scan is needed.
func TestRevertAfterAFailedRun(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	point := w.points()[0]
	content := w.content(point)
	w.request.Trust = true
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 2*mib, []byte("half"))
	w.fails(fault{w.simB, "VBD.unplug", 0, "INTERNAL_ERROR"}, 1)
	if !w.record().Disks[0].State.Dirty {
		t.Fatal("the failed run wrote nothing")
	}
	// A revert that the pool refuses leaves the replica dirty, and the next run goes on from there.
	remove := w.simB.Fault(xapisim.Rule{Method: "VM.revert", Count: 1, Error: &xapisim.Error{Code: "SR_BACKEND_FAILURE_44", Params: []string{"", "full", ""}}})
	run, err := w.engine.Revert(t.Context(), replication.RevertRequest{Replica: w.record().ID, Target: w.b, Point: replication.Newest})
	if !xapi.IsCode(err, "SR_BACKEND_FAILURE_44") || run.State != report.StateFailed || !w.record().Disks[0].State.Dirty {
		t.Errorf("a full SR gave %v, run %s", err, run.State)
	}
	remove()
	if d := w.replicate().Disks[0]; d.Mode != report.Untrusted {
		t.Errorf("mode %s after a revert that failed", d.Mode)
	}
	w.equal()
	w.fails(fault{w.simB, "VBD.unplug", 0, "INTERNAL_ERROR"}, 2)
	w.revert(point.UUID)
	w.isAt(point, content)
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("mode %s (%s)", d.Mode, d.Cause)
	}
	w.equal()
}

// TestRevertKilledAnywhere kills the orchestrator's process while it makes a call. Recovery, or the next run, finishes the revert.
func TestRevertKilledAnywhere(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.request.Trust = true
	w.replicate()
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 3*mib, []byte("later"))
	w.replicate()
	points := w.points()
	contents := []string{w.content(points[0]), w.content(points[1])}
	moments := []struct {
		method string
		after  int
	}{
		{"VM.add_to_other_config", 1}, // after that of the lease: dirty is recorded, and the marker has no state
		{"VM.revert", 0},
		{"host.get_servertime", 1},          // of the lease, which the revert has set back
		{"VDI.add_to_other_config", 0},      // a disk bears half a marker
		{"VDI.remove_from_other_config", 2}, // it bears no kind
		{"VDI.add_to_other_config", 5},
		{"VM.set_blocked_operations", 1},
	}
	for i, m := range moments {
		to := 1 - i%2 // back and forth
		w.killAt(w.simB, m.method, m.after, revertVariable+"="+points[to].UUID)
		if i == len(moments)-1 {
			break // left to the next run
		}
		if _, err := w.engine.Recover(t.Context(), w.a, w.b); err != nil {
			t.Fatalf("killed in %s: %v", m.method, err)
		}
		w.isAt(points[to], contents[to])
		w.tidy(2)
		if t.Failed() {
			t.Fatalf("killed in %s", m.method)
		}
	}
	if s := w.record().Disks[0].State; s == (manifest.State{Generation: s.Generation}) {
		t.Errorf("after a kill the replica is %s", s)
	}
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 2*mib, []byte("and later"))
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("the run that finished the revert: mode %s (%s)", d.Mode, d.Cause)
	}
	w.equal()
	w.tidy(3)
}
