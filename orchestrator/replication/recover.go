package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/saga"
)

// Recover ends the runs whose process died, and removes what they, and others before, left behind in these pools: from the
// record alone, so that it serves after a crash anywhere. A replica that such a run had begun to write stays dirty; what the
// run had journalled is of use to the next. Runs of living processes are left alone.
//
// The error joins what could not be removed; the next Recover tries it again.
func (e *Engine) Recover(ctx context.Context, pools ...*delegate.Pool) ([]saga.Recovered, error) {
	seen := make([]*delegate.Pool, 0, len(pools))
	for _, p := range pools {
		pool := *p
		if pool.Inventory == nil {
			var err error
			if pool.Inventory, err = inventory.Load(ctx, pool.API); err != nil {
				return nil, fmt.Errorf("recovering: pool %s: %w", pool.Name, err)
			}
		}
		seen = append(seen, &pool)
	}
	all, err := saga.Recover(ctx, e.Store, Undoers(e.Store, seen...))
	errs := []error{err}
	for _, one := range all {
		if one.Err != nil {
			errs = append(errs, fmt.Errorf("recovering run %s: %w", one.Run.Report.ID, one.Err))
		}
	}
	return all, errors.Join(errs...)
}
