package replication

import (
	"context"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/vhd"
)

// choose finds the restore point that the replica is to begin with, and whether the replica has to be reverted to it. Nothing is changed.
func (f *failover) choose(ctx context.Context, c *chore, note *state.FailoverNote) error {
	interrupted, err := unfinishedRevert(ctx, c.store, c.record)
	if err != nil {
		return err
	}
	wanted := f.request.Point
	if wanted == "" && note.Reverts { // it was chosen when the failover began
		wanted = note.Point
	}
	newest := wanted == "" || wanted == Newest
	decision := c.gatherer().judged()
	if interrupted == nil && !decision.Writable {
		return c.held(decision)
	}
	points, err := c.finished(ctx)
	if err != nil {
		return err
	}
	clean := interrupted == nil && committed(decision) && c.holdsAll()
	// own is the restore point of what the replica holds.
	own := slices.IndexFunc(points, func(p restorePoint) bool { return clean && p.marker.State == c.record.Disks[0].State })
	chosen := own
	if !newest {
		found := named(points, wanted)
		if len(found) != 1 {
			return &RevertError{Replica: c.record.ID, Mend: "'understudy replica points' lists them; name one by its uuid",
				Cause: fmt.Sprintf("%d of its %d restore points are meant by %q", len(found), len(points), wanted)}
		}
		chosen = slices.IndexFunc(points, func(p restorePoint) bool { return p.ref == found[0].ref })
	} else if own < 0 && len(points) > 0 {
		chosen = 0
	}
	asIs := clean && (chosen == own || newest)
	switch {
	case chosen < 0 && !asIs:
		return fmt.Errorf("%s: %w", decision.Cause, ErrNoRestorePoint)
	case chosen < 0 && !f.request.NoUndo:
		return ErrNoWayBack
	case chosen < 0:
		c.event("no-way-back", "the replica has no restore point: the failover cannot be undone without a scan of the replica")
		note.Point, note.Reverts = "", false
		return nil
	case asIs && chosen != own:
		c.event(causeNoPoint, "of what the replica holds no restore point was made: an undo goes back to the one before, of %s",
			points[chosen].vm.SnapshotTime.UTC().Format("2006-01-02 15:04:05Z"))
	case asIs:
		asIs = c.leavesEmpty(ctx)
	}
	note.Point, note.Reverts = points[chosen].vm.UUID, !asIs
	c.point = note.Point
	if asIs {
		return nil
	}
	f.revert = note.Point
	c.event("reverted", "the replica goes back to restore point %s of %s", points[chosen].vm.NameLabel,
		points[chosen].vm.SnapshotTime.UTC().Format("2006-01-02 15:04:05Z"))
	_, err = f.engine.findReversion(ctx, RevertRequest{
		Replica: c.record.ID, Target: f.target, Point: note.Point, failover: replica.Failover(c.record.Failover.State),
	})
	return err
}

// committed reports whether a decision is about a replica that is as a run committed it, as far as the records tell.
func committed(d replica.Decision) bool {
	return d.Writable && !slices.Contains([]replica.Rung{replica.RungDatabase, replica.RungVMMarker, replica.RungDiskMarkers}, d.Rung)
}

func (c *chore) held(d replica.Decision) *HeldError {
	return &HeldError{Replica: c.record.ID, VM: c.standby.vm.UUID, Rung: string(d.Rung), Cause: d.Cause, Diverged: d.Diverged}
}

// finished are the replica's restore points that can be relied upon, the newest first.
func (c *chore) finished(ctx context.Context) ([]restorePoint, error) {
	left, err := leftBehind(ctx, c.store)
	points := restorePointsOf(c.store.Installation().UUID, c.target.Inventory.VMs, c.standby.vm.Ref)
	return slices.DeleteFunc(points, func(p restorePoint) bool {
		return left[p.vm.UUID] || p.marker.State.Dirty || !p.marker.State.Valid()
	}), err
}

// holdsAll reports whether the replica VM holds all of its disks.
func (c *chore) holdsAll() bool {
	return !slices.ContainsFunc(c.record.Disks, func(d state.Disk) bool { return c.standby.disks[d.Disk].VBDRef.IsNull() })
}

// leavesEmpty has the pool tell whether the replica's disks hold anything over the restore point of their generation. Where it cannot
// tell, what the records say has to do: the work is waited for.
func (c *chore) leavesEmpty(ctx context.Context) bool {
	limited, cancel := context.WithTimeout(ctx, leafTimeout)
	defer cancel()
	for _, d := range c.record.Disks {
		disk := c.standby.disks[d.Disk]
		base := c.gatherer().restorePointDisk(disk.VDIRef, d.State.Generation)
		found, against := "", error(nil)
		switch {
		case base.IsNull():
			against = fmt.Errorf("the restore point has no snapshot of VDI %s", disk.VDI.UUID)
		case disk.VDI.VirtualSize > vhd.MaxSize:
			against = fmt.Errorf("the pool exports differences of disks up to %d bytes", int64(vhd.MaxSize))
		default:
			found, against = foreignBlock(limited, c.api(), disk, base, disk.VDI.VirtualSize, nil)
		}
		if found != "" {
			c.event("foreign-writes", "disk %s was written by somebody else, which is given up: %s", d.Disk, found)
			return false
		}
		if against != nil {
			c.event("leaf-untested", "whether disk %s was written since its last run cannot be told: %v", d.Disk, against)
		}
	}
	return true
}
