package replication_test

import (
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestWhatAFailedRunLeftIsNoRestorePoint: a snapshot that a run made, did not commit and could not remove does not take the place of the
// last restore point, although it is newer and bears a restore point's marker.
func TestWhatAFailedRunLeftIsNoRestorePoint(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.request.Retention = 1
	w.replicate()
	last := w.points()[0].UUID
	ref, vm := w.replicaVM()

	failed, err := w.store.BeginRun(t.Context(), w.record().ID, state.RunReplicate, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	w.must(err)
	object, err := w.store.RecordIntent(t.Context(), state.Object{
		Run: failed.Report.ID, Pool: w.record().TargetPool, Class: "VM", Kind: string(replica.KindRestorePoint), Origin: vm.UUID,
	})
	w.must(err)
	time.Sleep(time.Second) // the pool's clock tells seconds
	var made xapi.Ref
	w.must(w.b.API.Call(t.Context(), "VM.snapshot", &made, ref, object.Name))
	snapshot, err := xapi.GetRecord[xapi.VM](t.Context(), w.b.API, "VM", made)
	w.must(err)
	_, err = w.store.RecordCreated(t.Context(), object, snapshot.UUID)
	w.must(err)
	w.must(replica.Apply(t.Context(), w.b.API, "VM", made, replica.Marker{
		Installation: w.store.Installation().UUID, Run: failed.Report.ID, Kind: replica.KindRestorePoint, Self: snapshot.UUID, Source: vm.UUID,
		State: manifest.State{Generation: manifest.NewGeneration()},
	}))
	failed.Report.State, failed.Report.Finished = report.StateFailed, time.Now().UTC()
	w.must(w.store.SaveReport(t.Context(), failed.Report))

	refuse := func(method, code string) {
		w.simB.Fault(xapisim.Rule{Method: method, Count: 1, Error: &xapisim.Error{Code: code, Params: []string{"", "injected", ""}}})
	}
	refuse("VDI.destroy", "INTERNAL_ERROR")        // it is still there when the next run begins,
	refuse("VM.snapshot", "SR_BACKEND_FAILURE_44") // which can take no restore point
	w.replicate()
	if points := w.points(); !slices.ContainsFunc(points, func(p xapi.VM) bool { return p.UUID == last }) {
		t.Error("the last restore point that was committed is gone")
	}
	w.replicate()
	if points := w.points(); len(points) != 1 || points[0].UUID == last || points[0].UUID == snapshot.UUID {
		t.Errorf("%d restore points after the next commit", len(points))
	}
}
