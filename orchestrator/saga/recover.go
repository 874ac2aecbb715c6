package saga

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// Recovered says what became of one run.
type Recovered struct {
	Run    state.Run
	Undone []state.Object // in each pool in the order of their removal
	Err    error          // what could not be removed, and why; the next Recover tries it again
}

// Recover ends the runs whose process is gone (state.Store.TakeOver), as interrupted, and removes what they made and did not keep;
// it also tries again what the end of other runs could not remove. Runs of living processes are left alone.
//
// With kinds given, only runs of these are looked at. The error is of Recover as a whole; that of a single run is in its Recovered.
func Recover(ctx context.Context, store *state.Store, undoers Undoers, kinds ...state.RunKind) ([]Recovered, error) {
	pending, err := store.PendingRuns(ctx)
	if err != nil {
		return nil, err
	}
	if len(kinds) > 0 {
		pending = slices.DeleteFunc(pending, func(r state.Run) bool { return !slices.Contains(kinds, r.Kind) })
	}
	return recoverRuns(ctx, store, pending, undoers)
}

// Sweep is Recover for what runs that have ended left behind, and for nothing else.
func Sweep(ctx context.Context, store *state.Store, undoers Undoers) ([]Recovered, error) {
	ended, err := LeftOvers(ctx, store)
	if err != nil {
		return nil, err
	}
	return recoverRuns(ctx, store, ended, undoers)
}

// RecoverRun is Recover for one run.
func RecoverRun(ctx context.Context, store *state.Store, undoers Undoers, run string) ([]Recovered, error) {
	pending, err := store.PendingRuns(ctx)
	if err != nil {
		return nil, err
	}
	pending = slices.DeleteFunc(pending, func(r state.Run) bool { return r.Report.ID != run })
	return recoverRuns(ctx, store, pending, undoers)
}

// LeftOvers lists the runs that have ended and left objects behind.
func LeftOvers(ctx context.Context, store *state.Store) ([]state.Run, error) {
	pending, err := store.PendingRuns(ctx)
	return slices.DeleteFunc(pending, func(r state.Run) bool { return !r.Report.State.Final() }), err
}

func recoverRuns(ctx context.Context, store *state.Store, pending []state.Run, undoers Undoers) ([]Recovered, error) {
	var all []Recovered
	for _, run := range pending {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		if run.Owner == store.Owner() && !run.Report.State.Final() {
			continue // at work in this very process
		}
		taken, err := store.TakeOver(ctx, run.Report.ID)
		if errors.Is(err, state.ErrBusy) {
			continue
		}
		if err != nil {
			all = append(all, Recovered{Run: run, Err: err})
			continue
		}
		all = append(all, recoverRun(ctx, store, taken, undoers))
	}
	return all, nil
}

// recoverRun ends a run whatever could be removed: the objects left behind stay recorded, and the replica is free for the
// next run.
func recoverRun(ctx context.Context, store *state.Store, run state.Run, undoers Undoers) Recovered {
	_, stop := store.Keep(ctx, run.Report.ID) // whoever wished to cancel it gets what he wished for
	defer stop()
	undone, err := unwind(ctx, store, run.Report.ID, undoers)
	if !run.Report.State.Final() {
		run.Report.State, run.Report.Finished = report.StateInterrupted, time.Now().UTC()
		run.Report.Error = "its process died"
		run.Report.Events = append(run.Report.Events, report.Event{
			Time: run.Report.Finished, Cause: "interrupted",
			Text: fmt.Sprintf("the process of the run died; %d objects that it had made were removed by a later one", len(undone)),
		})
		err = errors.Join(err, store.SaveReport(context.WithoutCancel(ctx), run.Report))
	}
	return Recovered{Run: run, Undone: undone, Err: err}
}
