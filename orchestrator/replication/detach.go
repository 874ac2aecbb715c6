package replication

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// DetachRequest says which replica becomes a VM of its own.
type DetachRequest struct {
	Replica string         // id
	Target  *delegate.Pool // where the replica is
	// Source is where its VM is: what changes were tracked since for the replica is removed there. Nil: CollectBases removes it later.
	Source *delegate.Pool
	// RemoveRestorePoints removes them with their disks; else they stay, as snapshots of the VM. What Resync has kept stays always.
	RemoveRestorePoints bool
}

// Detach makes a replica a VM of its own: markers, blocked operations and the tag that keeps other tools away go, from the VM, its
// disks and its restore points, and the replica is forgotten. The next run of its job makes a new one. What does not bear our marker is
// not touched: of a replica in whose place a stranger stands only the record goes. It may be repeated after it was cut short, and the
// VM may be running.
//
// One that has failed over stays the VM that does the work, and has no way back any more; when it is reversed, its former source stays its
// replica, for ever. In the middle of a failover it is refused.
//
// Errors: state.ErrNotFound, state.ErrBusy, *SuspendedError, and those of the pool.
func (e *Engine) Detach(ctx context.Context, request DetachRequest) (report.Run, error) {
	run, err := e.chore(ctx, request.Replica, request.Target, state.RunDetach, func(ctx context.Context, c *chore) error {
		if err := c.atRest(replica.FailedOver, replica.Committed, replica.Reversed); err != nil {
			return err
		}
		c.tellOfSource()
		if err := c.untested(ctx); err != nil {
			return err
		}
		if c.standby != nil {
			if err := c.release(ctx, request.RemoveRestorePoints); err != nil {
				return err
			}
			if err := c.dropLease(ctx); err != nil {
				return err
			}
		}
		return c.forget(ctx, request.Source)
	})
	if err != nil {
		err = fmt.Errorf("detaching replica %s: %w", request.Replica, err)
	}
	return run, err
}

// forget forgets the replica, with what changes were tracked since for it in its source's pool; nil: that was not asked.
func (c *chore) forget(ctx context.Context, source *delegate.Pool) error {
	if err := c.store.ForgetReplica(ctx, c.record.ID); err != nil || source == nil {
		return err
	}
	if _, err := c.engine.CollectBases(ctx, false, source); err != nil {
		c.event("left-behind", "what changes were tracked since for the replica is still there, 'understudy gc' removes it: %v", err)
	}
	return nil
}

// untested makes sure that no clone of a restore point stands: once the replica is forgotten nothing would lead to it.
func (c *chore) untested(ctx context.Context) error {
	tests, err := c.store.Rehearsals(ctx, c.record.ID)
	if err == nil && len(tests) > 0 {
		err = fmt.Errorf("test %s of it stands: 'understudy replica test %s --end' ends it", tests[0].Report.ID, c.record.ID)
	}
	return err
}

// release takes off what makes the VM a replica. The VM comes last: as long as it bears its marker it leads to the rest.
func (c *chore) release(ctx context.Context, removePoints bool) error {
	ours := c.gatherer()
	for ref, vm := range c.target.Inventory.VMs {
		if !vm.IsASnapshot || vm.SnapshotOf != c.standby.vm.Ref || !ours.is(vm.UUID, vm.OtherConfig, replica.KindRestorePoint, replica.KindDiverged) {
			continue
		}
		if err := c.releaseSnapshot(ctx, ref, vm, removePoints && ours.is(vm.UUID, vm.OtherConfig, replica.KindRestorePoint)); err != nil {
			return fmt.Errorf("snapshot %s (%s): %w", vm.NameLabel, vm.UUID, err)
		}
	}
	for _, d := range c.standby.disks {
		if !ours.is(d.VDI.UUID, d.VDI.OtherConfig, replica.KindReplicaDisk) {
			continue
		}
		if err := replica.Remove(ctx, c.api(), classVDI, d.VDIRef); err != nil {
			return err
		}
	}
	vm := c.standby.vm
	if !ours.is(vm.UUID, vm.OtherConfig, replica.KindReplica) {
		c.event("not-ours", "VM %s (%s) does not bear the marker of this replica and is left as it is", vm.NameLabel, vm.UUID)
		return nil
	}
	return c.releaseVM(ctx, vm.Ref)
}

// dropLease removes the lease from a VM that is a replica no more. It comes last: until then nobody else may be at work on the VM.
func (c *chore) dropLease(ctx context.Context) error {
	if c.tenure.held != nil {
		return c.tenure.held.Clear(ctx)
	}
	vm := c.standby.vm
	if _, owner, _ := replica.Read(c.store.Installation().UUID, vm.UUID, vm.OtherConfig); owner == replica.None { // this was cut short before
		return lease.Clear(ctx, c.api(), vm.Ref, vm.OtherConfig)
	}
	return nil
}

// releaseSnapshot makes a snapshot an ordinary one, or removes it.
func (c *chore) releaseSnapshot(ctx context.Context, ref xapi.Ref, vm xapi.VM, remove bool) error {
	if remove {
		return xapi.UnlessGone(ctx, c.api(), classVM, ref, destroySnapshot(ctx, c.api(), ref, vm))
	}
	disks, err := remainingDisks(ctx, c.api(), vm)
	if err != nil {
		return err
	}
	ours := c.gatherer()
	for _, d := range disks {
		if !ours.is(d.vdi.UUID, d.vdi.OtherConfig, replica.KindRestorePointDisk, replica.KindDivergedDisk) {
			continue
		}
		if err := replica.Remove(ctx, c.api(), classVDI, d.ref); err != nil {
			return err
		}
	}
	if err := lease.Clear(ctx, c.api(), ref, vm.OtherConfig); err != nil {
		return err
	}
	return c.releaseVM(ctx, ref)
}

// releaseVM takes tag, blocks and marker off a VM or a snapshot.
func (c *chore) releaseVM(ctx context.Context, ref xapi.Ref) error {
	if err := c.api().Call(ctx, "VM.remove_tags", nil, ref, replica.TagLeaveAlone); err != nil {
		return err
	}
	if err := c.block(ctx, ref, replica.OthersBlocked); err != nil {
		return err
	}
	return replica.Remove(ctx, c.api(), classVM, ref)
}
