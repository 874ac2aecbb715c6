package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/runner"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

func (a *app) jobRun() *cobra.Command {
	var dryRun bool
	var vms []string
	c := &cobra.Command{
		Use: "run NAME", Short: "Run a job now, and wait for its end", Args: cobra.ExactArgs(1),
		Long: "Replicates the VMs that the job chooses, several at a time, and prints what became of each. A VM that fails does not\n" +
			"keep the others from being replicated; 'understudy run retry' runs those that failed. The exit code is 0 when every VM\n" +
			"was committed; those whose replicas have failed over are left out. Interrupting the command cancels the run.\n\n" +
			"With --dry-run it is 'understudy job check'.",
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			s, err := a.session(ctx)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // the run's end is durable
			known, err := s.store.Job(ctx, args[0])
			if err != nil {
				return err
			}
			var only []string
			if len(vms) > 0 {
				if only, err = a.amongChosen(ctx, s, known, vms); err != nil {
					return err
				}
			}
			if dryRun {
				return a.checkJob(ctx, s, known, only)
			}
			return a.runJob(ctx, s, known, only)
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done and what stands in the way, and do nothing")
	c.Flags().StringArrayVar(&vms, "vm", nil, "only this `VM` of those that the job chooses, by name or uuid; may be given again")
	return c
}

// runJob runs a job, or those of its VMs that have these uuids, shows it meanwhile, and prints its report.
func (a *app) runJob(ctx context.Context, s *session, known state.Job, only []string) error {
	w := newWatcher(a.stderr)
	r := a.runner(s)
	r.Observe, r.ObserveVM = w.job, w.vmOfJob
	run, err := r.Run(ctx, known, runner.RunOptions{Only: only})
	w.close()
	if run.ID == "" {
		return err
	}
	ended := recorded{job: &state.JobRun{Report: run}}
	ended.runs, _ = vmRuns(context.WithoutCancel(ctx), s.store, run.ID) // without them the table has less to show
	printing := a.print(ended.document(), ended.write)
	if failure := ended.failure(); failure != nil {
		return errors.Join(failure, printing)
	}
	return errors.Join(err, printing)
}

// amongChosen gives the uuids of those of a job's VMs that are named, by name or uuid.
func (a *app) amongChosen(ctx context.Context, s *session, known state.Job, names []string) ([]string, error) {
	vms, err := a.runner(s).Resolve(ctx, known)
	if err != nil {
		return nil, err
	}
	var uuids []string
	for _, name := range names {
		found := 0
		for _, vm := range vms {
			if vm.Name == name || strings.EqualFold(vm.UUID, name) {
				uuids, found = append(uuids, vm.UUID), found+1
			}
		}
		if found == 0 {
			return nil, fmt.Errorf("VM %q: %w among those that job %s chooses: 'understudy job show' lists them", name, state.ErrNotFound, known.Definition.Name)
		}
	}
	return uuids, nil
}
