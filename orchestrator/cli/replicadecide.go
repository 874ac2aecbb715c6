package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

func (a *app) replicaShow() *cobra.Command {
	return &cobra.Command{
		Use: "show VM|ID", Short: "Show one replica with its disks and restore points", Args: cobra.ExactArgs(1),
		Long: "Says how a replica is as far as that can be told without reading it, and why. The replica is named by its source VM,\nits own VM, or its id.",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.session(c.Context())
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // only read
			found, err := findReplica(c.Context(), s, args[0])
			if err != nil {
				return err
			}
			pools, _ := s.all(c.Context(), []string{found.VM.PoolUUID, found.Replica.PoolUUID}) // the standing tells
			details, err := replication.Show(c.Context(), s.store, found.ID, pools...)
			if err != nil {
				return err
			}
			return a.print(details, func(w *strings.Builder) { writeDetails(w, details) })
		},
	}
}

func writeDetails(w *strings.Builder, d replication.Details) {
	writeReplicas(w, []replication.Info{d.Info})
	switch d.Trust {
	case state.TrustAlways:
		fmt.Fprintln(w, "runs trust it, whatever they are asked, where the evidence allows")
	case state.TrustNever:
		fmt.Fprintln(w, "distrusted: every run scans it")
	}
	if l := d.Lease; l != nil {
		fmt.Fprintln(w, "lease:", leaseText(*l))
	}
	for _, disk := range d.DiskList {
		known := disk.State
		if known == "" {
			known = "its content is not known"
		}
		fmt.Fprintf(w, "disk %s: VDI %s, %s, %s\n", disk.Disk, disk.TargetVDI, size(disk.Size), known)
		if disk.ForeignWrites != "" {
			fmt.Fprintf(w, "  written by somebody else: %s\n", disk.ForeignWrites)
		}
	}
	for _, list := range []struct {
		what      string
		snapshots []replication.SnapshotInfo
	}{{"restore point", d.Points}, {"kept when it had diverged", d.Kept}} {
		for _, p := range list.snapshots {
			fmt.Fprintf(w, "%s: %s (%s) of %s\n", list.what, p.Name, p.UUID, p.Time.UTC().Format(time.RFC3339))
			if v := p.Verdict; v != nil {
				fmt.Fprintf(w, "  %s at its test of %s: %s\n", v.Outcome, v.Time.UTC().Format(time.RFC3339), v.Cause)
			}
		}
	}
	for _, t := range d.Tests {
		state := "under way"
		if t.Left {
			state = fmt.Sprintf("left to you, 'understudy replica test %s --end' removes it", d.ID)
		}
		fmt.Fprintf(w, "test since %s: VM %s, a clone of restore point %s: %s\n", t.Started.UTC().Format(time.RFC3339), dash(t.Clone), t.Point, state)
	}
}

// leaseText says which orchestrator is at work on a replica, or was last.
func leaseText(l replication.LeaseInfo) string {
	who := fmt.Sprintf("run %s of process %s", l.Run, l.Process)
	switch {
	case l.Held:
		return fmt.Sprintf("%s has it until %s by the pool's clock, unless it renews it", who, l.Until.UTC().Format(time.RFC3339))
	case !l.Free():
		return fmt.Sprintf("%s had it until %s and did not give it back", who, l.Until.UTC().Format(time.RFC3339))
	}
	return "free; " + who + " had it last"
}

func (a *app) replicaTrust() *cobra.Command {
	return a.trustCommand("trust", "Have the runs of a replica trust it, whatever they are asked", state.TrustAlways,
		"From the next run on the scan of the replica is left out where every rung of evidence holds, as with --trust.\n"+
			"It takes back what 'replica distrust' said. Nothing is trusted against the evidence.")
}

func (a *app) replicaDistrust() *cobra.Command {
	return a.trustCommand("distrust", "Have every run of a replica scan it", state.TrustNever,
		"From the next run on every run reads the whole replica and compares it, whatever it is asked, until 'replica trust'\nor --reset takes that back.")
}

func (a *app) trustCommand(verb, short string, word state.TrustOverride, long string) *cobra.Command {
	var reset bool
	c := &cobra.Command{
		Use: verb + " VM|ID", Short: short, Long: long, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			given := word
			if reset {
				given = state.TrustAsAsked
			}
			return a.setTrust(c.Context(), args[0], given)
		},
	}
	c.Flags().BoolVar(&reset, "reset", false, "take back what was said: each run trusts as it is asked")
	return c
}

