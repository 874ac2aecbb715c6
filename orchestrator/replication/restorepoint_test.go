package replication_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// content is a digest of the disks of a VM of the target pool, and of the machine that they belong to.
func (w *world) content(vm xapi.VM) string {
	w.Helper()
	h := sha256.New()
	for _, ref := range vm.VBDs {
		vbd, err := xapi.GetRecord[xapi.VBD](w.Context(), w.b.API, "VBD", ref)
		w.must(err)
		if vbd.Type != xapi.TypeDisk {
			continue
		}
		vdi, err := xapi.GetRecord[xapi.VDI](w.Context(), w.b.API, "VDI", vbd.VDI)
		w.must(err)
		w.mapped(w.simB.VDIPath(vdi.UUID), func(content []byte) {
			h.Write(fmt.Appendf(nil, "%s %v %d ", vbd.UserDevice, vbd.Bootable, len(content)))
			h.Write(content)
		})
	}
	h.Write(fmt.Append(nil, vm.HVMBootParams, vm.NVRAM, vm.Platform, vm.MemoryStaticMax, vm.VCPUsMax, len(vm.VIFs)))
	return fmt.Sprintf("%x", h.Sum(nil))
}

// TestAFailedRunLeavesTheNewestRestorePoint: whatever step fails, the newest restore point holds byte for byte what was committed, with
// the machine of that time, and can be started from.
func TestAFailedRunLeavesTheNewestRestorePoint(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.request.Trust, w.request.Retention = true, 1
	w.replicate()
	w.equal()
	committed, source := w.points()[0], w.hash()
	want := w.content(committed)
	vm, _ := w.sourceVM()
	w.setVM(w.a.API, vm, "set_NVRAM", map[string]string{"EFI-variables": "b3RoZXI="})
	for i, f := range w.faults() {
		w.write(w.simA.VDIPath(w.vm.VDIs[i%2]), int64(i)*100<<10, bytes.Repeat([]byte(f.method), 1000))
		w.fails(f, 1)
		points := w.points()
		if len(points) != 1 || points[0].UUID != committed.UUID || w.content(points[0]) != want {
			t.Fatalf("%s fails: the restore point is not what was committed", f.method)
		}
	}
	if w.hash() == source {
		t.Fatal("the source did not change")
	}
	var clone xapi.Ref
	ref, err := xapi.GetByUUID(t.Context(), w.b.API, "VM", committed.UUID)
	w.must(err)
	w.must(w.b.API.Call(t.Context(), "VM.clone", &clone, ref, "started from the restore point"))
	w.must(w.b.API.Call(t.Context(), "VM.set_is_a_template", nil, clone, false))
	w.must(w.b.API.Call(t.Context(), "VM.start", nil, clone, false, false))
	w.must(w.b.API.Call(t.Context(), "VM.hard_shutdown", nil, clone))

	w.replicate()
	w.equal()
	if points := w.points(); len(points) != 1 || points[0].UUID == committed.UUID || w.content(points[0]) == want {
		t.Errorf("%d restore points after the next commit", len(points))
	}
}

// pin marks a restore point as one that retention must not remove.
func (w *world) pin(point xapi.VM) {
	w.Helper()
	ref, err := xapi.GetByUUID(w.Context(), w.b.API, "VM", point.UUID)
	w.must(err)
	marker, _, err := replica.Read(w.store.Installation().UUID, point.UUID, point.OtherConfig)
	w.must(err)
	marker.Keep = "test"
	w.must(replica.Apply(w.Context(), w.b.API, "VM", ref, marker))
}

// TestWithoutARestorePoint: chains that are too long or are being merged, before and after a run that may do without.
func TestWithoutARestorePoint(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.request.Retention = 1
	w.replicate()
	first := w.points()[0]
	w.pin(first)
	w.replicate()
	w.replicate()
	if points := w.points(); len(points) != 2 || points[1].UUID != first.UUID {
		t.Fatalf("%d restore points: the pinned one, or none but it, was removed", len(points))
	}
	newest := w.points()[0].UUID
	w.replicate() // what the last one removed is not merged yet, which is as usual
	if w.points()[0].UUID == newest {
		t.Error("no restore point was made for the sake of a single volume that is to be merged")
	}
	newest = w.points()[0].UUID

	// Others' snapshots make the chain long, of what they wrote. The pool does not tell of that: a replica with foreign writes is held.
	untold := w.simB.Fault(xapisim.Rule{Method: "http/get_export_raw_vdi", Error: &xapisim.Error{Code: "VDI_IO_ERROR", Params: []string{"x"}}})
	vdi, err := xapi.GetByUUID(t.Context(), w.b.API, "VDI", w.record().Disks[0].TargetVDI)
	w.must(err)
	var snapshots []xapi.Ref
	for i := range 21 {
		w.write(w.replicaPath(0), 3*mib, []byte{byte(i + 1)})
		var snapshot xapi.Ref
		w.must(w.b.API.Call(t.Context(), "VDI.snapshot", &snapshot, vdi, map[string]string{}))
		snapshots = append(snapshots, snapshot)
	}
	w.lacks(newest, "more than 20")
	w.equal()
	for _, snapshot := range snapshots {
		w.must(w.b.API.Call(t.Context(), "VDI.destroy", nil, snapshot))
	}
	w.simB.Coalesce()
	untold()
	if w.replicate(); w.points()[0].UUID == newest {
		t.Error("no restore point was made although nothing stands in the way")
	}
}

