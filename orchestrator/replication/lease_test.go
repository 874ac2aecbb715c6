package replication_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
)

// TestRunsOfOthers has a run cancelled by whoever asks for it, and then one that a process on another host began: it stands in the
// way for as long as that may live.
func TestRunsOfOthers(t *testing.T) {
	w := newWorld(t, layout{})
	ctx := w.Context()
	w.engine.Dial = func(dialling context.Context, _, _ string) (net.Conn, error) { // a delegate never answers
		runs, err := w.store.Runs(ctx, 1)
		if err != nil || len(runs) != 1 {
			t.Errorf("%d runs, %v", len(runs), err)
		} else if err := w.store.CancelRun(ctx, runs[0].Report.ID); err != nil && !errors.Is(err, state.ErrEnded) {
			t.Error(err)
		}
		<-dialling.Done()
		return nil, dialling.Err()
	}
	run, err := w.engine.Replicate(ctx, w.request)
	if !errors.Is(err, state.ErrCancelled) || run.State != report.StateCancelled {
		t.Errorf("the run is %s: %v", run.State, err)
	}
	w.engine.Dial = nil
	w.tidy(0)

	elsewhere, err := w.store.BeginRun(ctx, w.record().ID, state.RunReplicate, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	w.must(err)
	w.must(statetest.GiveAway(ctx, w.dir, statetest.Elsewhere))
	if _, err := w.engine.Replicate(ctx, w.request); !errors.Is(err, state.ErrBusy) {
		t.Errorf("beside a process elsewhere: %v", err)
	}
	w.store.SetClock(func() time.Time { return time.Now().Add(state.LeaseTime) })
	run = w.replicate()
	if !slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == "recovered" }) {
		t.Errorf("events %v", run.Events)
	}
	if dead, err := w.store.Run(ctx, elsewhere.Report.ID); err != nil || dead.Report.State != report.StateInterrupted {
		t.Errorf("the silent process's run: %+v, %v", dead, err)
	}
	w.equal()
	w.tidy(1)
}

// TestOneProcessOneRun: a run of this very process is never taken for a dead one's.
func TestOneProcessOneRun(t *testing.T) {
	w := newWorld(t, layout{})
	w.replicate()
	begun, err := w.store.BeginRun(w.Context(), w.record().ID, state.RunReplicate, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	w.must(err)
	var busy *state.BusyError
	if _, err := w.engine.Replicate(w.Context(), w.request); !errors.As(err, &busy) || busy.Run != begun.Report.ID {
		t.Errorf("beside itself: %v", err)
	}
}
