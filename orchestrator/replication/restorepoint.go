package replication

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// maxChain is the length of a disk's chain of base copies above which no snapshot is taken: an SR refuses at inventory.MaxChain, and
// what reads or writes the disk passes through all of them.
const maxChain = 20

// maxPending is how many base copies may await their merging when a snapshot is taken. Every run leaves one, which a slow SR has not
// merged by the next; where there are more the SR is behind, and another snapshot would make that worse.
const maxPending = 5

// Obstacle is why no restore point can be made of a replica as it is.
type Obstacle struct {
	Code  string `json:"code"` // a short stable word
	Cause string `json:"cause"`
	Mend  string `json:"mend"`
}

// What stands in the way of a restore point.
const (
	obstacleChain     = "chain-long"
	obstacleCoalesce  = "chain-coalescing"
	obstacleRoom      = "restore-point-room"
	causeNoPoint      = "no-restore-point"
	causeNoPointsEver = "no-room-for-restore-points"
)

// volume is a disk of the replica that a restore point snapshots.
type volume struct {
	vdi  xapi.VDI // zero: it is yet to be made
	sr   xapi.Ref
	size int64 // bytes, as it will be
}

// obstacle tells what stands in the way of a snapshot of volumes; nil: nothing. reserved is what will be taken of SRs before, by their
// uuids, in bytes.
func obstacle(view *inventory.Pool, volumes []volume, reserved map[string]int64) *Obstacle {
	chains := view.Chains()
	sizes := map[xapi.Ref]int64{}
	for _, v := range volumes {
		sizes[v.sr] += v.size
		sr := view.SRs[v.sr]
		switch chain := chains.Of(v.vdi); {
		case chain.Length > maxChain:
			return &Obstacle{obstacleChain,
				fmt.Sprintf("disk %s lies on a chain of %d volumes, more than %d, in SR %s", v.vdi.UUID, chain.Length, maxChain, sr.NameLabel),
				"remove snapshots of the replica, keep fewer restore points, and let the SR coalesce"}
		case chain.Pending > maxPending:
			return &Obstacle{obstacleCoalesce,
				fmt.Sprintf("SR %s has yet to coalesce %d volumes below disk %s, more than %d", sr.NameLabel, chain.Pending, v.vdi.UUID, maxPending),
				"wait for the SR's garbage collector; when it does not come to it, look into the SR's log (/var/log/SMlog) and give the SR room"}
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(sizes)) {
		sr := view.SRs[ref]
		free, known := inventory.FreeSpace(sr)
		if free -= reserved[sr.UUID]; known && !inventory.Thin(sr) && free < sizes[ref] {
			return &Obstacle{obstacleRoom,
				fmt.Sprintf("a restore point takes %d MiB of SR %s, where snapshots take the disks' full size, and %d MiB are free",
					toMiB(sizes[ref]), sr.NameLabel, max(free, 0)>>20),
				"free space on it or enlarge it, or use a thin SR"}
		}
	}
	return nil
}

// toMiB rounds up.
func toMiB(bytes int64) int64 { return (bytes + 1<<20 - 1) >> 20 }

// planRestorePoint decides on the view of the plan whether a restore point can be made at the end. It is decided again on a
// look of its own before the first write, when one is required, and at the commit: chains become shorter by themselves.
func (s *subject) planRestorePoint(installation string) {
	var volumes []volume
	for _, d := range s.disks {
		name := diskName(d.Number)
		volumes = append(volumes, volume{s.standbyDisks[name].VDI, s.diskSR(name).Ref, d.VDI.VirtualSize})
	}
	reserved := map[string]int64{}
	for _, space := range s.plan.Placement.Space {
		reserved[space.SRUUID] = space.Needed
	}
	o := obstacle(s.target.Inventory, volumes, reserved)
	subject := "replica of VM " + s.vm.NameLabel
	switch {
	case o == nil:
	case o.Code == obstacleRoom && len(s.plan.Placement.Space) == 0: // what the replica itself takes could not be told
	case s.request.RequireRestorePoint:
		err := &RestorePointError{*o}
		s.refused(err, o.Code, subject, o.Mend, "no restore point could be made, and one is required: %s", o.Cause)
	case o.Code == obstacleRoom && (s.standby == nil || len(restorePointsOf(installation, s.target.Inventory.VMs, s.standby.vm.Ref)) == 0):
		s.found(report.SeverityWarning, causeNoPointsEver, subject,
			o.Mend+"; or go on without, and a run that ends badly leaves nothing that can be booted; or require restore points, and such a run is refused",
			"there is room for the replica and for no restore point: %s. There is a choice", o.Cause)
	default:
		s.found(report.SeverityWarning, causeNoPoint, subject, o.Mend, "as things are the run takes no new restore point, and the last one is kept: %s", o.Cause)
	}
}

// obstacle looks at the target's storage as it is now, or as a view has it.
func (r *run) obstacle(ctx context.Context, view *inventory.Pool) (*Obstacle, error) {
	if view == nil {
		view = &inventory.Pool{}
		var err error
		if view.SRs, err = xapi.AllRecords[xapi.SR](ctx, r.target.API, "SR"); err != nil {
			return nil, err
		}
		if view.VDIs, err = xapi.AllRecords[xapi.VDI](ctx, r.target.API, classVDI); err != nil {
			return nil, err
		}
	}
	var volumes []volume
	for _, d := range r.disks {
		vdi := view.VDIs[d.vdi]
		volumes = append(volumes, volume{vdi, vdi.SR, vdi.VirtualSize})
	}
	return obstacle(view, volumes, nil), nil
}

// checkRestorePoint is the last moment at which a run that must make a restore point may fail for want of one.
func (r *run) checkRestorePoint(ctx context.Context, view *inventory.Pool) error {
	if !r.request.RequireRestorePoint {
		return nil
	}
	obstacle, err := r.obstacle(ctx, view)
	if err == nil && obstacle != nil {
		err = &RestorePointError{*obstacle}
	}
	return err
}
