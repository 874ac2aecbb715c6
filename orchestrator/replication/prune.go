package replication

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// pruneTimeout bounds the removal of what is beyond the retention. A busy SR has calls wait; the run need not.
const pruneTimeout = 2 * time.Minute

// restorePoint is a restore point of a replica, in its pool.
type restorePoint struct {
	ref    xapi.Ref
	vm     xapi.VM
	marker replica.Marker
}

// restorePointsOf lists the restore points among the snapshots of a replica VM, the newest first. Copies of them, and snapshots
// of others, are none.
func restorePointsOf(installation string, vms map[xapi.Ref]xapi.VM, vm xapi.Ref) []restorePoint {
	var points []restorePoint
	for ref, snapshot := range vms {
		marker, owner, _ := replica.Read(installation, snapshot.UUID, snapshot.OtherConfig)
		if snapshot.IsASnapshot && snapshot.SnapshotOf == vm && owner == replica.Ours && marker.Kind == replica.KindRestorePoint {
			points = append(points, restorePoint{ref: ref, vm: snapshot, marker: marker})
		}
	}
	slices.SortFunc(points, func(a, b restorePoint) int {
		return cmp.Or(b.vm.SnapshotTime.Compare(a.vm.SnapshotTime.Time), cmp.Compare(a.vm.UUID, b.vm.UUID))
	})
	return points
}

// prune removes the restore points and manifests beyond the retention. The run is committed by then: what goes wrong is an
// event, and the next run tries again.
func (r *run) prune(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pruneTimeout)
	defer cancel()
	keep, err := r.engine.retention()
	if err == nil {
		err = r.pruneRestorePoints(ctx, keep)
	}
	if err != nil {
		r.report.event("prune-failed", "a restore point beyond the retention could not be removed: %v", err)
	}
	for _, d := range r.disks {
		if err := r.store.PruneManifests(ctx, r.record.ID, d.plan.Disk, keep); err != nil {
			r.report.event("prune-failed", "an old manifest of disk %s could not be removed: %v", d.plan.Disk, err)
		}
	}
}

func (r *run) pruneRestorePoints(ctx context.Context, keep int) error {
	vms, err := xapi.AllRecords[xapi.VM](ctx, r.target.API, classVM)
	if err != nil {
		return err
	}
	points := restorePointsOf(r.store.Installation().UUID, vms, r.standbyRef)
	// Snapshot times have a resolution of a second: this run's comes first among equals.
	slices.SortStableFunc(points, func(a, b restorePoint) int {
		newest := func(p restorePoint) int {
			if p.marker.State.Generation == r.generation {
				return 0
			}
			return 1
		}
		return newest(a) - newest(b)
	})
	for _, point := range points[min(keep, len(points)):] {
		if err := destroySnapshot(ctx, r.target.API, point.ref, point.vm); err != nil {
			return fmt.Errorf("%s (%s): %w", point.vm.NameLabel, point.vm.UUID, err)
		}
	}
	return nil
}
