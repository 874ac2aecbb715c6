package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// restoreTimeout bounds how long a resync that is cancelled puts blocks back.
const restoreTimeout = 10 * time.Second

// ResyncRequest says which replica may be overwritten although somebody used it.
type ResyncRequest struct {
	Replica string         // id
	Target  *delegate.Pool // where the replica is
}

// Resync ends the hold of a replica that has diverged. It first keeps the replica as it is now in a snapshot, which no retention
// removes; then it has the next run scan and overwrite the replica. Whoever holds the replica's disks has to let go of them before.
// Repeated after it was cut short, it may keep the same state twice.
//
// Errors: state.ErrNotFound, state.ErrBusy, *SuspendedError, ErrNotDiverged, *HeldError for what cannot be resolved like this, and those of the pool.
func (e *Engine) Resync(ctx context.Context, request ResyncRequest) (report.Run, error) {
	run, err := e.chore(ctx, request.Replica, request.Target, state.RunResync, resync)
	if err != nil {
		err = fmt.Errorf("resyncing replica %s: %w", request.Replica, err)
	}
	return run, err
}

func resync(ctx context.Context, c *chore) error {
	if err := c.atRest(); err != nil {
		return err
	}
	if c.standby == nil {
		return fmt.Errorf("its VM is gone, and the next run makes a new one: %w", ErrNotDiverged)
	}
	evidence := c.gatherer().evidence(c.gatherer().recorded())
	switch decision := c.gatherer().judged(); {
	case decision.Diverged:
	case !decision.Writable:
		return &HeldError{Replica: c.record.ID, VM: c.standby.vm.UUID, Rung: string(decision.Rung), Cause: decision.Cause}
	default:
		return ErrNotDiverged
	}
	if power := evidence.VM.PowerState; power != xapi.Halted {
		return fmt.Errorf("the replica VM is %s: shut it down first", power)
	}
	for _, d := range evidence.Disks {
		for _, vbd := range d.ForeignVBDs {
			return fmt.Errorf("VM %s holds disk %s: detach it there first, it might go on writing", vbd.VM, d.Disk)
		}
	}
	if _, err := c.keepAside(ctx, evidence.VM.Marker.State, "diverged"); err != nil {
		return fmt.Errorf("keeping what the replica holds now: %w", err)
	}
	return c.store.AcceptDivergence(ctx, c.record.ID, evidence.VM.StartTime)
}

// keepAside makes a snapshot of the replica that stays until somebody removes it by hand, and gives its uuid. While the replica's marker
// says dirty our own block is in the way. The snapshot's name says why it was made.
func (c *chore) keepAside(ctx context.Context, marked manifest.State, why string) (uuid string, err error) {
	vm := c.standby.vm
	clean := manifest.State{Generation: manifest.NewGeneration()}
	if err := c.block(ctx, vm.Ref, func(now map[string]string) map[string]string { return replica.MergeBlocked(now, clean) }); err != nil {
		return "", err
	}
	ref, object, err := create(ctx, c.saga, creation{
		pool: c.target, class: classVM, kind: replica.KindDiverged, origin: vm.UUID,
		call: func(ctx context.Context, name string, creating maker) (xapi.Ref, error) {
			return creating(ctx, "VM.snapshot", vm.Ref, name)
		},
	})
	restoring, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTimeout)
	defer cancel()
	restored := c.block(restoring, vm.Ref, func(now map[string]string) map[string]string { return replica.MergeBlocked(now, marked) })
	if err := errors.Join(err, restored); err != nil {
		return "", err
	}
	if err := c.markKept(ctx, ref, object.UUID); err != nil {
		return "", err
	}
	name := fmt.Sprintf("%s %s %s", vm.NameLabel, why, time.Now().UTC().Format("2006-01-02 15:04:05Z"))
	if err := setField(ctx, c.api(), classVM, ref, "name_label", name); err != nil {
		return "", err
	}
	c.event("kept-aside", "what VM %s held is kept in snapshot %q (%s), until you remove it", vm.NameLabel, name, object.UUID)
	return object.UUID, c.saga.Keep(ctx, object)
}

// markKept marks a snapshot and those of its disks that are copies of the replica's: to the next runs they are no strangers'.
func (c *chore) markKept(ctx context.Context, ref xapi.Ref, uuid string) error {
	snapshot, err := xapi.GetRecord[xapi.VM](ctx, c.api(), classVM, ref)
	if err != nil {
		return err
	}
	if err := lease.Clear(ctx, c.api(), ref, snapshot.OtherConfig); err != nil { // a copy, that means nothing there
		return err
	}
	held, err := disksOf(ctx, c.api(), snapshot)
	if err != nil {
		return err
	}
	marker := replica.Marker{Installation: c.store.Installation().UUID, Run: c.id}
	for _, d := range held {
		i := slices.IndexFunc(c.record.Disks, func(r state.Disk) bool { return c.target.Inventory.VDIs[d.vdi.SnapshotOf].UUID == r.TargetVDI })
		if i < 0 {
			continue // of a disk that somebody attached to the replica
		}
		marker.Kind, marker.Self, marker.Source, marker.Disk = replica.KindDivergedDisk, d.vdi.UUID, c.record.Disks[i].TargetVDI, c.record.Disks[i].Disk
		if err := replica.Apply(ctx, c.api(), classVDI, d.ref, marker); err != nil {
			return err
		}
	}
	marker.Kind, marker.Self, marker.Source, marker.Disk = replica.KindDiverged, uuid, c.standby.vm.UUID, ""
	return replica.Apply(ctx, c.api(), classVM, ref, marker)
}
