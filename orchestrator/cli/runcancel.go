package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// cancelWait is how long a command waits for the end of a run that it has cancelled, unless told: delegates are ended and what the
// run had made is removed first.
const cancelWait = 2 * time.Minute

// cancelDocument says what became of a run that was cancelled. Run is empty when none was under way.
type cancelDocument struct {
	Run   string       `json:"run,omitempty"`
	State report.State `json:"state,omitempty"`
}

// cancelFlags defines the flags of commands that cancel.
func cancelFlags(c *cobra.Command) (wait *time.Duration) {
	c.Long = "Asks the process that executes the run, on whichever machine, to end it, and waits until it has: delegates are ended,\n" +
		"clones and snapshots removed, and each replica keeps its newest restore point. A run that has not ended within --wait\n" +
		"is an error; it ends later all the same."
	return c.Flags().Duration("wait", cancelWait, "at most this `time` to wait for the end")
}

func (a *app) runCancel() *cobra.Command {
	c := &cobra.Command{
		Use: "cancel ID", Short: "Cancel a run that is under way, and wait for its end", Args: cobra.ExactArgs(1),
	}
	wait := cancelFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		store, err := a.open(c.Context())
		if err != nil {
			return err
		}
		defer store.Close() //nolint:errcheck // what was asked for is durable
		return a.cancelRun(c.Context(), store, args[0], *wait)
	}
	return c
}

// cancelRun cancels a run, of a job or of a VM, and waits for its end. A run that has ended stays as it is.
func (a *app) cancelRun(ctx context.Context, store *state.Store, id string, wait time.Duration) error {
	r, err := findRecorded(ctx, store, id)
	if err != nil {
		return err
	}
	text := "run %s had ended before: %s\n"
	if !r.state().Final() {
		text = "run %s has ended: %s\n"
		if err := store.CancelRun(ctx, id); err != nil && !errors.Is(err, state.ErrEnded) {
			return err
		}
		waiting, stop := context.WithTimeout(ctx, wait)
		defer stop()
		r, err = a.follow(waiting, store, id)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return fmt.Errorf("run %s was asked to end and has not within %s: 'understudy run watch %s' follows it", id, wait, id)
		}
		if err != nil {
			return err
		}
	}
	return a.print(cancelDocument{Run: id, State: r.state()}, func(w *strings.Builder) { fmt.Fprintf(w, text, id, r.state()) })
}

func (a *app) jobCancel() *cobra.Command {
	c := &cobra.Command{
		Use: "cancel NAME", Short: "Cancel the run of a job that is under way, and wait for its end", Args: cobra.ExactArgs(1),
	}
	wait := cancelFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		store, err := a.open(c.Context())
		if err != nil {
			return err
		}
		defer store.Close() //nolint:errcheck // what was asked for is durable
		known, err := store.Job(c.Context(), args[0])
		if err != nil {
			return err
		}
		runs, err := store.JobRuns(c.Context(), known.ID, 1) // there is at most one under way, and it is the newest
		if err != nil {
			return err
		}
		if len(runs) == 0 || runs[0].Report.State.Final() {
			return a.print(cancelDocument{}, func(w *strings.Builder) {
				fmt.Fprintf(w, "no run of job %s is under way\n", known.Definition.Name)
			})
		}
		return a.cancelRun(c.Context(), store, runs[0].Report.ID, *wait)
	}
	return c
}
