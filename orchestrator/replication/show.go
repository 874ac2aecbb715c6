package replication

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Details are all that is known of one replica without reading it.
type Details struct {
	Info
	DiskList []DiskInfo     `json:"disk_list"`
	Points   []SnapshotInfo `json:"points"` // the restore points, the newest first
	Kept     []SnapshotInfo `json:"kept"`   // what Resync has kept
	Tests    []StandingTest `json:"tests"`  // under way, or left to an administrator
	Lease    *LeaseInfo     `json:"lease"`  // nil: nobody ever had it, or the VM is gone
}

// LeaseInfo is the lease of a replica: which orchestrator is, or was last, at work on it.
type LeaseInfo struct {
	lease.Entry
	Held bool `json:"held"` // it was not given back, and has not run out by the pool's clock
}

// DiskInfo is one disk of a replica.
type DiskInfo struct {
	Disk          string `json:"disk"` // userdevice
	SourceVDI     string `json:"source_vdi"`
	TargetVDI     string `json:"target_vdi"`
	Size          int64  `json:"size"`                     // logical size in bytes
	State         string `json:"state"`                    // by the state database; empty: nothing is known of its content
	ForeignWrites string `json:"foreign_writes,omitempty"` // as a run found them
}

// SnapshotInfo is a snapshot of a replica that is ours.
type SnapshotInfo struct {
	UUID       string              `json:"uuid"`
	Name       string              `json:"name"`
	Time       time.Time           `json:"time"` // by the target pool's clock
	Generation manifest.Generation `json:"generation,omitzero"`
	Verdict    *replica.Verdict    `json:"verdict,omitempty"` // of the last test of a restore point
}

// Show looks at one replica, as it is in these pools. Errors: state.ErrNotFound, and those of its pool.
func Show(ctx context.Context, store *state.Store, id string, pools ...*delegate.Pool) (Details, error) {
	record, err := store.Replica(ctx, id)
	if err != nil {
		return Details{}, err
	}
	l := lister{store: store, pools: map[string]*delegate.Pool{}, views: map[string]*inventory.Pool{}}
	for _, p := range pools {
		view, err := inventory.Load(ctx, p.API)
		if err != nil {
			return Details{}, fmt.Errorf("pool %s: %w", p.Name, err)
		}
		l.pools[view.UUID], l.views[view.UUID] = p, view
	}
	details := Details{DiskList: []DiskInfo{}, Points: []SnapshotInfo{}, Kept: []SnapshotInfo{}}
	if details.Info, err = l.info(ctx, record); err != nil {
		return Details{}, err
	}
	for _, d := range record.Disks {
		info := DiskInfo{Disk: d.Disk, SourceVDI: d.SourceVDI, TargetVDI: d.TargetVDI, Size: d.LogicalSize, ForeignWrites: d.ForeignWrites}
		if d.State.Valid() {
			info.State = d.State.String()
		}
		details.DiskList = append(details.DiskList, info)
	}
	if details.Tests, err = standingTests(ctx, store, id); err != nil {
		return Details{}, err
	}
	view := l.views[record.TargetPool]
	s := findStandby(view, record)
	if s == nil {
		return details, nil
	}
	if details.Lease, err = leaseOf(ctx, l.pools[record.TargetPool], view, s); err != nil {
		return Details{}, err
	}
	installation := store.Installation().UUID
	for _, p := range restorePointsOf(installation, view.VMs, s.vm.Ref) {
		details.Points = append(details.Points, snapshotInfo(p.vm, p.marker.State.Generation))
	}
	g := gatherer{installation: installation}
	for _, vm := range view.VMs {
		if vm.IsASnapshot && vm.SnapshotOf == s.vm.Ref && g.is(vm.UUID, vm.OtherConfig, replica.KindDiverged) {
			details.Kept = append(details.Kept, snapshotInfo(vm, manifest.Generation{}))
		}
	}
	slices.SortFunc(details.Kept, func(a, b SnapshotInfo) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.UUID, b.UUID)) })
	return details, nil
}

// leaseOf reads the lease of a replica VM.
func leaseOf(ctx context.Context, pool *delegate.Pool, view *inventory.Pool, s *standby) (*LeaseInfo, error) {
	entry := lease.Newest(s.vm.OtherConfig)
	if entry.Number == 0 {
		return nil, nil
	}
	loaded := *pool
	loaded.Inventory = view
	now, err := poolTime(ctx, &loaded)
	return &LeaseInfo{Entry: entry, Held: now.Before(entry.Until)}, err
}

func snapshotInfo(vm xapi.VM, generation manifest.Generation) SnapshotInfo {
	return SnapshotInfo{UUID: vm.UUID, Name: vm.NameLabel, Time: vm.SnapshotTime.Time, Generation: generation, Verdict: replica.ReadVerdict(vm.OtherConfig)}
}
