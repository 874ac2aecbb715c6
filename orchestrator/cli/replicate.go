package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/orchestrator/cli/progress"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

// replicateFlags are those of 'replicate'.
type replicateFlags struct {
	from, to    string // pools
	request     replication.Request
	method      string
	direction   string
	verify      string
	consistency string
	cbt         string
	networks    map[string]string
	limit       string
	dryRun      bool
}

func (a *app) replicate() *cobra.Command {
	var f replicateFlags
	c := &cobra.Command{
		Use:   "replicate VM --from POOL --to POOL --sr SR",
		Short: "Make, or bring up to date, the replica of a VM",
		Long: "Copies the disks of VM, named by name or uuid, as they are now to its replica in the storage repository SR of\n" +
			"the target pool, and commits that as a new restore point. The replica is made when there is none.\n\n" +
			"Without --trust the whole replica is read and compared. With it, that is left out when everything speaks for\n" +
			"the replica being as the last run left it; where something does not, the report names it.\n\n" +
			"With --method standard no delegate is needed: the source pool exports the disks, the target pool imports them, and\n" +
			"everything goes through this machine, each time.\n\n" +
			"A run of the same kind whose process died while it moved disks goes on instead, within six hours, and commits\n" +
			"the VM as it was when that run began.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			f.request.VM = args[0]
			f.request.Direction = report.Direction(f.direction)
			if !f.request.Direction.Valid() {
				return usagef("--direction %s: it is push or pull", f.direction)
			}
			f.request.Method = report.Method(f.method)
			if !f.request.Method.Valid() {
				return usagef("--method %s: it is enhanced or standard", f.method)
			}
			f.request.ReadBack = replication.ReadBack(f.verify)
			if !f.request.ReadBack.Valid() {
				return usagef("--verify %s: it is none, sample or full", f.verify)
			}
			f.request.Consistency = report.Consistency(f.consistency)
			if !f.request.Consistency.Valid() {
				return usagef("--consistency %s: it is disk or paused", f.consistency)
			}
			f.request.CBT = replication.CBT(f.cbt)
			if !f.request.CBT.Valid() {
				return usagef("--cbt %s: it is on or off", f.cbt)
			}
			f.request.NetworkMap = f.networks
			limit, err := ratelimit.Parse(f.limit)
			if err != nil {
				return usageError{err}
			}
			f.request.Limit = limit
			return a.runReplicate(c.Context(), f)
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.from, "from", "", "`pool` of the VM")
	flags.StringVar(&f.to, "to", "", "`pool` of the replica; may be the same")
	flags.StringVar(&f.request.SR, "sr", "", "storage repository of the replica, by `name` or uuid")
	flags.StringToStringVar(&f.request.DiskSRs, "disk-sr", nil, "another storage repository for single disks, by the number of their device: `DISK=SR`")
	flags.StringVar(&f.method, "method", string(report.Enhanced), methodUsage)
	flags.StringVar(&f.direction, "direction", string(report.Push), "which delegate dials the other: `push` or pull")
	flags.BoolVar(&f.request.Trust, "trust", false, "trust the integrity of the destination: skip its scan where the evidence allows")
	flags.StringVar(&f.verify, "verify", string(replication.ReadBackSample),
		"what of the replica is read back before the commit: none, a `sample` (all of it within 32 runs) or full")
	flags.StringVar(&f.consistency, "consistency", string(report.ConsistencyDisk), "how the disks of a VM that runs are snapshotted: `disk` after disk, or with the VM paused meanwhile")
	flags.StringVar(&f.cbt, "cbt", string(replication.CBTOn),
		"whether the change tracking of the source's storage spares reading: `on`, where it is to be had, or off, which removes what was kept for it")
	flags.BoolVar(&f.request.OverwriteTarget, "overwrite", true, "bring an existing replica up to date; with =false it is an error that there is one")
	flags.IntVar(&f.request.Retention, "retention", replication.DefaultRetention, "how many restore points are kept, 1 to 16; those that are pinned count for nothing")
	flags.BoolVar(&f.request.RequireRestorePoint, "require-restore-point", false, "fail before anything is written when no new restore point could be made, instead of keeping the last one")
	flags.BoolVar(&f.request.DropVTPM, "drop-vtpm", false, "replicate a VM with a virtual TPM without it; else such a VM is refused")
	flags.StringToStringVar(&f.networks, "network", nil, "target network for a source network, by name: `SOURCE=TARGET`; else that of the same name")
	flags.StringSliceVar(&f.request.Seeds, "seed", nil,
		"another `replica` in the target pool, by name or uuid: what a new disk has in common with its newest restore point is copied there and not sent")
	flags.StringVar(&f.limit, "limit", "", "how fast the delegate may send, by the orchestrator's hours: `RULES` such as '20MB/s 08:00-18:00,50MB/s'")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would be done, and do nothing")
	required(c, "from", "to", "sr")
	return c
}