func (a *app) setTrust(ctx context.Context, name string, word state.TrustOverride) error {
	s, err := a.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // the word is durable
	found, err := findReplica(ctx, s, name)
	if err != nil {
		return err
	}
	if err := s.store.SetTrust(ctx, found.ID, word); err != nil {
		return err
	}
	found.Trust = word
	return a.print(found, func(w *strings.Builder) {
		fmt.Fprintf(w, "replica %s: %s\n", found.ID, map[state.TrustOverride]string{
			state.TrustAlways: "the next runs trust it where the evidence allows", state.TrustNever: "the next runs scan it",
			state.TrustAsAsked: "the next runs trust it as they are asked",
		}[word])
	})
}

func (a *app) replicaResync() *cobra.Command {
	return &cobra.Command{
		Use: "resync VM|ID", Short: "Let the next run overwrite a replica that has diverged", Args: cobra.ExactArgs(1),
		Long: "Keeps the replica as somebody left it in a snapshot that no retention removes, and ends its hold: the next run scans\nthe replica and brings it up to date. The replica must be shut down, and no other VM may hold its disks.",
		RunE: func(c *cobra.Command, args []string) error {
			return a.decide(c.Context(), args[0], func(ctx context.Context, e *replication.Engine, id string, target, _ *delegate.Pool) (report.Run, error) {
				return e.Resync(ctx, replication.ResyncRequest{Replica: id, Target: target})
			})
		},
	}
}

func (a *app) replicaDetach() *cobra.Command {
	var remove, forget bool
	c := &cobra.Command{
		Use: "detach VM|ID", Short: "Make a replica a VM of its own, and forget it", Args: cobra.ExactArgs(1),
		Long: "Takes markers, blocked operations and the tag off the replica's VM, its disks and its restore points, and forgets it.\nThe restore points stay as snapshots of the VM. The next run of the source VM to the same storage makes a new replica.\n\n" +
			"--forget is for a pool that is lost for good: the replica is forgotten, and its pool is not asked.",
		RunE: func(c *cobra.Command, args []string) error {
			if forget {
				return a.forgetReplica(c.Context(), args[0])
			}
			return a.decide(c.Context(), args[0], func(ctx context.Context, e *replication.Engine, id string, target, source *delegate.Pool) (report.Run, error) {
				return e.Detach(ctx, replication.DetachRequest{Replica: id, Target: target, Source: source, RemoveRestorePoints: remove})
			})
		},
	}
	c.Flags().BoolVar(&remove, "remove-restore-points", false, "remove its restore points with their disks; what 'replica resync' has kept stays")
	c.Flags().BoolVar(&forget, "forget", false, "forget the replica and leave its VM as it is, for a pool that is lost for good")
	c.MarkFlagsMutuallyExclusive("forget", "remove-restore-points")
	return c
}

// forgetReplica forgets a replica whose pool is not asked.
func (a *app) forgetReplica(ctx context.Context, name string) error {
	s, err := a.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // the run's end is durable
	found, err := findReplica(ctx, s, name)
	if err != nil {
		return err
	}
	pools, _ := s.all(ctx, nil) // those that answer
	run, err := (&replication.Engine{Store: s.store, Log: a.logger(a.stderr)}).Forget(ctx, found.ID, pools...)
	if err != nil {
		return err
	}
	return a.print(run, func(w *strings.Builder) {
		for _, e := range run.Events {
			fmt.Fprintf(w, "note: %s\n", e.Text)
		}
		fmt.Fprintf(w, "forgotten: replica %s; nothing in a pool was changed\n", found.ID)
	})
}

// decide carries out what an administrator has chosen for a replica. The source's pool is nil when it does not answer.
func (a *app) decide(ctx context.Context, name string, do func(ctx context.Context, e *replication.Engine, id string, target, source *delegate.Pool) (report.Run, error)) error {
	s, err := a.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // the run's end is durable
	found, err := findReplica(ctx, s, name)
	if err != nil {
		return err
	}
	target, err := s.pool(ctx, found.Replica.PoolUUID)
	if err != nil {
		return err
	}
	var source *delegate.Pool
	if answering, _ := s.all(ctx, []string{found.VM.PoolUUID}); len(answering) > 0 {
		source = answering[0]
	}
	run, err := do(ctx, &replication.Engine{Store: s.store, Log: a.logger(a.stderr)}, found.ID, target, source)
	if err != nil {
		return err
	}
	return a.print(run, func(w *strings.Builder) {
		for _, e := range run.Events {
			fmt.Fprintf(w, "note: %s\n", e.Text)
		}
		fmt.Fprintf(w, "done: VM %s of pool %s\n", named(run.Replica.Name, run.Replica.UUID), run.Replica.Pool)
	})
}
