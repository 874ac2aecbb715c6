package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// Abandoned is a job's run whose process is gone.
type Abandoned struct {
	Run   report.JobRun
	Until time.Time // for so long the next run of the job goes on with it
	Over  bool      // that time has passed: nobody is to go on with it
}

// EndAbandoned lists the runs of jobs whose process is gone, and ends those that have given no sign of life for longer than window:
// the job's next run chooses its VMs anew then. The others are left to that run, which goes on with them, or to a wish to cancel them.
// With dry none is ended.
func EndAbandoned(ctx context.Context, store *state.Store, window time.Duration, dry bool) ([]Abandoned, error) {
	pending, err := store.PendingJobRuns(ctx)
	if err != nil {
		return nil, err
	}
	var found []Abandoned
	for _, run := range pending {
		gone, err := store.OwnerGone(ctx, run.ID, run.Owner)
		if err != nil {
			return found, err
		}
		if !gone {
			continue
		}
		one := Abandoned{Run: run.Report, Until: run.Heartbeat.Add(window)}
		one.Over = time.Now().After(one.Until)
		if one.Over && !dry {
			err := store.EndJobRun(ctx, run.ID, fmt.Sprintf("its process died, and nobody went on with it for %v", window))
			if errors.Is(err, state.ErrBusy) || errors.Is(err, state.ErrEnded) {
				continue // somebody came first
			}
			if err != nil {
				return found, err
			}
		}
		found = append(found, one)
	}
	return found, nil
}
