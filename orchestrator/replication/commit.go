package replication

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// noRoom are the failures of a snapshot that another time, or another SR, would not have: no space, chain too long. A
// replica that is up to date without a new restore point is better than none (xapi-facts §6.6).
var noRoom = []string{"SR_BACKEND_FAILURE_44", "SR_BACKEND_FAILURE_109", "SR_FULL"}

// commit makes the run's result count, for the VM as a whole. Markers say clean only after a successful unplug; the state
// database comes last, so that wherever this is cut short the two disagree, which reads as dirty.
//
// The time of the commit is taken while nobody can start the replica, or before: whoever does it thereafter is found out here or by
// the next run.
func (r *run) commit(ctx context.Context) error {
	now, err := r.release(ctx)
	if err != nil {
		return err
	}
	if err := r.keepUp(ctx); err != nil {
		return err
	}
	c := state.Commit{Generation: r.generation, PoolTime: now, Samples: r.samples}
	if c.Bases, c.Objects, err = r.keepBases(ctx); err != nil {
		return err
	}
	clean := manifest.State{Generation: r.generation}
	if err := r.markReplica(ctx, clean); err != nil {
		return err
	}
	if err := r.block(ctx, clean); err != nil {
		return err
	}
	point, err := r.tryRestorePoint(ctx)
	if err != nil {
		return fmt.Errorf("restore point: %w", err)
	}
	if err := r.checkUnused(ctx, now); err != nil {
		return err
	}
	if err := r.saga.Keep(ctx, point...); err != nil {
		return err
	}
	for _, d := range r.disks {
		c.Manifests = append(c.Manifests, d.manifest)
	}
	// A context that ends now must not leave it open whether the run was committed.
	return r.store.SetClean(context.WithoutCancel(ctx), r.record.ID, c)
}

// release gives the disks back to the pools, and tells the time since which nobody can have started the replica unseen: by now the
// delegate still holds every disk. The pools' imports held each disk for its own time only.
func (r *run) release(ctx context.Context) (time.Time, error) {
	if r.plan.Method == report.Standard {
		return r.unusedAt, r.checkHolders(ctx)
	}
	now, err := poolTime(ctx, r.target)
	if err != nil {
		return now, err
	}
	return now, r.unplug(ctx)
}

// unplug gives the disks back to the pools. The target's must succeed: only then is everything with the storage.
func (r *run) unplug(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for _, d := range r.disks {
			if err := r.delegates.target.Unplug(groupCtx, d.targetNumber); err != nil {
				return fmt.Errorf("disk %s: %w", d.plan.Disk, err)
			}
		}
		return nil
	})
	group.Go(func() error {
		for _, d := range r.disks {
			if err := r.delegates.source.Unplug(groupCtx, d.sourceNumber); err != nil && groupCtx.Err() == nil {
				r.report.event("unplug-failed", "the clone of source disk %s goes with its delegate: %v", d.plan.Disk, err)
			}
		}
		return nil
	})
	return group.Wait()
}

// tryRestorePoint makes a restore point unless something stands in the way that the replica's being up to date must not suffer from:
// by now everything is written. Then there is none, and the last one is kept.
func (r *run) tryRestorePoint(ctx context.Context) ([]state.Object, error) {
	obstacle, err := r.obstacle(ctx, nil)
	if err != nil {
		return nil, err
	}
	if obstacle != nil {
		r.report.event(causeNoPoint, "the replica is up to date, and no new restore point was taken; the last one is kept: %s; %s", obstacle.Cause, obstacle.Mend)
		return nil, nil
	}
	point, err := r.makeRestorePoint(ctx)
	if xapi.IsCode(err, noRoom...) {
		r.report.event(causeNoPoint, "the replica is up to date, but its storage had no room for a restore point; the last one is kept: %v", err)
		return nil, nil
	}
	return []state.Object{point}, err
}

// makeRestorePoint snapshots the replica. The snapshot and its disks bear markers of their own. It goes with the run until it
// is kept.
func (r *run) makeRestorePoint(ctx context.Context) (state.Object, error) {
	api := r.target.API
	ref, object, err := create(ctx, r.saga, creation{
		pool: r.target, class: classVM, kind: replica.KindRestorePoint, origin: r.standbyUUID,
		call: snapshotOf(api, r.standbyRef),
	})
	if err != nil {
		return state.Object{}, err
	}
	if err := r.markRestorePoint(ctx, ref, object.UUID); err != nil {
		return state.Object{}, err
	}
	name := fmt.Sprintf("%s %s", r.plan.Replica.Name, r.report.copy().Started.Format("2006-01-02 15:04:05Z"))
	return object, setField(ctx, api, classVM, ref, "name_label", name)
}

// markRestorePoint marks a snapshot of the replica and its disks, of which there must be one for each disk of the run: a restore
// point with a disk too few, or another's, would not be what was checked.
func (r *run) markRestorePoint(ctx context.Context, ref xapi.Ref, uuid string) error {
	api := r.target.API
	snapshot, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, ref)
	if err != nil {
		return err
	}
	if err := lease.Clear(ctx, api, ref, snapshot.OtherConfig); err != nil { // a copy, that means nothing there
		return err
	}
	held, err := disksOf(ctx, api, snapshot)
	if err != nil {
		return err
	}
	clean := manifest.State{Generation: r.generation}
	for _, d := range r.disks {
		// Disks that somebody attached to the replica are in the snapshot too; the plan's notes name them.
		copies := slices.DeleteFunc(slices.Clone(held), func(h heldDisk) bool { return h.vdi.SnapshotOf != d.vdi })
		if len(copies) != 1 {
			return fmt.Errorf("the snapshot has %d copies of disk %s (VDI %s), want one: somebody changed the disks of the replica VM %s; put them back and run again",
				len(copies), d.plan.Disk, d.uuid, r.standbyUUID)
		}
		err := r.mark(ctx, api, classVDI, copies[0].ref, replica.Marker{
			Kind: replica.KindRestorePointDisk, Self: copies[0].vdi.UUID, Source: d.uuid, Disk: d.plan.Disk, State: clean,
		})
		if err != nil {
			return err
		}
	}
	return r.mark(ctx, api, classVM, ref, replica.Marker{
		Kind: replica.KindRestorePoint, Self: uuid, Source: r.standbyUUID, State: clean, Time: time.Now(),
	})
}
