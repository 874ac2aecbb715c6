package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/runner"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// collected is what 'gc' has done, or, in a dry run, would do.
type collected struct {
	DryRun  bool           `json:"dry_run"`
	Runs    []recoveredRun `json:"runs"`
	Reverts []openRevert   `json:"reverts"` // that a dry run found unfinished; gc finishes them
	JobRuns []abandonedRun `json:"job_runs"`
	// Bases are what changes of disks had been tracked since, for replicas that are no more.
	Bases []replication.CollectedBase `json:"bases"`
}

// recoveredRun is a run that 'gc' has cleaned up after, or could not.
type recoveredRun struct {
	Run     string          `json:"run"`
	Removed []removedObject `json:"removed"` // in a dry run: what would be
	Left    []leftObject    `json:"left"`    // in a dry run: what would not be
	Error   string          `json:"error,omitempty"`
}

type leftObject struct {
	removedObject
	Cause string `json:"cause"`
}

type openRevert struct {
	Replica      string `json:"replica"`       // id
	RestorePoint string `json:"restore_point"` // uuid
}

// abandonedRun is a job's run whose process is dead.
type abandonedRun struct {
	Run   string    `json:"run"`
	Job   string    `json:"job"` // its name
	Until time.Time `json:"until"`
	Ended bool      `json:"ended"` // in a dry run: would be
}

type removedObject struct {
	Pool  string `json:"pool"` // uuid
	Class string `json:"class"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	UUID  string `json:"uuid,omitempty"` // empty when it had not been made
}

func (a *app) gc() *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "gc [--dry-run]", Short: "Clean up after runs whose process died", Args: cobra.NoArgs,
		Long: `Ends the runs whose process on this machine is dead, and removes the delegates, snapshots and clones that their
records name; and what changes of disks had been tracked since, where it bears our marker and no replica names it any
more. Nothing else is ever removed.
Such a run cannot go on then, as 'replicate' would have it.
A job's run whose process is dead is told only while 'job run' can go on with it, and ended when six hours have passed.
A pool that does not answer keeps what was left in it; the next gc tries again.`,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.session(c.Context())
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // what was done is durable
			pools, unreachable := s.all(c.Context(), nil)
			document, err := collect(c.Context(), &replication.Engine{Store: s.store, Log: a.logger(a.stderr)}, pools, dry)
			return errors.Join(unreachable, err, a.print(document, func(w *strings.Builder) { writeCollected(w, document) }))
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would be removed, and change nothing")
	return c
}

// collect does what gc does; what it has done is told with an error, too.
func collect(ctx context.Context, engine *replication.Engine, pools []*delegate.Pool, dry bool) (collected, error) {
	done := collected{DryRun: dry, Runs: []recoveredRun{}, Reverts: []openRevert{}, JobRuns: []abandonedRun{}}
	var failure error
	if dry {
		var preview replication.Preview
		preview, failure = engine.Preview(ctx, pools...)
		for _, p := range preview.Runs {
			run := recoveredRun{Run: p.Run.Report.ID, Removed: removedObjects(p.Remove), Left: []leftObject{}}
			for _, left := range p.Leave {
				run.Left = append(run.Left, leftObject{removedObjects([]state.Object{left.Object})[0], left.Cause.Error()})
			}
			done.Runs = append(done.Runs, run)
		}
		for _, r := range preview.Reverts {
			done.Reverts = append(done.Reverts, openRevert{Replica: r.Replica, RestorePoint: r.Point})
		}
	} else {
		var recovered []saga.Recovered
		recovered, failure = engine.Recover(ctx, pools...)
		for _, r := range recovered {
			run := recoveredRun{Run: r.Run.Report.ID, Removed: removedObjects(r.Undone), Left: []leftObject{}}
			if r.Err != nil {
				run.Error = r.Err.Error()
			}
			done.Runs = append(done.Runs, run)
		}
	}
	bases, lost := engine.CollectBases(ctx, dry, pools...)
	done.Bases, failure = bases, errors.Join(failure, lost)
	abandoned, err := runner.EndAbandoned(ctx, engine.Store, replication.DefaultResumeWindow, dry)
	for _, r := range abandoned {
		done.JobRuns = append(done.JobRuns, abandonedRun{Run: r.Run.ID, Job: r.Run.JobName, Until: r.Until.UTC(), Ended: r.Over})
	}
	return done, errors.Join(failure, err)
}

func removedObjects(objects []state.Object) []removedObject {
	removed := make([]removedObject, len(objects))
	for i, o := range objects {
		removed[i] = removedObject{Pool: o.Pool, Class: o.Class, Kind: o.Kind, Name: o.Name, UUID: o.UUID}
	}
	return removed
}

func writeCollected(w *strings.Builder, c collected) {
	if len(c.Runs)+len(c.Reverts)+len(c.JobRuns)+len(c.Bases) == 0 {
		fmt.Fprintln(w, "nothing to clean up")
	}
	verb, ended := "removed", "ended"
	if c.DryRun {
		verb, ended = "would remove", "would be ended"
	}
	for _, run := range c.Runs {
		fmt.Fprintf(w, "run %s: %s %d objects\n", run.Run, verb, len(run.Removed))
		if run.Error != "" {
			fmt.Fprintf(w, "  not all: %s\n", run.Error)
		}
		for _, o := range run.Removed {
			fmt.Fprintf(w, "  %s %s %s\n", o.Kind, o.Name, dash(o.UUID))
		}
		for _, o := range run.Left {
			fmt.Fprintf(w, "  stays: %s %s %s: %s\n", o.Kind, o.Name, dash(o.UUID), o.Cause)
		}
	}
	for _, r := range c.Reverts {
		fmt.Fprintf(w, "replica %s: would finish the revert to restore point %s\n", r.Replica, r.RestorePoint)
	}
	for _, b := range c.Bases {
		fmt.Fprintf(w, "pool %s: %s VDI %s, since which changes were tracked for no replica that is known\n", b.Pool, verb, b.UUID)
	}
	for _, r := range c.JobRuns {
		if r.Ended {
			fmt.Fprintf(w, "run %s of job %s: its process died long ago, %s\n", r.Run, r.Job, ended)
		} else {
			fmt.Fprintf(w, "run %s of job %s: its process died; 'understudy job run %s' goes on with it, until %s\n", r.Run, r.Job, r.Job, r.Until.Format(time.RFC3339))
		}
	}
}