// lacks checks that a run takes no restore point and says why, and that one which must take one fails before it touches anything.
func (w *world) lacks(newest, why string) {
	w.Helper()
	before, err := os.ReadFile(w.replicaPath(0))
	w.must(err)
	state := w.record().Disks[0].State
	w.request.RequireRestorePoint = true
	var refused *replication.RestorePointError
	if run, err := w.engine.Replicate(w.Context(), w.request); !errors.As(err, &refused) || run.ID != "" || !strings.Contains(err.Error(), why) {
		w.Errorf("with a restore point required: run %q, %v", run.ID, err)
	}
	if after, err := os.ReadFile(w.replicaPath(0)); err != nil || !bytes.Equal(before, after) || w.record().Disks[0].State != state {
		w.Errorf("the replica was touched: %v", err)
	}
	w.request.RequireRestorePoint = false
	run := w.replicate()
	if texts := told(run, "no-restore-point"); len(texts) == 0 || !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, why) }) {
		w.Errorf("told: %v", run.Events)
	}
	if points := w.points(); points[0].UUID != newest {
		w.Errorf("the newest restore point is %s, was %s", points[0].UUID, newest)
	}
}

// TestThickSRs: room for the replica and for one restore point, then for none, then for none ever.
func TestThickSRs(t *testing.T) {
	w := newWorld(t, layout{target: "lvm", sizes: []int64{8 * mib}, capacity: 44 * mib})
	w.request.Retention = 2
	w.replicate()
	w.equal()
	w.tidy(1)
	newest := w.points()[0]
	want := w.content(newest)
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 1*mib, []byte("changed"))
	w.tell(xapisim.Lie{Kind: "fill", Object: "target", Free: 4 * mib})
	w.lacks(newest.UUID, "4 MiB are free")
	w.equal()
	if w.content(w.points()[0]) != want {
		t.Error("the last restore point changed")
	}
	// Commits without a restore point do not cost the last one its manifest.
	w.replicate()
	w.tell(xapisim.Lie{Kind: "fill", Object: "target", Free: 20 * mib}) // for the clone that is read
	generation := w.record().Disks[0].State.Generation
	verified, err := w.engine.Verify(t.Context(), replication.VerifyRequest{Replica: w.record().ID, Target: w.b})
	if err != nil || !verified.Equal() || verified.Generation == generation {
		t.Errorf("verifying the last restore point: %+v, %v", verified.Disks, err)
	}
}

func TestThickSRWithoutRoomForAny(t *testing.T) {
	w := newWorld(t, layout{target: "lvm", sizes: []int64{8 * mib}, capacity: 12 * mib})
	plan, err := w.engine.Plan(t.Context(), w.request)
	w.must(err)
	if !slices.ContainsFunc(plan.Findings, func(f report.Finding) bool {
		return f.Code == "no-room-for-restore-points" && strings.Contains(f.Cause, "choice")
	}) {
		t.Errorf("findings %v", plan.Findings)
	}
	w.request.RequireRestorePoint = true
	var refused *replication.RestorePointError
	if _, err := w.engine.Replicate(t.Context(), w.request); !errors.As(err, &refused) {
		t.Errorf("with a restore point required: %v", err)
	}
	w.request.RequireRestorePoint = false
	if run := w.replicate(); run.State != report.StateCommitted {
		t.Errorf("the run is %s", run.State)
	}
	w.equal()
	w.tidy(0)
}

// tell has the target pool lie.
func (w *world) tell(lie xapisim.Lie) {
	w.Helper()
	w.must(w.simB.Lie(lie))
}
