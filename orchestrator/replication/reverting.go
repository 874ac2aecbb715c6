package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// reverting are the steps of a revert, in their order.
var reverting = []struct {
	name  string
	phase report.Phase
	do    func(*reversion, context.Context) error
}{
	{"check the record", report.PhasePrepare, (*reversion).checkRecord},
	{"take the lease", "", (*reversion).takeLease},
	{"mark dirty", "", (*reversion).markDirty},
	{"revert", report.PhaseTransfer, (*reversion).revert},
	{"commit", report.PhaseCommit, (*reversion).commit},
}

func (v *reversion) execute(ctx context.Context) error {
	if v.again {
		v.report.event("recovered", "a revert of the replica was interrupted before: it is done again")
	}
	for _, s := range reverting {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if s.phase != "" {
			v.report.phase(s.phase)
		}
		if err := v.engine.step(s.name, func() error { return s.do(v, ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// checkRecord makes sure that no run came in between the look at the pool and this one.
func (v *reversion) checkRecord(ctx context.Context) error {
	now, err := v.store.Replica(ctx, v.record.ID)
	if err == nil && !sameRecord(now, v.record) {
		err = fmt.Errorf("another run was at work on replica %s: %w", v.record.ID, ErrChanged)
	}
	return err
}

// takeLease takes the replica's lease. What had it since the look at the pool changed what was decided on.
func (v *reversion) takeLease(ctx context.Context) error {
	l := leased{replica: v.record.ID, pool: v.target, vm: v.standby.vm.Ref}
	for _, d := range v.standby.disks {
		l.disks = append(l.disks, d.VDIRef)
	}
	guarded, err := v.tenure.take(ctx, l, v.report.event)
	if err != nil {
		return err
	}
	v.target = guarded
	if now := v.tenure.held.Former; now.Number != lease.Newest(v.standby.vm.OtherConfig).Number {
		return fmt.Errorf("run %s of process %s was at work on the replica: %w", now.Run, now.Process, ErrChanged)
	}
	return nil
}

// markDirty makes it durable that what is known of the replica does not hold any more, and lets the pool revert it.
func (v *reversion) markDirty(ctx context.Context) error {
	dirty := manifest.State{Dirty: true, Generation: v.generation}
	if err := v.store.SetDirty(ctx, v.record.ID, v.generation); err != nil {
		return err
	}
	if err := replica.SetState(ctx, v.target.API, classVM, v.standby.vm.Ref, dirty); err != nil {
		return err
	}
	blocked := replica.MergeBlocked(v.blocked(), dirty)
	delete(blocked, operationRevert)
	return setField(ctx, v.target.API, classVM, v.standby.vm.Ref, "blocked_operations", blocked)
}

// revert has the pool do it. That sets the lease back to what it was at the restore point, too: before anything else is changed it is made
// sure that nobody took it for free meanwhile.
func (v *reversion) revert(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revertTimeout)
	defer cancel()
	v.tenure.held.SetBack(v.point.marker.Run)
	before := map[xapi.Ref]bool{}
	for _, d := range v.standby.disks {
		before[d.VDIRef] = true
	}
	err := xapi.Ensure(ctx, v.target.API, "VM.revert", func(ctx context.Context) (bool, error) {
		_, held, err := v.read(ctx)
		for _, d := range held {
			if before[d.ref] {
				return false, err
			}
		}
		return err == nil && len(held) >= len(v.disks), err
	}, v.point.ref)
	if err != nil {
		return err
	}
	return v.tenure.held.Renew(ctx)
}

// read reads the replica VM and its disks as they are now.
func (v *reversion) read(ctx context.Context) (xapi.VM, []heldDisk, error) {
	vm, err := xapi.GetRecord[xapi.VM](ctx, v.target.API, classVM, v.standby.vm.Ref)
	if err != nil {
		return vm, nil, err
	}
	held, err := disksOf(ctx, v.target.API, vm)
	return vm, held, err
}

// commit makes the disks that the pool made the replica's, and the restore point's generation what it is clean with.
func (v *reversion) commit(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx) // it is done; what is left takes no time
	api, ref, clean := v.target.API, v.standby.vm.Ref, manifest.State{Generation: v.point.marker.State.Generation}
	now, err := poolTime(ctx, v.target)
	if err != nil {
		return err
	}
	vm, held, err := v.read(ctx)
	if err != nil {
		return err
	}
	r := state.Reverted{Generation: clean.Generation, PoolTime: now}
	for _, d := range v.disks {
		made, err := v.adopt(ctx, d, held, clean)
		if err != nil {
			return err
		}
		r.Disks = append(r.Disks, made)
		repeated, ok, err := v.store.RepeatManifest(ctx, v.record.ID, made.Disk, clean.Generation)
		if err != nil {
			return err
		}
		if ok {
			r.Manifests = append(r.Manifests, repeated)
		}
	}
	err = replica.Apply(ctx, api, classVM, ref, replica.Marker{
		Installation: v.store.Installation().UUID, Run: v.id, Kind: replica.KindReplica, Self: vm.UUID, Source: v.record.SourceVM, State: clean,
	})
	if err != nil {
		return err
	}
	if !v.again && vm.NameLabel != v.standby.vm.NameLabel { // it is called what it is called now, not what it was called then
		if err := setField(ctx, api, classVM, ref, "name_label", v.standby.vm.NameLabel); err != nil {
			return err
		}
	}
	if err := setField(ctx, api, classVM, ref, "blocked_operations", replica.MergeBlocked(v.blocked(), clean)); err != nil {
		return err
	}
	if err := protect(ctx, api, ref, v.report.event); err != nil {
		return err
	}
	// The disks are the replica's whoever has started it: without their record nothing could resync it.
	if err := v.store.SetReverted(ctx, v.record.ID, r); err != nil {
		return err
	}
	if decision, ok := replica.Unused(replica.VMEvidence{PowerState: vm.PowerState}); !ok {
		return &HeldError{Replica: v.record.ID, VM: vm.UUID, Rung: string(decision.Rung), Cause: decision.Cause, Diverged: decision.Diverged}
	}
	return nil
}

// adopt marks the disk that the pool made of one of the restore point's, and says what is recorded of it.
func (v *reversion) adopt(ctx context.Context, from inventory.Disk, held []heldDisk, clean manifest.State) (state.Disk, error) {
	name := diskName(from.Number)
	for _, d := range held {
		if d.number != name {
			continue
		}
		made := state.Disk{Disk: name, TargetVDI: d.vdi.UUID, LogicalSize: d.vdi.VirtualSize}
		for _, known := range v.record.Disks {
			if known.Disk == name {
				made.SourceVDI, made.LogicalSize = known.SourceVDI, min(known.LogicalSize, d.vdi.VirtualSize)
			}
		}
		// The size that the restore point's disk had at its source is that of its manifest; the SR rounds it up.
		view, err := v.store.ViewAt(ctx, v.record.ID, name, clean.Generation)
		if err == nil {
			made.LogicalSize = view.Header().Geometry.Size
			view.Close()
		} else if !errors.Is(err, state.ErrNotFound) && !unusable(err) {
			return state.Disk{}, err
		} else {
			v.report.event("manifest-lost", "disk %s: no manifest of restore point %s is kept, the next run reads the replica: %v", name, v.point.vm.UUID, err)
		}
		return made, replica.Apply(ctx, v.target.API, classVDI, d.ref, replica.Marker{
			Installation: v.store.Installation().UUID, Run: v.id, Kind: replica.KindReplicaDisk, Self: d.vdi.UUID,
			Source: made.SourceVDI, Disk: name, State: clean,
		})
	}
	return state.Disk{}, fmt.Errorf("after the revert the replica VM has no disk %s: %w", name, ErrChanged)
}

// blocked are the operations that were blocked when the revert began, somebody else's among them.
func (v *reversion) blocked() map[string]string {
	blocked := map[string]string{}
	for operation, reason := range v.standby.vm.BlockedOperations {
		blocked[string(operation)] = reason
	}
	return blocked
}
