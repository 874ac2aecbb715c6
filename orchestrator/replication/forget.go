package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// Forget removes a replica from the state database and does nothing to it: for a pool that is lost for good, where Detach cannot be had.
// Should the pool come back, the replica's VM is found again by its marker at the next run of its source. A dead process's run is
// ended first; what that had made in the pools given is removed, and in another one stays recorded.
//
// Errors: state.ErrNotFound, state.ErrBusy.
func (e *Engine) Forget(ctx context.Context, id string, pools ...*delegate.Pool) (report.Run, error) {
	run, err := e.forget(ctx, id, pools)
	if err != nil {
		err = fmt.Errorf("forgetting replica %s: %w", id, err)
	}
	return run, err
}

func (e *Engine) forget(ctx context.Context, id string, pools []*delegate.Pool) (report.Run, error) {
	record, err := e.Store.Replica(ctx, id)
	if err != nil {
		return report.Run{}, err
	}
	first := report.Run{
		Direction: report.Push, Trust: report.TrustVerify, VM: report.VM{UUID: record.SourceVM, PoolUUID: record.SourcePool},
		Replica: report.VM{UUID: record.TargetVM, PoolUUID: record.TargetPool},
	}
	begun, err := e.Store.BeginRun(ctx, id, state.RunDetach, first)
	var left error
	if busy := (*state.BusyError)(nil); errors.As(err, &busy) {
		answering, silent := load(ctx, pools)
		recovered, failure := saga.RecoverRun(ctx, e.Store, e.recovering(answering...), busy.Run)
		if failure != nil {
			return report.Run{}, failure
		}
		left = errors.Join(silent, failures(recovered))
		begun, err = e.Store.BeginRun(ctx, id, state.RunDetach, first)
	}
	if err != nil {
		return report.Run{}, err
	}
	last := begun.Report
	ctx, stop := e.Store.Keep(ctx, last.ID)
	defer stop()
	failure := e.step("forget", func() error { return e.Store.ForgetReplica(ctx, id) })
	last.State, last.Finished = report.StateCommitted, time.Now().UTC()
	if failure != nil {
		last.State, last.Error = report.StateFailed, failure.Error()
	}
	if record.Failover.Note.Blocked {
		last.Events = append(last.Events, report.Event{Time: last.Finished, Cause: "source-blocked", Text: textSourceBlocked(record)})
	}
	if left != nil {
		last.Events = append(last.Events, report.Event{Time: last.Finished, Cause: "left-behind", Text: fmt.Sprintf("what an earlier run had made is still recorded: %v", left)})
	}
	return last, errors.Join(failure, e.Store.SaveReport(context.WithoutCancel(ctx), last))
}
