package replication_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestChoresAndRevertsAreKept: like every run they give signs of life, so that no other process takes them over, and can be cancelled.
func TestChoresAndRevertsAreKept(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	id := w.record().ID
	for _, c := range []struct {
		kind   state.RunKind
		method string
		do     func(ctx context.Context) (report.Run, error)
	}{
		{state.RunRevert, "VM.set_blocked_operations", func(ctx context.Context) (report.Run, error) {
			return w.engine.Revert(ctx, replication.RevertRequest{Replica: id, Target: w.b, Point: replication.Newest})
		}},
		{state.RunDetach, "VM.remove_tags", func(ctx context.Context) (report.Run, error) {
			return w.engine.Detach(ctx, replication.DetachRequest{Replica: id, Target: w.b})
		}},
	} {
		remove := w.simB.Fault(xapisim.Rule{Method: c.method, Count: 1, Hang: true})
		before := w.simB.Calls(c.method)
		w.when(func() bool { return w.simB.Calls(c.method) > before }, func() {
			runs, err := w.store.Runs(w.Context(), 1)
			if err != nil || len(runs) != 1 || runs[0].Kind != c.kind {
				t.Errorf("runs: %+v, %v", runs, err)
			} else if err := w.store.CancelRun(w.Context(), runs[0].Report.ID); err != nil {
				t.Error(err)
			}
		})
		ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
		if run, err := c.do(ctx); !errors.Is(err, state.ErrCancelled) || run.State != report.StateCancelled {
			t.Errorf("%s is %s: %v", c.kind, run.State, err)
		}
		cancel()
		remove()
	}
	if _, err := w.engine.Detach(w.Context(), replication.DetachRequest{Replica: id, Target: w.b}); err != nil {
		t.Errorf("what was cancelled cannot be repeated: %v", err)
	}
}

// TestReplicaStartedWhileReverted: it is held, as any other that was started, and can be resynced: the record names its new disks.
func TestReplicaStartedWhileReverted(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	ref, _ := w.replicaVM()
	before := w.simB.Calls("host.get_servertime")
	w.simB.Fault(xapisim.Rule{Method: "host.get_servertime", After: 2, Count: 1, Delay: time.Second})
	w.when(func() bool { return w.simB.Calls("host.get_servertime") > before+2 }, func() {
		w.setVM(w.b.API, ref, "set_blocked_operations", map[string]string{})
		if err := w.b.API.Run(w.Context(), "VM.start", nil, ref, false, false); err != nil {
			t.Error(err)
		}
	})
	request := replication.RevertRequest{Replica: w.record().ID, Target: w.b, Point: replication.Newest}
	var held *replication.HeldError
	if run, err := w.engine.Revert(t.Context(), request); !errors.As(err, &held) || held.Rung != string(replica.RungPower) {
		t.Fatalf("the revert is %s: %v", run.State, err)
	}
	w.must(w.b.API.Run(t.Context(), "VM.hard_shutdown", nil, ref))
	if _, err := w.engine.Replicate(t.Context(), w.request); !errors.As(err, &held) || !held.Diverged {
		t.Errorf("the next run: %v", err)
	}
	w.resync()
	w.replicate()
	w.equal()
}
