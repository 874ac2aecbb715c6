package replication_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestBadRequests(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.request.VM, w.request.SR = "wev", "targets"
	_, err := w.engine.Plan(t.Context(), w.request)
	var missing *inventory.NotFoundError
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), "VM") || !strings.Contains(err.Error(), "SR") {
		t.Errorf("an unknown VM and SR gave %v", err)
	}
	w.request.VM, w.request.SR, w.request.Direction = "web", "target", "sideways"
	if _, err := w.engine.Plan(t.Context(), w.request); err == nil {
		t.Error("an unknown direction was taken")
	}
	w.request.DiskSRs = map[string]string{"xvda": "target"}
	if _, err := w.engine.Plan(t.Context(), w.request); err == nil {
		t.Error("an SR for a disk that has no number was taken")
	}
	w.request.DiskSRs = nil
	w.request.Direction = report.Push
	w.engine.Retention = 17
	if _, err := w.engine.Plan(t.Context(), w.request); err == nil {
		t.Error("a retention beyond the limit was taken")
	}
	w.tidy(0)
}

func TestPlanTouchesNothing(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.request.NetworkMap = map[string]string{"Pool-wide network 0": "no such network"}
	plan, err := w.engine.Plan(t.Context(), w.request)
	w.must(err)
	if d := plan.Disks[0]; d.Action != replication.ActionCreate || d.Baseline != replication.BaselineZero || d.Size != 4*mib {
		t.Errorf("planned %+v", d)
	}
	if !slices.ContainsFunc(plan.Findings, func(f report.Finding) bool { return f.Code == replication.CodeNetworkUnmapped }) {
		t.Errorf("findings %v", plan.Findings)
	}
	if records, err := w.store.Replicas(t.Context()); err != nil || len(records) != 0 {
		t.Errorf("%d replicas were recorded, %v", len(records), err)
	}
	for method := range w.simB.AllCalls() {
		if strings.HasPrefix(method, "Async.") || strings.Contains(method, ".set_") || strings.Contains(method, ".create") {
			t.Errorf("planning called %s", method)
		}
	}
}

func TestNoOverwrite(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.request.OverwriteTarget = false
	w.replicate()
	before, record := []map[string]int{w.simA.AllCalls(), w.simB.AllCalls()}, w.record()
	if run, err := w.engine.Replicate(t.Context(), w.request); !errors.Is(err, replication.ErrReplicaExists) || run.ID != "" {
		t.Errorf("a replica that is not to be overwritten gave run %q, %v", run.ID, err)
	}
	for i, sim := range []*xapisim.Pool{w.simA, w.simB} {
		for method, calls := range sim.AllCalls() {
			read := strings.Contains(method, ".get_") || strings.HasPrefix(method, "event.") || strings.Contains(method, ".compute_") || strings.HasPrefix(method, "session.") || method == "connection"
			if calls != before[i][method] && !read {
				t.Errorf("%s was called", method)
			}
		}
	}
	if now := w.record(); now.Disks[0] != record.Disks[0] || !now.LastCommit.Equal(record.LastCommit) {
		t.Errorf("the record changed: %+v", now)
	}
}

// isHeld checks that the replica is not written, and how it is listed.
func (w *world) isHeld(rung replica.Rung, standing replication.Standing) {
	w.Helper()
	before, err := os.ReadFile(w.replicaPath(0))
	w.must(err)
	run, err := w.engine.Replicate(w.Context(), w.request)
	var held *replication.HeldError
	if !errors.As(err, &held) || held.Rung != string(rung) || held.Diverged != (standing == replication.StandingDiverged) {
		w.Errorf("want held at rung %s, got %v", rung, err)
	}
	if run.ID != "" {
		w.Error("a run was begun")
	}
	if after, err := os.ReadFile(w.replicaPath(0)); err != nil || string(after) != string(before) {
		w.Errorf("the replica was written, %v", err)
	}
	infos, err := replication.Replicas(w.Context(), w.store, w.a, w.b)
	w.must(err)
	if len(infos) != 1 || infos[0].Standing != standing || infos[0].Cause == "" {
		w.Errorf("listed as %+v", infos)
	}
}