func (a *app) runReplicate(ctx context.Context, f replicateFlags) error {
	s, err := a.session(ctx)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // the run's end is durable
	if f.request.Source, err = s.pool(ctx, f.from); err != nil {
		return err
	}
	if f.request.Target, err = s.pool(ctx, f.to); err != nil {
		return err
	}
	display := progress.New(a.stderr)
	defer display.Close()
	engine := &replication.Engine{Store: s.store, Log: a.logger(display), Observe: display.Observe}
	if f.dryRun {
		plan, err := engine.Plan(ctx, f.request)
		if err != nil {
			return err
		}
		return a.print(plan, func(w *strings.Builder) {
			writePlan(w, plan)
			writeFindings(w, plan.Findings)
			fmt.Fprintln(w, "nothing was done")
		})
	}
	run, err := engine.Replicate(ctx, f.request)
	display.Close()
	if run.ID == "" {
		return err
	}
	if printing := a.print(run, func(w *strings.Builder) { writeRun(w, run) }); err == nil {
		err = printing
	}
	return err
}

// writeRun tells people how a run went.
func writeRun(w *strings.Builder, run report.Run) {
	_ = report.WriteTable(w, report.Rows(run.VM.Name, run)) // a Builder takes everything
	writeDelegates(w, run)
	for _, d := range run.Disks {
		if run.Method == report.Standard {
			fmt.Fprintf(w, "disk %s was copied whole: %s\n", d.Disk, d.Cause)
			continue
		}
		fmt.Fprintf(w, "disk %s was compared %s: %s\n", d.Disk, d.Mode, reason(d.Rung, d.Cause, d.Untested))
	}
	if snapshot := run.Snapshot.Sentence(); snapshot != "" {
		fmt.Fprintf(w, "snapshot: %s\n", snapshot)
	}
	for _, e := range run.Events {
		fmt.Fprintf(w, "note: %s\n", e.Text)
	}
	fmt.Fprintf(w, "%s: VM %s of pool %s to VM %s of pool %s in %s\n",
		run.State, run.VM.Name, run.VM.Pool, run.Replica.Name, run.Replica.Pool, run.Finished.Sub(run.Started).Round(10*time.Millisecond))
}

// writeDelegates tells between which delegates a run's data went, and which of them dialled.
func writeDelegates(w *strings.Builder, run report.Run) {
	for _, d := range run.Delegates {
		fmt.Fprintf(w, "delegate (%s) on host %s of pool %s, %s", d.Side, d.Host, d.Pool, d.Address)
		switch {
		case d.Dials != "":
			fmt.Fprintf(w, ", dials %s (%s)", d.Dials, run.Direction)
		case len(run.Delegates) == 1:
			fmt.Fprint(w, ", copies from disk to disk")
		}
		fmt.Fprintln(w)
	}
}

// reason joins what trust came to.
func reason(rung, cause, untested string) string {
	text := cause
	if text == "" {
		text = "rung " + rung
	}
	if untested != "" {
		text += " (not tested: " + untested + ")"
	}
	return text
}

// writePlan tells people what a run would do.
func writePlan(w *strings.Builder, p replication.Plan) {
	made := "which exists"
	if p.Replica.UUID == "" {
		made = "which will be made"
	}
	fmt.Fprintf(w, "VM %s of pool %s to VM %s of pool %s, %s, on SR %s\n", p.VM.Name, p.VM.Pool, p.Replica.Name, p.Replica.Pool, made, p.SRName)
	if p.Method == report.Standard {
		fmt.Fprintf(w, "by the standard method: pool %s exports the disks, pool %s imports them, and everything goes through this machine\n", p.VM.Pool, p.Replica.Pool)
	}
	for _, d := range p.Disks {
		if p.Method == report.Standard {
			fmt.Fprintf(w, "disk %s (%s): %s, copied whole; %s\n", d.Disk, size(d.Size), d.Action, d.Cause)
			continue
		}
		fmt.Fprintf(w, "disk %s (%s): %s, compared with: %s; %s\n", d.Disk, size(d.Size), d.Action, d.Baseline, reason(d.Rung, d.Cause, d.Untested))
	}
	if p.Consistency == report.ConsistencyPaused {
		fmt.Fprintln(w, "the VM is paused while it is snapshotted, if it runs")
	}
	for _, disk := range p.Removed {
		fmt.Fprintf(w, "disk %s is no more in the source: it is detached from the replica and kept\n", disk)
	}
	for _, d := range p.Placement.Delegates {
		var disks []string
		for _, attachment := range d.Attachments {
			disks = append(disks, strconv.Itoa(attachment.Disk))
		}
		dials := ""
		switch p.Placement.Dialer {
		case placement.SideBoth:
			dials = ", copies from disk to disk"
		case d.Side:
			dials = fmt.Sprintf(", dials the other (%s)", p.Direction)
		}
		fmt.Fprintf(w, "delegate (%s) on host %s of pool %s, image %s, disks %s%s\n", d.Side, d.HostName, d.PoolName, d.TemplateVersion, strings.Join(disks, ", "), dials)
	}
	for _, s := range p.Placement.Space {
		free := "the SR does not tell its free space"
		if s.Known {
			free = size(s.Free) + " free"
		}
		fmt.Fprintf(w, "space (%s) on SR %s: at most %s, %s\n", s.Side, s.SRName, size(s.Needed), free)
	}
	if len(p.Limit) > 0 {
		fmt.Fprintf(w, "sends at most %s\n", p.Limit)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(w, "note: %s\n", n.Text)
	}
}
