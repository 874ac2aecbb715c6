package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/cli/progress"
	"github.com/understudy-dr/understudy/orchestrator/replication"
)

func (a *app) delegateTest() *cobra.Command {
	var request replication.TrialRequest
	c := &cobra.Command{
		Use:   "test POOL",
		Short: "Try a delegate out: start, identity, disks, reading and writing",
		Long: "Starts a delegate, proves its identity, has it copy its own boot disk to a scratch disk that is made for this,\n" +
			"reads both and compares them, and removes delegate and scratch disk again. No other disk is touched.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.tryDelegate(c.Context(), args[0], request) },
	}
	flags := c.Flags()
	flags.StringVar(&request.SR, "sr", "", "storage repository of the scratch disk, by `name` or uuid (default: that of the image)")
	flags.StringVar(&request.Host, "host", "", "`host` that the delegate is to run on, by name or uuid (default: any that sees the SR)")
	return c
}

func (a *app) tryDelegate(ctx context.Context, pool string, request replication.TrialRequest) error {
	s, err := a.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // the test's end is durable
	if request.Pool, err = s.pool(ctx, pool); err != nil {
		return err
	}
	display := progress.New(a.stderr)
	defer display.Close()
	request.Step = display.Step
	engine := &replication.Engine{Store: s.store, Log: a.logger(display)}
	trial, err := engine.TryDelegate(ctx, request)
	display.Close()
	if printing := a.print(trial, func(w *strings.Builder) { writeTrial(w, trial) }); err == nil {
		err = printing
	}
	return err
}

func writeTrial(w *strings.Builder, t replication.Trial) {
	var rows [][]string
	for _, step := range t.Steps {
		rate, outcome := "-", "ok"
		if step.Throughput > 0 {
			rate = size(step.Throughput) + "/s"
		}
		if step.Error != "" {
			outcome = "failed"
		}
		rows = append(rows, []string{step.Step, step.Duration.Round(time.Millisecond).String(), rate, outcome})
	}
	printTable(w, []string{"STEP", "TIME", "THROUGHPUT", "OUTCOME"}, rows)
	if t.Error == "" {
		fmt.Fprintf(w, "a delegate of version %s works on host %s of pool %s, with disks on SR %s\n", t.Version, t.Host, t.Pool, t.SR)
	}
}
