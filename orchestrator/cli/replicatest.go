package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/cli/progress"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

func (a *app) replicaTest() *cobra.Command {
	var request replication.TestRequest
	var end bool
	c := &cobra.Command{
		Use: "test VM|ID", Short: "Start a clone of a restore point, apart from the world", Args: cobra.ExactArgs(1),
		Long: `Clones a restore point of a replica and starts the clone, which has no network interface, or with --network
all of them on that network, with new addresses. The clone is left to you, until --end removes it.
With --auto it is watched until its drivers or its agent report, judged, and removed; the verdict, booted or failed,
stays with the restore point, see 'replica points'. A restore point that does not boot gives exit code 3.
The replica is not touched: its runs go on meanwhile.`,
		RunE: func(c *cobra.Command, args []string) error {
			if !end {
				return a.test(c.Context(), args[0], request)
			}
			for _, flag := range []string{"point", "network", "host", "auto", "timeout", "no-start"} {
				if c.Flags().Changed(flag) {
					return usagef("--end takes no --%s: it removes the clones of all tests of the replica", flag)
				}
			}
			return a.endTest(c.Context(), args[0])
		},
	}
	flags := c.Flags()
	flags.StringVar(&request.Point, "point", replication.Newest, "the restore `point`: its uuid, its name, the beginning of its generation, or 'newest'")
	flags.StringVar(&request.Network, "network", "", "the isolated `network` that all interfaces go to (default: the clone has no interface)")
	flags.StringVar(&request.Host, "host", "", "the `host` that runs the clone (default: the one with the most free memory)")
	flags.BoolVar(&request.Auto, "auto", false, "judge whether it boots, keep the verdict, and remove the clone")
	flags.DurationVar(&request.Timeout, "timeout", replication.DefaultTestTimeout, "how long the guest may take with --auto")
	flags.BoolVar(&request.NoStart, "no-start", false, "make the clone and do not start it")
	flags.BoolVar(&end, "end", false, "remove the clones that tests of this replica have left")
	return c
}

func (a *app) test(ctx context.Context, name string, request replication.TestRequest) error {
	if request.Auto && request.NoStart {
		return usagef("--auto with --no-start: what is not started cannot be judged")
	}
	if request.Timeout <= 0 {
		return usagef("--timeout %v: give a time above 0", request.Timeout)
	}
	s, err := a.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // the run's end is durable
	found, err := findReplica(ctx, s, name)
	if err != nil {
		return err
	}
	request.Replica = found.ID
	if request.Target, err = s.pool(ctx, found.Replica.PoolUUID); err != nil {
		return err
	}
	display := progress.New(a.stderr)
	defer display.Close()
	engine := &replication.Engine{Store: s.store, Log: a.logger(display), Observe: display.Observe}
	test, err := engine.Test(ctx, request)
	display.Close()
	if err != nil {
		return err
	}
	if err := a.print(test, func(w *strings.Builder) { writeTest(w, found.ID, test) }); err != nil {
		return err
	}
	if v := test.Found; v != nil && v.Outcome == replica.Failed {
		return fmt.Errorf("restore point %s: %w: it does not boot: %s", test.Name, errFindings, v.Cause)
	}
	return nil
}

func writeTest(w *strings.Builder, id string, t replication.Test) {
	for _, e := range t.Run.Events {
		fmt.Fprintf(w, "note: %s\n", e.Text)
	}
	switch {
	case t.Found != nil:
		fmt.Fprintf(w, "%s: restore point %s (%s) of %s\n", t.Found.Outcome, t.Name, t.Point, t.Time.UTC().Format(time.RFC3339))
	default:
		fmt.Fprintf(w, "VM %s (%s) of pool %s is yours; remove it with 'understudy replica test %s --end'\n", t.Clone.Name, t.Clone.UUID, t.Clone.Pool, id)
	}
}

// endedTests is what 'replica test --end' prints.
type endedTests struct {
	Replica string       `json:"replica"` // id
	Ended   []report.Run `json:"ended"`
}

func (a *app) endTest(ctx context.Context, name string) error {
	s, err := a.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // what was done is durable
	found, err := findReplica(ctx, s, name)
	if err != nil {
		return err
	}
	target, err := s.pool(ctx, found.Replica.PoolUUID)
	if err != nil {
		return err
	}
	runs, err := (&replication.Engine{Store: s.store, Log: a.logger(a.stderr)}).EndTest(ctx, replication.EndTestRequest{Replica: found.ID, Target: target})
	if len(runs) == 0 && err != nil {
		return err
	}
	document := endedTests{Replica: found.ID, Ended: runs}
	return errors.Join(err, a.print(document, func(w *strings.Builder) {
		for _, run := range runs {
			fmt.Fprintf(w, "ended: test %s of restore point %s\n", run.ID, run.RestorePoint)
		}
	}))
}
