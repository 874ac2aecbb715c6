package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/cli/progress"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

func (a *app) replicaList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the replicas and how they are", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.session(c.Context())
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // only read
			pools, unreachable := s.all(c.Context(), nil)
			found, err := replication.Replicas(c.Context(), s.store, pools...)
			if found == nil {
				found = []replication.Info{}
			}
			// What a pool that does not answer hides is in the error; the rest is shown.
			return errors.Join(a.print(found, func(w *strings.Builder) { writeReplicas(w, found) }), unreachable, err)
		},
	}
}

func writeReplicas(w *strings.Builder, replicas []replication.Info) {
	var rows [][]string
	for _, r := range replicas {
		age := "-"
		if !r.LastCommit.IsZero() {
			age = r.Age(time.Now()).Round(time.Second).String()
		}
		generation := "-"
		if !r.Generation.IsZero() {
			generation = r.Generation.String()[:8]
		}
		rows = append(rows, []string{
			named(r.VM.Name, r.VM.UUID), named(r.VM.Pool, r.VM.PoolUUID), named(r.Replica.Name, r.Replica.UUID), named(r.Replica.Pool, r.Replica.PoolUUID),
			named(r.SRName, r.SR), stateOf(r), generation, age, strconv.Itoa(r.RestorePoints), size(r.Size), r.ID,
		})
	}
	header := []string{"VM", "FROM", "REPLICA", "TO", "SR", "STATE", "GENERATION", "AGE", "POINTS", "SIZE", "ID"}
	printTable(w, header, rows)
	for _, r := range replicas {
		if r.Failover != replica.Standby {
			writeFailover(w, r)
		} else if r.Cause != "" {
			fmt.Fprintf(w, "%s: %s: %s\n", named(r.Replica.Name, r.Replica.UUID), r.Standing, r.Cause)
		}
	}
}

// stateOf is how a replica is, or, when it has failed over, what it does.
func stateOf(r replication.Info) string {
	if r.Failover != replica.Standby {
		return r.Failover.String()
	}
	return string(r.Standing)
}

// named prefers a name to a uuid; a pool that was not asked gives no names.
func named(name, uuid string) string {
	if name == "" {
		return dash(uuid)
	}
	return name
}

func (a *app) replicaVerify() *cobra.Command {
	return &cobra.Command{
		Use: "verify VM|ID", Short: "Read a replica's newest restore point and compare it with its manifest", Args: cobra.ExactArgs(1),
		Long: "Has a delegate read every disk of the newest restore point and compares it with the manifest of the last run.\nThe replica is named by its source VM, its own VM, or its id. Nothing is written to it.",
		RunE: func(c *cobra.Command, args []string) error { return a.verify(c.Context(), args[0]) },
	}
}

func (a *app) verify(ctx context.Context, name string) error {
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
	found, err := engine.Verify(ctx, replication.VerifyRequest{Replica: replica.ID, Target: target})
	display.Close()
	if err != nil {
		return err
	}
	if err := a.print(found, func(w *strings.Builder) { writeVerification(w, found) }); err != nil {
		return err
	}
	if !found.Equal() {
		return fmt.Errorf("replica %s: %w: it does not hold what its manifest says; the next run without --trust mends it", name, errFindings)
	}
	return nil
}

// findReplica finds a replica by its id, or by the name or uuid of its source VM or its own VM.
func findReplica(ctx context.Context, s *session, name string) (replication.Info, error) {
	pools, unreachable := s.all(ctx, nil)
	all, err := replication.Replicas(ctx, s.store, pools...)
	if err != nil {
		return replication.Info{}, errors.Join(unreachable, err)
	}
	var found []replication.Info
	var ids []string
	for _, r := range all {
		if r.ID == name {
			return r, nil
		}
		if name == r.VM.Name || name == r.VM.UUID || name == r.Replica.Name || name == r.Replica.UUID {
			found, ids = append(found, r), append(ids, r.ID)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return replication.Info{}, usagef("%d replicas fit %q: name one by its id, %s", len(ids), name, strings.Join(ids, " or "))
	case unreachable != nil: // it may be there, under a name that a pool did not tell
		return replication.Info{}, fmt.Errorf("replica %q is not known by its id, and not every pool answers: %w", name, unreachable)
	}
	return replication.Info{}, fmt.Errorf("replica %q: %w: 'understudy replica list' shows them all", name, state.ErrNotFound)
}

func writeVerification(w *strings.Builder, v replication.Verification) {
	for _, d := range v.Disks {
		if d.Want == d.Got {
			fmt.Fprintf(w, "disk %s: %s hold what the manifest says\n", d.Disk, size(d.Size))
			continue
		}
		fmt.Fprintf(w, "disk %s: root %s, the manifest says %s\n", d.Disk, d.Got, d.Want)
		for _, r := range d.Differing {
			fmt.Fprintf(w, "  differs: %s at offset %d\n", size(r.Length), r.Offset)
		}
	}
}
