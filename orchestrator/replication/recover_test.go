package replication_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// leftBehind has a run of the replica that has ended and left a snapshot of the source in a pool, which is made when it is the
// source's.
func (w *world) leftBehind(pool string) string {
	w.Helper()
	ctx := w.Context()
	run, err := w.store.BeginRun(ctx, w.record().ID, state.RunReplicate, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	w.must(err)
	kind := string(replica.KindSnapshot)
	s := saga.New(w.store, run.Report.ID, saga.Undoers{kind: nil})
	_, err = s.Create(ctx, saga.Intent{Pool: pool, Class: "VM", Kind: kind, Origin: w.vm.UUID}, func(ctx context.Context, name string) (string, error) {
		if pool == "unknown" {
			return pool, nil
		}
		var ref xapi.Ref
		var uuid string
		w.must(w.a.API.Call(ctx, "VM.snapshot", &ref, xapi.Ref(w.vm.Ref), name))
		return uuid, errors.Join(w.a.API.Call(ctx, "VM.get_uuid", &uuid, ref), errors.New("its answer is lost"))
	})
	if pool == "unknown" {
		w.must(err)
	}
	run.Report.State, run.Report.Finished = report.StateFailed, time.Now()
	w.must(w.store.SaveReport(ctx, run.Report))
	return run.Report.ID
}

func (w *world) poolUUID(name string) string {
	w.Helper()
	known, err := w.store.Pool(w.Context(), name)
	w.must(err)
	return known.UUID
}

func (w *world) pendingRuns() (ids []string) {
	w.Helper()
	pending, err := w.store.PendingRuns(w.Context())
	w.must(err)
	for _, run := range pending {
		ids = append(ids, run.Report.ID)
	}
	return ids
}

// TestRecoverWithoutOnePool has a pool that does not answer beside one in which something was left.
func TestRecoverWithoutOnePool(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	w.leftBehind(w.poolUUID("a"))
	away := errors.New("connection refused")
	deaf := &delegate.Pool{Name: "b", Store: w.store, API: &records{anything: away, called: map[string]time.Duration{}}}
	all, err := w.engine.Recover(t.Context(), deaf, w.a)
	if !errors.Is(err, away) || !strings.Contains(err.Error(), "pool b") {
		t.Errorf("error %v", err)
	}
	if len(all) != 1 || all[0].Err != nil || len(all[0].Undone) != 1 {
		t.Errorf("recovered %+v", all)
	}
	w.tidy(1)
}

// TestReplicateSweeps removes what an earlier run had left, and minds nothing that it cannot reach.
func TestReplicateSweeps(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	unreachable := w.leftBehind("unknown")
	w.leftBehind(w.poolUUID("a"))
	run := w.replicate()
	if !slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == "recovered" }) {
		t.Errorf("events %v", run.Events)
	}
	if pending := w.pendingRuns(); !slices.Equal(pending, []string{unreachable}) {
		t.Errorf("pending are %v, want %s", pending, unreachable)
	}
	// The process of another dies: the one that cannot be recovered does not stand in the way of this one.
	w.killAt(w.simB, "VBD.plug", 0)
	w.replicate()
	w.equal()
	if pending := w.pendingRuns(); !slices.Equal(pending, []string{unreachable}) {
		t.Errorf("pending are %v, want %s", pending, unreachable)
	}
}
