package replication

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// checkRecord makes sure that no other run came in between the look at the pools and the beginning of this one: then what was
// decided is about another replica. From here on nobody else may change the record.
func (r *run) checkRecord(ctx context.Context) error {
	now, err := r.store.Replica(ctx, r.record.ID)
	if err != nil {
		return err
	}
	if !sameRecord(now, r.record) {
		return fmt.Errorf("another run was at work on replica %s: %w", r.record.ID, ErrChanged)
	}
	return nil
}

func sameRecord(a, b state.Replica) bool {
	return a.TargetVM == b.TargetVM && a.LastCommit.Equal(b.LastCommit) && a.Failover.State == b.Failover.State && slices.Equal(a.Disks, b.Disks)
}

// checkAgain decides once more whether the replica may be written and what it is taken for, on a look of its own: somebody may
// have used it since the plan. When its disks are plugged into a delegate, nobody else can write to them any more.
func (r *run) checkAgain(ctx context.Context) error {
	view, err := inventory.Load(ctx, r.target.API)
	if err != nil {
		return fmt.Errorf("pool %s: %w", r.target.Name, err)
	}
	record := r.record // as it was before this run: its sizes are those of the manifests
	record.TargetVM = r.standbyUUID
	found := findStandby(view, record)
	if found == nil {
		return fmt.Errorf("the replica VM %s is gone: %w", r.standbyUUID, ErrChanged)
	}
	g := gatherer{
		pool: view, installation: r.store.Installation().UUID, record: record, standby: found,
	}
	if r.delegates.target != nil {
		g.delegate = r.delegates.target.Ref
	}
	if r.standby != nil {
		if err := r.judgeAgain(ctx, g); err != nil {
			return err
		}
	} else if r.resumed {
		if err := r.checkUnused(ctx, time.Time{}); err != nil {
			return err // a replica that this run has made was never started
		}
	}
	for _, d := range r.disks {
		if held := found.disks[d.plan.Disk]; held.VBDRef.IsNull() || held.VDI.UUID != d.uuid {
			return fmt.Errorf("the replica VM does not hold its disk %s (VDI %s) any more: %w", d.plan.Disk, d.uuid, ErrChanged)
		}
		_, judged := r.standbyDisks[d.plan.Disk]
		if foreign := g.foreignVBDs(d.vdi); !judged && len(foreign) > 0 {
			return fmt.Errorf("VM %s holds the new disk %s of the replica: %w", foreign[0].VM, d.plan.Disk, ErrChanged)
		}
	}
	return r.checkRestorePoint(ctx, view)
}

// judgeAgain climbs the ladder of trust for the disks that were there before the run. Where trust was lost, they are scanned.
func (r *run) judgeAgain(ctx context.Context, g gatherer) error {
	disks := map[string]inventory.Disk{}
	for name := range r.standbyDisks {
		if disk, ok := g.standby.disks[name]; ok {
			disks[name] = disk
		}
	}
	evidence, err := r.evidenceOf(ctx, r.store, g, disks)
	if err != nil {
		return err
	}
	if r.leaves != nil {
		evidence.Leaves = r.leavesNow(evidence.Disks, disks)
	}
	decision := replica.Trust(evidence)
	if !decision.Writable {
		return r.held(r.standbyUUID, decision)
	}
	if r.resumed {
		return nil // a run that goes on is dirty by itself: what it takes the disks for is what it knew when it began
	}
	for _, d := range r.disks {
		if d.plan.Baseline == BaselineManifest {
			d.decide(decision)
		}
	}
	return nil
}

// decide has a disk that was to be trusted trusted or scanned, now that all is known.
func (d *diskRun) decide(decision replica.Decision) {
	d.plan.Rung, d.plan.Cause, d.plan.Untested = string(decision.Rung), decision.Cause, string(decision.Untested)
	switch {
	case decision.Mode == report.Trusted:
	case decision.Untested != "":
		d.plan.Baseline = BaselineScan
		d.report.event("trust-untested", "disk %s was to be trusted and is scanned: %s", d.plan.Disk, decision.Cause)
	default:
		d.plan.Baseline = BaselineScan
		d.report.event("trust-lost", "disk %s was to be trusted and is scanned, something changed while the run began: %s", d.plan.Disk, decision.Cause)
	}
	d.report.disk(d.plan.Disk, func(disk *report.Disk) {
		disk.Mode, disk.Rung, disk.Cause, disk.Untested = d.run.plan.mode(d.plan), d.plan.Rung, d.plan.Cause, d.plan.Untested
	})
}

// checkUnused makes sure that nobody started the replica since a time by its pool's clock.
func (r *run) checkUnused(ctx context.Context, since time.Time) error {
	vm, err := xapi.GetRecord[xapi.VM](ctx, r.target.API, classVM, r.standbyRef)
	if err != nil {
		return err
	}
	evidence := replica.VMEvidence{PowerState: vm.PowerState, LastCommit: since, AcceptedStart: r.record.AcceptedStart}
	if !vm.Metrics.IsNull() {
		metrics, err := xapi.GetRecord[xapi.VMMetrics](ctx, r.target.API, "VM_metrics", vm.Metrics)
		if err != nil {
			return err
		}
		evidence.StartTime = metrics.StartTime.Time
	}
	if decision, ok := replica.Unused(evidence); !ok {
		return r.held(r.standbyUUID, decision)
	}
	return nil
}
