package replication

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// pruneTimeout bounds the removal of what is beyond the retention. A busy SR has calls wait; the run need not.
	pruneTimeout = 2 * time.Minute
	// maxManifests bounds how many generations of a disk are kept for the sake of restore points whose successors were commits
	// without one. A restore point beyond that can be booted and reverted to, and the run after is a scan.
	maxManifests = 4 * MaxRetention
)

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
		// A pool tells whole seconds.
		return cmp.Or(b.vm.SnapshotTime.Compare(a.vm.SnapshotTime.Time), b.marker.Time.Compare(a.marker.Time), cmp.Compare(a.vm.UUID, b.vm.UUID))
	})
	return points
}

// prune removes the restore points and manifests beyond the retention. The run is committed by then: what goes wrong is an
// event, and the next run tries again.
func (r *run) prune(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pruneTimeout)
	defer cancel()
	keep, err := r.engine.retention(r.request)
	var kept []manifest.Generation
	if err == nil {
		kept, err = r.pruneRestorePoints(ctx, keep)
	}
	if err != nil {
		r.report.event("prune-failed", "a restore point beyond the retention could not be removed: %v", err)
		return // manifests that belong to a restore point stay with it
	}
	for _, d := range r.disks {
		if err := r.pruneManifests(ctx, d.plan.Disk, keep, kept); err != nil {
			r.report.event("prune-failed", "an old manifest of disk %s could not be removed: %v", d.plan.Disk, err)
		}
	}
}

// pruneRestorePoints removes what is beyond the newest keep, and gives the generations of those. It is only called once the run is
// committed: until then the newest is the last one that is known to be good. One that is pinned is neither removed nor counted, nor is
// one that is being tested, nor one that a run which did not commit left behind: it may look like the newest, and goes with what else that run left.
func (r *run) pruneRestorePoints(ctx context.Context, keep int) ([]manifest.Generation, error) {
	vms, err := xapi.AllRecords[xapi.VM](ctx, r.target.API, classVM)
	if err != nil {
		return nil, err
	}
	left, err := leftBehind(ctx, r.store)
	if err != nil {
		return nil, err
	}
	tested, err := underTest(ctx, r.store, r.record.ID)
	if err != nil {
		return nil, err
	}
	points := slices.DeleteFunc(restorePointsOf(r.store.Installation().UUID, vms, r.standbyRef), func(p restorePoint) bool {
		return p.marker.Keep != "" || left[p.vm.UUID] || tested[p.vm.UUID]
	})
	keep = min(keep, len(points))
	for _, point := range points[keep:] {
		if err := destroySnapshot(ctx, r.target.API, point.ref, point.vm); err != nil {
			return nil, fmt.Errorf("%s (%s): %w", point.vm.NameLabel, point.vm.UUID, err)
		}
	}
	var kept []manifest.Generation
	for _, point := range points[:keep] {
		kept = append(kept, point.marker.State.Generation)
	}
	return kept, nil
}

// leftBehind are the uuids of objects that runs made, did not keep, and could not remove yet.
func leftBehind(ctx context.Context, store *state.Store) (map[string]bool, error) {
	runs, err := store.PendingRuns(ctx)
	if err != nil {
		return nil, err
	}
	left := map[string]bool{}
	for _, run := range runs {
		objects, err := store.Objects(ctx, run.Report.ID)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			if o.Pending() {
				left[o.UUID] = true
			}
		}
	}
	return left, nil
}

// underTest are the uuids of the restore points of a replica whose clones stand, or are being made.
func underTest(ctx context.Context, store *state.Store, replica string) (map[string]bool, error) {
	tests, err := store.Rehearsals(ctx, replica)
	points := map[string]bool{}
	for _, run := range tests {
		points[run.Report.RestorePoint] = true
	}
	return points, err
}

// pruneManifests keeps the newest generations of a disk: as many as restore points, and more while one of the restore points that
// were kept is older, since commits came between that took none.
func (r *run) pruneManifests(ctx context.Context, disk string, keep int, kept []manifest.Generation) error {
	manifests, err := r.store.Manifests(ctx, r.record.ID, disk)
	if err != nil {
		return err
	}
	for i, m := range manifests {
		if slices.Contains(kept, m.Generation) {
			keep = max(keep, len(manifests)-i)
			break
		}
	}
	return r.store.PruneManifests(ctx, r.record.ID, disk, min(keep, maxManifests))
}
