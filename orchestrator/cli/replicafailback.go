package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/cli/progress"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/runner"
)

const failbackLong = "Runs the pair in the other direction while the VM works, shuts that VM down, runs the pair a last time and starts the\n" +
	"former source, which is the VM that it was: uuid, name, description, tags, addresses, HA settings. The replica stands by\n" +
	"again, and the job of it runs as before. What 'job reverse' had kept stays, as a snapshot of the VM.\n\n" +
	"What fails before the former source was started leads back: the VM works on. Interrupted, it goes on when it is repeated."

func addFailbackFlags(c *cobra.Command) *runner.FailbackOptions {
	options := new(runner.FailbackOptions)
	c.Flags().BoolVar(&options.Hard, "hard", false, "switch the VM off instead of having its guest shut down")
	c.Flags().BoolVar(&options.NoStart, "no-start", false, "leave the former source halted")
	return options
}

func (a *app) replicaFailback() *cobra.Command {
	var options *runner.FailbackOptions
	c := &cobra.Command{
		Use: "failback VM|ID", Short: "Have the former source of a reversed replica take the work over again", Long: failbackLong, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			s, err := a.session(ctx)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // the run's end is durable
			found, err := findFailedOver(ctx, s, args[0])
			if err != nil {
				return err
			}
			display := progress.New(a.stderr)
			defer display.Close()
			r := a.runner(s)
			r.Log, r.ObserveVM = a.logger(display), display.Observe
			run, err := r.Failback(ctx, found.ID, *options)
			display.Close()
			if run.ID == "" {
				return err
			}
			return errors.Join(err, a.print(run, func(w *strings.Builder) { writeFailback(w, run) }))
		},
	}
	options = addFailbackFlags(c)
	return c
}

func (a *app) jobFailback() *cobra.Command {
	var options *runner.FailbackOptions
	c := &cobra.Command{
		Use: "failback NAME", Short: "Fail all replicas of a job back that are reversed", Args: cobra.ExactArgs(1),
		Long: "Does for each replica of the job that is reversed, one after the other, what 'replica failback' does. NAME is the job from\n" +
			"the former sources, not the one that replicates back; that one is deleted with its last VM.\n\n" + failbackLong,
		RunE: func(c *cobra.Command, args []string) error {
			ctx := c.Context()
			s, err := a.session(ctx)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // the runs' ends are durable
			known, err := s.store.Job(ctx, args[0])
			if err != nil {
				return err
			}
			display := progress.New(a.stderr)
			defer display.Close()
			r := a.runner(s)
			r.Log, r.ObserveVM = a.logger(display), display.Observe
			all, err := r.FailbackJob(ctx, known, *options)
			display.Close()
			if len(all) == 0 {
				return err
			}
			return errors.Join(err, a.print(all, func(w *strings.Builder) {
				for _, one := range all {
					writeFailback(w, one.Run)
				}
			}))
		},
	}
	options = addFailbackFlags(c)
	return c
}

func writeFailback(w *strings.Builder, run report.Run) {
	for _, e := range run.Events {
		fmt.Fprintf(w, "note: %s\n", e.Text)
	}
	if run.State == report.StateCommitted {
		fmt.Fprintf(w, "done: VM %s takes the work over again, VM %s of pool %s stands by\n",
			named(run.VM.Name, run.VM.UUID), named(run.Replica.Name, run.Replica.UUID), run.Replica.Pool)
	}
}

// findFailedOver is findReplica for a replica that is not in standby: of a VM that was reversed there is one each way, and the names fit both.
func findFailedOver(ctx context.Context, s *session, name string) (replication.Info, error) {
	pools, _ := s.all(ctx, nil)
	all, _ := replication.Replicas(ctx, s.store, pools...) // what is missing is told below
	var found []replication.Info
	for _, r := range all {
		fits := name == r.ID || name == r.VM.Name || name == r.VM.UUID || name == r.Replica.Name || name == r.Replica.UUID
		if fits && r.Failover != replica.Standby {
			found = append(found, r)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return findReplica(ctx, s, name)
}
