package replication

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// Point is a restore point of a replica, for lists.
type Point struct {
	UUID       string              `json:"uuid"` // of the snapshot
	Name       string              `json:"name"`
	Time       time.Time           `json:"time"` // of the snapshot, by the pool's clock
	Generation manifest.Generation `json:"generation,omitzero"`
	Disks      int                 `json:"disks"`
	Size       int64               `json:"size"`              // virtual sizes added up, bytes
	Manifest   bool                `json:"manifest"`          // it can be verified, and after a revert to it the next run can trust
	Current    bool                `json:"current"`           // the replica holds the same, as far as that can be told without reading it
	Keep       string              `json:"keep,omitempty"`    // why retention does not remove it; empty: it may
	Verdict    *replica.Verdict    `json:"verdict,omitempty"` // of its last test
}

// Points lists the restore points of a replica, the newest first. A replica whose VM is gone has none.
func Points(ctx context.Context, store *state.Store, id string, target *delegate.Pool) ([]Point, error) {
	record, err := store.Replica(ctx, id)
	if err != nil {
		return nil, err
	}
	view, err := inventory.Load(ctx, target.API)
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", target.Name, err)
	}
	points := []Point{}
	s := findStandby(view, record)
	if s == nil {
		return points, nil
	}
	for _, p := range restorePointsOf(store.Installation().UUID, view.VMs, s.vm.Ref) {
		point := Point{
			UUID: p.vm.UUID, Name: p.vm.NameLabel, Time: p.vm.SnapshotTime.Time, Generation: p.marker.State.Generation, Keep: p.marker.Keep,
			Verdict:  replica.ReadVerdict(p.vm.OtherConfig),
			Manifest: true, Current: len(record.Disks) > 0 && !record.Failover.Note.Released,
		}
		disks, err := view.DisksOf(p.ref)
		if err != nil {
			return nil, err
		}
		for _, d := range disks {
			point.Disks++
			point.Size += d.VDI.VirtualSize
		}
		for _, d := range record.Disks {
			known, err := knows(ctx, store, record.ID, d.Disk, point.Generation)
			if err != nil {
				return nil, err
			}
			point.Manifest = point.Manifest && known
			point.Current = point.Current && d.State == p.marker.State
		}
		points = append(points, point)
	}
	return points, nil
}

// knows reports whether a disk's manifest of a generation is kept.
func knows(ctx context.Context, store *state.Store, id, disk string, generation manifest.Generation) (bool, error) {
	manifests, err := store.Manifests(ctx, id, disk)
	for _, m := range manifests {
		if m.Generation == generation {
			return true, err
		}
	}
	return false, err
}
