package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// answerTimeout bounds the first look at a pool, so that one that hangs does not keep the others waiting.
	answerTimeout = time.Minute
	// sweepTimeout bounds what a run does for those before it.
	sweepTimeout = 2 * time.Minute
)

// Recover ends the runs whose process died, and removes what they, and others before, left behind in these pools: from the
// record alone, so that it serves after a crash anywhere. A replica that such a run had begun to write stays dirty; what the
// run had journalled is of use to the next, but it cannot go on as Replicate would have it. Runs of living processes are left alone. A pool that does not answer keeps what is
// in it, and nothing else. Reverts that were interrupted are finished.
//
// The error joins what could not be removed; the next Recover tries it again.
func (e *Engine) Recover(ctx context.Context, pools ...*delegate.Pool) ([]saga.Recovered, error) {
	answering, failure := load(ctx, pools)
	all, err := saga.Recover(ctx, e.Store, e.recovering(answering...))
	return all, errors.Join(failure, err, failures(all), e.finishReverts(ctx, answering))
}

// Preview says what Recover would do.
type Preview struct {
	Runs    []saga.Preview
	Reverts []*UnfinishedRevertError // it would finish these
}

// Preview says what Recover would do now, and changes nothing: what it would remove is decided by the same code, in pools that
// refuse every change.
func (e *Engine) Preview(ctx context.Context, pools ...*delegate.Pool) (p Preview, err error) {
	answering, failure := load(ctx, pools)
	for _, pool := range answering {
		pool.API = xapi.ReadOnly(pool.API)
	}
	p.Runs, err = saga.Foresee(ctx, e.Store, e.recovering(answering...))
	records, unread := e.Store.Replicas(ctx)
	failure = errors.Join(failure, err, unread)
	for _, record := range records {
		if !slices.ContainsFunc(answering, func(pool *delegate.Pool) bool { return pool.Inventory.UUID == record.TargetPool }) {
			continue
		}
		interrupted, err := unfinishedRevert(ctx, e.Store, record)
		if interrupted != nil && err == nil {
			p.Reverts = append(p.Reverts, interrupted)
		}
		failure = errors.Join(failure, err)
	}
	return p, failure
}

// sweep tries again what runs that have ended could not remove, before a run of these pools begins: it may take the room or the
// addresses that the run needs. It reports whether it removed anything. That it cannot is no reason not to replicate.
func (e *Engine) sweep(ctx context.Context, pools ...*delegate.Pool) (removed bool) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	var all []saga.Recovered
	left, err := saga.LeftOvers(ctx, e.Store)
	if err == nil && len(left) > 0 {
		answering, failure := load(ctx, pools)
		all, err = saga.Sweep(ctx, e.Store, e.recovering(answering...))
		err = errors.Join(failure, err, failures(all))
	}
	if err != nil {
		e.log().Warn("left-overs of earlier runs could not all be removed", "cause", err)
	}
	return slices.ContainsFunc(all, func(r saga.Recovered) bool { return len(r.Undone) > 0 })
}

// recovering is Undoers for what other processes made. While somebody has the lease for a run of which this state database thinks that its process
// is gone, nothing of the run is touched: the database may be a copy of one that is in use. A process that is gone does not renew its lease, and
// is waited for until it has run out.
func (e *Engine) recovering(pools ...*delegate.Pool) saga.Undoers {
	var mu sync.Mutex
	decided := map[string]error{} // by run
	may := func(ctx context.Context, run string) error {
		mu.Lock()
		defer mu.Unlock()
		err, known := decided[run]
		if !known {
			if err = e.unleased(ctx, run, pools); ctx.Err() == nil {
				decided[run] = err
			}
		}
		return err
	}
	undoers := Undoers(e.Store, pools...)
	for kind, undo := range undoers {
		undoers[kind] = func(ctx context.Context, o state.Object) error {
			if err := may(ctx, o.Run); err != nil {
				return err
			}
			return undo(ctx, o)
		}
	}
	return undoers
}

// unleased waits until nobody has the lease of a replica for a run any more: a *LeaseError when its holder lives.
func (e *Engine) unleased(ctx context.Context, id string, pools []*delegate.Pool) error {
	run, err := e.Store.Run(ctx, id)
	if err != nil || run.Replica == "" {
		return err
	}
	record, err := e.Store.Replica(ctx, run.Replica)
	if err != nil {
		return err
	}
	for _, pool := range pools {
		if pool.Inventory.UUID != record.TargetPool {
			continue
		}
		s := findStandby(pool.Inventory, record)
		if s == nil {
			return nil
		}
		_, err := e.place(pool, s.vm.Ref).Await(ctx, func(ctx context.Context, h lease.Holder) bool { return h.Run != id || e.over(ctx, h) })
		if err != nil && !xapi.IsGone(err, s.vm.Ref) {
			return leaseError(record.ID, err)
		}
	}
	return nil
}

// load completes pools by their inventories; those that do not answer are in the error instead.
func load(ctx context.Context, pools []*delegate.Pool) (answering []*delegate.Pool, err error) {
	for _, p := range pools {
		pool := *p
		if pool.Inventory == nil {
			waiting, cancel := context.WithTimeout(ctx, answerTimeout)
			view, failure := inventory.Load(waiting, pool.API)
			cancel()
			if failure != nil {
				err = errors.Join(err, fmt.Errorf("recovering: pool %s does not answer, what was left in it stays: %w", pool.Name, failure))
				continue
			}
			pool.Inventory = view
		}
		answering = append(answering, &pool)
	}
	return answering, err
}

func failures(all []saga.Recovered) error {
	var errs []error
	for _, one := range all {
		if one.Err != nil {
			errs = append(errs, fmt.Errorf("recovering run %s: %w", one.Run.Report.ID, one.Err))
		}
	}
	return errors.Join(errs...)
}
