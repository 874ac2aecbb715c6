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

func (a *app) replicaPoints() *cobra.Command {
	return &cobra.Command{
		Use: "points REPLICA", Short: "List the restore points of a replica, the newest first", Args: cobra.ExactArgs(1),
		Long: "Lists the restore points of a replica, which is named by its source VM, its own VM, or its id.",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.session(c.Context())
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // only read
			replica, err := findReplica(c.Context(), s, args[0])
			if err != nil {
				return err
			}
			target, err := s.pool(c.Context(), replica.Replica.PoolUUID)
			if err != nil {
				return err
			}
			points, err := replication.Points(c.Context(), s.store, replica.ID, target)
			if err != nil {
				return err
			}
			return a.print(points, func(w *strings.Builder) { writePoints(w, points) })
		},
	}
}

func writePoints(w *strings.Builder, points []replication.Point) {
	var rows [][]string
	for _, p := range points {
		var notes []string
		if p.Current {
			notes = append(notes, "the replica holds it")
		}
		if !p.Manifest {
			notes = append(notes, "without manifest")
		}
		if p.Verdict != nil {
			notes = append(notes, fmt.Sprintf("%s %s", p.Verdict.Outcome, p.Verdict.Time.UTC().Format(time.DateTime)))
		}
		if p.Keep != "" {
			notes = append(notes, "kept: "+p.Keep)
		}
		generation := "-"
		if !p.Generation.IsZero() {
			generation = p.Generation.String()[:8]
		}
		rows = append(rows, []string{p.Time.UTC().Format(time.DateTime), generation, size(p.Size), dash(strings.Join(notes, ", ")), p.UUID, p.Name})
	}
	printTable(w, []string{"TIME (UTC)", "GENERATION", "SIZE", "NOTES", "UUID", "NAME"}, rows)
}

func (a *app) replicaRevert() *cobra.Command {
	var point string
	c := &cobra.Command{
		Use: "revert REPLICA --to POINT", Short: "Take a replica back to one of its restore points", Args: cobra.ExactArgs(1),
		Long: "Has the pool take the replica VM back to a restore point, as 'replica points' lists them: its disks and its machine\n" +
			"are those of that time, it stays a standby copy, and later restore points stay. The next run brings it up to date\n" +
			"again, from there. One that was interrupted is finished by the next run, or by 'gc'.",
		RunE: func(c *cobra.Command, args []string) error { return a.revert(c.Context(), args[0], point) },
	}
	c.Flags().StringVar(&point, "to", "", "the restore `point`: its uuid, its name, the beginning of its generation, or 'newest'")
	required(c, "to")
	return c
}

func (a *app) revert(ctx context.Context, name, point string) error {
	s, err := a.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // the run's end is durable
	replica, err := findReplica(ctx, s, name)
	if err != nil {
		return err
	}
	target, err := s.pool(ctx, replica.Replica.PoolUUID)
	if err != nil {
		return err
	}
	display := progress.New(a.stderr)
	defer display.Close()
	engine := &replication.Engine{Store: s.store, Log: a.logger(display), Observe: display.Observe}
	run, err := engine.Revert(ctx, replication.RevertRequest{Replica: replica.ID, Target: target, Point: point})
	display.Close()
	if err != nil {
		return err
	}
	return a.print(run, func(w *strings.Builder) {
		for _, e := range run.Events {
			fmt.Fprintf(w, "note: %s\n", e.Text)
		}
		fmt.Fprintf(w, "replica %s holds restore point %s again\n", run.Replica.Name, run.RestorePoint)
	})
}
