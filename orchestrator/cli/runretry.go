package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

func (a *app) runRetry() *cobra.Command {
	return &cobra.Command{
		Use: "retry ID", Short: "Run the VMs again that a job's run did not commit", Args: cobra.ExactArgs(1),
		Long: "Begins a new run of the job with the VMs that the run ID did not commit. One that the job does not choose any more is\n" +
			"named in a finding. ID may also be that of one of its VM runs, for that VM alone.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			s, err := a.session(ctx)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // the run's end is durable
			r, err := findRecorded(ctx, s.store, args[0])
			if err != nil {
				return err
			}
			of, only, err := r.again(ctx, s.store)
			if err != nil {
				return err
			}
			known, err := s.store.Job(ctx, of)
			if err != nil {
				return fmt.Errorf("the job of run %s: %w", r.id(), err)
			}
			return a.runJob(ctx, s, known, only)
		},
	}
}

// again tells which VMs of which job a run leaves to be done.
func (r recorded) again(ctx context.Context, store *state.Store) (of string, only []string, err error) {
	switch {
	case !r.state().Final():
		return "", nil, &state.BusyError{Run: r.id(), Owner: r.owner()}
	case r.state() == report.StateCommitted:
		return "", nil, usagef("run %s was committed: there is nothing to retry", r.id())
	case r.job != nil:
		left := r.job.Report.Uncommitted()
		if len(left) == 0 && len(r.job.Report.VMs) > 0 { // a finding about the job made it fail
			return "", nil, usagef("run %s committed every VM: there is nothing to retry; 'understudy run show %[1]s' tells what was wrong", r.id())
		}
		return r.job.Report.Job, left, nil // none when it failed before it knew its VMs: all of them
	case r.vm.Report.JobRun == "":
		return "", nil, usagef("run %s belongs to no job: give its command again", r.id())
	}
	parent, err := store.JobRun(ctx, r.vm.Report.JobRun)
	if err != nil {
		return "", nil, err
	}
	return parent.Report.Job, []string{r.vm.Report.VM.UUID}, nil
}
