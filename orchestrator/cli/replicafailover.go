package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/cli/progress"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

func (a *app) replicaFailover() *cobra.Command {
	var request replication.FailoverRequest
	c := &cobra.Command{
		Use: "failover REPLICA", Short: "Have a replica do the work of its source VM", Args: cobra.ExactArgs(1),
		Long: "Starts the replica, at its last commit or at the restore point that is named, and suspends its job. The source's pool may\n" +
			"be lost; one that answers is asked whether the source VM runs, and keeps it from being started.\n\n" +
			"With --planned nothing is lost: the replica is brought up to date, the source VM is shut down, what it wrote until then\n" +
			"is replicated, and the replica is started. What fails before that has the source VM started again.\n\n" +
			"'replica undo' gives up what the replica did and has it wait again, 'replica commit' makes it final. A failover that was\n" +
			"cut short goes on when it is repeated.",
		RunE: func(c *cobra.Command, args []string) error { return a.failover(c.Context(), args[0], request) },
	}
	flags := c.Flags()
	flags.StringVar(&request.Point, "point", "", "the restore `point` to begin with: its uuid, its name, the beginning of its generation, or 'newest'")
	flags.BoolVar(&request.Planned, "planned", false, "shut the source VM down and lose nothing")
	flags.BoolVar(&request.Hard, "hard", false, "with --planned: switch the source VM off when it does not shut down")
	flags.DurationVar(&request.ShutdownTimeout, "shutdown-timeout", 0, "with --planned: how long the source VM may take to shut down (default 21m)")
	flags.BoolVar(&request.Force, "force", false, "start the replica although the source VM runs: two machines with the same addresses")
	flags.BoolVar(&request.NoUndo, "no-undo", false, "fail over although there is no restore point that the replica could be taken back to")
	flags.BoolVar(&request.NoStart, "no-start", false, "leave the replica halted, to be started by hand")
	flags.StringVar(&request.Host, "host", "", "the `host` to start it on, by name or uuid; else its pool chooses")
	c.MarkFlagsMutuallyExclusive("planned", "force")
	c.MarkFlagsMutuallyExclusive("planned", "point")
	c.MarkFlagsMutuallyExclusive("no-start", "host")
	return c
}

func (a *app) failover(ctx context.Context, name string, request replication.FailoverRequest) error {
	if !request.Planned && (request.Hard || request.ShutdownTimeout != 0) {
		return usagef("--hard and --shutdown-timeout are about the source VM of a --planned failover")
	}
	return a.turn(ctx, name, func(ctx context.Context, t turning) (report.Run, error) {
		request.Replica, request.Target, request.Source = t.found.ID, t.target, t.source
		if request.Planned {
			record, err := t.session.store.Replica(ctx, t.found.ID)
			if err != nil {
				return report.Run{}, err
			}
			if request.Source, err = t.session.pool(ctx, t.found.VM.PoolUUID); err != nil { // says why it does not answer
				return report.Run{}, err
			}
			if request.Sync, err = a.runner(t.session).RequestFor(ctx, record); err != nil {
				return report.Run{}, err
			}
		}
		return t.engine.Failover(ctx, request)
	})
}

func (a *app) replicaUndo() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "undo REPLICA --yes", Short: "Give up what a replica did since its failover, and have it wait again", Args: cobra.ExactArgs(1),
		Long: "Switches the replica off, takes it back to the restore point that it had begun with, and has it wait again: its job goes\n" +
			"on. The source VM may be started again, and is when the failover had shut it down. What the replica wrote is lost.",
		RunE: func(c *cobra.Command, args []string) error {
			if !yes {
				return usagef("an undo switches the replica off and gives up all that it wrote since its failover: if that is meant, say --yes")
			}
			return a.turn(c.Context(), args[0], func(ctx context.Context, t turning) (report.Run, error) {
				return t.engine.UndoFailover(ctx, replication.UndoRequest{Replica: t.found.ID, Target: t.target, Source: t.source})
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "what the replica wrote since its failover may be lost")
	return c
}

func (a *app) replicaCommit() *cobra.Command {
	return &cobra.Command{
		Use: "commit REPLICA", Short: "Make a failover final", Args: cobra.ExactArgs(1),
		Long: "The replica keeps the work, and the failover cannot be undone any more. Its restore points stay. Its job stays suspended\n" +
			"for it until it is reversed, or detached ('replica detach').",
		RunE: func(c *cobra.Command, args []string) error {
			return a.turn(c.Context(), args[0], func(ctx context.Context, t turning) (report.Run, error) {
				return t.engine.CommitFailover(ctx, replication.CommitRequest{Replica: t.found.ID, Target: t.target})
			})
		},
	}
}

// turning is what a verb of a failover works with.
type turning struct {
	session        *session
	engine         *replication.Engine
	found          replication.Info
	target, source *delegate.Pool // source: nil when it does not answer
}

// turnDocument is what a verb of a failover prints.
type turnDocument struct {
	Run     report.Run       `json:"run"`
	Replica replication.Info `json:"replica"` // as it is now
}

// turn carries out a verb of a failover, and says how the replica is then.
func (a *app) turn(ctx context.Context, name string, do func(context.Context, turning) (report.Run, error)) error {
	s, err := a.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // state and run are durable
	found, err := findReplica(ctx, s, name)
	if err != nil {
		return err
	}
	target, err := s.pool(ctx, found.Replica.PoolUUID)
	if err != nil {
		return err
	}
	display := progress.New(a.stderr)
	defer display.Close()
	engine := &replication.Engine{Store: s.store, Log: a.logger(display), Observe: display.Observe}
	run, err := do(ctx, turning{session: s, engine: engine, found: found, target: target, source: s.connected(found.VM.PoolUUID)})
	display.Close()
	if err != nil {
		for _, e := range run.Events {
			_, _ = fmt.Fprintf(a.stderr, "note: %s\n", e.Text)
		}
		return err
	}
	now, err := replication.Show(ctx, s.store, found.ID, target)
	if err != nil {
		return err
	}
	return a.print(turnDocument{run, now.Info}, func(w *strings.Builder) {
		for _, e := range run.Events {
			fmt.Fprintf(w, "note: %s\n", e.Text)
		}
		writeFailover(w, now.Info)
	})
}

// writeFailover says where a replica stands between waiting and doing the work, since when, and what can be done about it.
func writeFailover(w *strings.Builder, r replication.Info) {
	verbs := make([]string, len(r.Verbs))
	for i, v := range r.Verbs {
		verbs[i] = string(v)
	}
	since := ""
	if !r.FailoverSince.IsZero() {
		since = " since " + r.FailoverSince.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(w, "%s: %s%s", named(r.Replica.Name, r.Replica.UUID), r.Failover, since)
	if r.FailoverPoint != "" {
		fmt.Fprintf(w, ", restore point %s", r.FailoverPoint)
	}
	if r.Failover != replica.Standby && len(verbs) > 0 {
		fmt.Fprintf(w, "; what can be done about it: %s", strings.Join(verbs, ", "))
	}
	fmt.Fprintln(w)
}