func (w *world) attach(api xapi.API, vm xapi.Ref, vdi, position string) {
	w.Helper()
	ref, err := xapi.GetByUUID(w.Context(), api, "VDI", vdi)
	w.must(err)
	w.must(api.Call(w.Context(), "VBD.create", nil, map[string]any{
		"VM": vm, "VDI": ref, "userdevice": position, "bootable": false, "mode": "RW", "type": "Disk", "empty": false,
		"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	}))
}

// TestTamperedReplicaIsScanned: somebody wrote to the replica's disk, and its marker does not say what the database says.
func TestTamperedReplicaIsScanned(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{8 * mib}})
	w.replicate()
	w.write(w.replicaPath(0), 5*mib, []byte("somebody was here"))
	disk, err := xapi.GetByUUID(t.Context(), w.b.API, "VDI", w.record().Disks[0].TargetVDI)
	w.must(err)
	w.must(xapi.SetOtherConfigKey(t.Context(), w.b.API, "VDI", disk, "understudy:state", "clean:00112233445566778899aabbccddeeff"))
	w.request.Trust = true
	run := w.replicate()
	w.equal()
	if d := run.Disks[0]; d.Mode != report.Untrusted || d.Rung != string(replica.RungDiskMarkers) {
		t.Errorf("mode %s at rung %s", d.Mode, d.Rung)
	}
}

// TestLostManifest: a cached manifest that was damaged counts as absent.
func TestLostManifest(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{8 * mib}})
	w.replicate()
	files, err := filepath.Glob(filepath.Join(w.dir, "state", "manifests", "*", "*.manifest"))
	if err != nil || len(files) != 1 {
		t.Fatalf("manifests %v, %v", files, err)
	}
	info, err := os.Stat(files[0])
	w.must(err)
	w.must(os.Truncate(files[0], info.Size()-1))
	w.request.Trust = true
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 2*mib, []byte("after the loss"))
	run := w.replicate()
	w.equal()
	if d := run.Disks[0]; d.Mode != report.Untrusted || d.Rung != string(replica.RungKey) {
		t.Errorf("mode %s at rung %s", d.Mode, d.Rung)
	}
	if !slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == "manifest-lost" }) {
		t.Errorf("events %v", run.Events)
	}
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("the run after that: mode %s (%s)", d.Mode, d.Cause)
	}
}

// TestForgottenReplicaIsAdopted: the state database lost the replica, its markers are ours.
func TestForgottenReplicaIsAdopted(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{8 * mib}})
	w.must(w.store.Close())
	backup := filepath.Join(t.TempDir(), "state")
	w.must(os.CopyFS(backup, os.DirFS(filepath.Join(w.dir, "state"))))
	w.open()
	w.connect()
	w.replicate()
	before := w.record().TargetVM
	w.must(w.store.Close())
	w.must(os.RemoveAll(filepath.Join(w.dir, "state")))
	w.must(os.CopyFS(filepath.Join(w.dir, "state"), os.DirFS(backup)))
	w.open()
	w.connect()
	run := w.replicate()
	w.equal()
	if d := run.Disks[0]; w.record().TargetVM != before || d.Mode != report.Untrusted || d.Sent != 0 {
		t.Errorf("replica %s, it was %s; mode %s, %d bytes sent", w.record().TargetVM, before, d.Mode, d.Sent)
	}
}

// TestReplicaGone: its VM was deleted, and a new one is made.
func TestReplicaGone(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	ref, _ := w.replicaVM()
	w.must(w.b.API.Run(t.Context(), "VM.destroy", nil, ref))
	infos, err := replication.Replicas(t.Context(), w.store, w.a, w.b)
	if err != nil || len(infos) != 1 || infos[0].Standing != replication.StandingGone {
		t.Errorf("listed as %+v, %v", infos, err)
	}
	w.replicate()
	w.equal()
}
