package replication_test

import (
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

func TestVerify(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{24 * mib, 6 * mib}})
	w.replicate()
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 0, []byte("second version"))
	w.replicate()
	request := replication.VerifyRequest{Replica: w.record().ID, Target: w.b}
	good, err := w.engine.Verify(t.Context(), request)
	w.must(err)
	if !good.Equal() || len(good.Disks) != 2 || good.Run.State != report.StateCommitted || good.Disks[0].Got == "" {
		t.Errorf("verified a good replica: %+v", good)
	}
	w.tidy(2)

	// A bit rots in the newest restore point.
	vms, err := xapi.AllRecords[xapi.VM](t.Context(), w.b.API, "VM")
	w.must(err)
	for _, vm := range vms {
		marker, _, _ := replica.Read(w.store.Installation().UUID, vm.UUID, vm.OtherConfig)
		if marker.Kind == replica.KindRestorePoint && marker.State == w.record().Disks[0].State {
			w.rot(vm)
		}
	}
	bad, err := w.engine.Verify(t.Context(), request)
	w.must(err)
	if bad.Equal() || bad.Run.State != report.StateFailed {
		t.Fatalf("verified a bad replica: %+v", bad)
	}
	want := replication.Range{Offset: 8 * mib, Length: 8 * mib}
	if d := bad.Disks[0]; len(d.Differing) != 1 || d.Differing[0] != want {
		t.Errorf("differing %v, want %v", d.Differing, want)
	}
	if d := bad.Disks[1]; d.Got != d.Want || len(d.Differing) != 0 {
		t.Errorf("the good disk: %+v", d)
	}
	w.tidy(2)
}

// rot changes a byte at 11 MiB and one at 12 MiB of a restore point's first disk.
func (w *world) rot(vm xapi.VM) {
	w.Helper()
	for _, ref := range vm.VBDs {
		vbd, err := xapi.GetRecord[xapi.VBD](w.Context(), w.b.API, "VBD", ref)
		w.must(err)
		if vbd.UserDevice != "0" {
			continue
		}
		var uuid string
		w.must(w.b.API.Call(w.Context(), "VDI.get_uuid", &uuid, vbd.VDI))
		w.write(w.simB.VDIPath(uuid), 11*mib, []byte{0xff, 0, 0xff})
		w.write(w.simB.VDIPath(uuid), 12*mib, []byte{0xff, 0, 0xff})
	}
}

func TestVerifyNothing(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	if _, err := w.engine.Verify(t.Context(), replication.VerifyRequest{Replica: "no such replica", Target: w.b}); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("an unknown replica gave %v", err)
	}
	w.fails(fault{w.simB, "VBD.plug", 0, "INTERNAL_ERROR"}, 0)
	if _, err := w.engine.Verify(t.Context(), replication.VerifyRequest{Replica: w.record().ID, Target: w.b}); !errors.Is(err, replication.ErrNoRestorePoint) {
		t.Errorf("a replica without a restore point gave %v", err)
	}
}
