package replication

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// maxChain is the length of a disk's chain of base copies above which no snapshot is taken: an SR refuses at 30 (xapi-facts §13.2),
// and what reads or writes the disk passes through all of them.
const maxChain = 20

// parentKey is the key of a VDI's sm_config that names the volume below it, by uuid (xapi-facts §13.2).
const parentKey = "vhd-parent"

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

// storage is what is looked at before a snapshot of disks on an SR. Reading VDIs of the whole SR is what a chain costs that only names
// its parents.
type storage struct {
	sr   xapi.SR
	vdis map[xapi.Ref]xapi.VDI
}

// obstacle tells what stands in the way of a snapshot of disks that have these VDIs; nil: nothing. size is that of all of them,
// in bytes, as they will be, and reserved what will be taken of the SR before.
func (s storage) obstacle(disks []xapi.Ref, size, reserved int64) *Obstacle {
	byUUID, above := map[string]xapi.VDI{}, map[string]int{}
	for _, vdi := range s.vdis {
		byUUID[vdi.UUID] = vdi
		if parent := vdi.SMConfig[parentKey]; parent != "" {
			above[parent]++
		}
	}
	for _, ref := range disks {
		vdi := s.vdis[ref]
		length, merging := 1, ""
		for at := vdi; at.SMConfig[parentKey] != "" && length <= len(byUUID); length++ {
			below, ok := byUUID[at.SMConfig[parentKey]]
			if !ok {
				break
			}
			if !below.Managed && above[below.UUID] == 1 && merging == "" {
				merging = below.UUID
			}
			at = below
		}
		switch {
		case length > maxChain:
			return &Obstacle{obstacleChain,
				fmt.Sprintf("disk %s lies on a chain of %d volumes, more than %d, in SR %s", vdi.UUID, length, maxChain, s.sr.NameLabel),
				"remove snapshots of the replica, keep fewer restore points, and let the SR coalesce"}
		case merging != "":
			return &Obstacle{obstacleCoalesce,
				fmt.Sprintf("SR %s has not yet coalesced what lies below disk %s (base copy %s)", s.sr.NameLabel, vdi.UUID, merging),
				"wait for the SR's garbage collector; when it does not come to it, look into the SR's log (/var/log/SMlog) and give the SR room"}
		}
	}
	free, known := inventory.FreeSpace(s.sr)
	if known && !inventory.Thin(s.sr) && free-reserved < size {
		return &Obstacle{obstacleRoom,
			fmt.Sprintf("a restore point takes %d MiB of SR %s, where snapshots take the disks' full size, and %d MiB are free",
				toMiB(size), s.sr.NameLabel, max(free-reserved, 0)>>20),
			"free space on it or enlarge it, or use a thin SR"}
	}
	return nil
}

// toMiB rounds up.
func toMiB(bytes int64) int64 { return (bytes + 1<<20 - 1) >> 20 }

// planRestorePoint decides on the view of the plan whether a restore point can be made at the end. It is decided again on a
// look of its own before the first write, when one is required, and at the commit: chains become shorter by themselves.
func (s *subject) planRestorePoint(installation string) error {
	var disks []xapi.Ref
	var size int64
	for _, d := range s.disks {
		size += d.VDI.VirtualSize
		if standby, ok := s.standbyDisks[diskName(d.Number)]; ok {
			disks = append(disks, standby.VDIRef)
		}
	}
	var reserved int64
	for _, space := range s.plan.Placement.Space {
		if space.SRUUID == s.sr.UUID {
			reserved = space.Needed
		}
	}
	obstacle := storage{s.sr.SR, s.target.Inventory.VDIs}.obstacle(disks, size, reserved)
	switch {
	case obstacle == nil:
		return nil
	case s.request.RequireRestorePoint:
		return &RestorePointError{*obstacle}
	case obstacle.Code == obstacleRoom && (s.standby == nil || len(restorePointsOf(installation, s.target.Inventory.VMs, s.standby.vm.Ref)) == 0):
		s.note(causeNoPointsEver, "SR %s has room for the replica and for no restore point: %s. There is a choice: %s; or go on without, "+
			"and a run that ends badly leaves nothing that can be booted; or require restore points, and such a run is refused", s.sr.NameLabel, obstacle.Cause, obstacle.Mend)
	default:
		s.note(causeNoPoint, "as things are the run takes no new restore point, and the last one is kept: %s; %s", obstacle.Cause, obstacle.Mend)
	}
	return nil
}

// obstacle looks at the target's storage as it is now, or as a view has it.
func (r *run) obstacle(ctx context.Context, view *inventory.Pool) (*Obstacle, error) {
	var s storage
	if view != nil {
		s = storage{view.SRs[r.sr.Ref], view.VDIs}
	} else {
		var err error
		if s.sr, err = xapi.GetRecord[xapi.SR](ctx, r.target.API, "SR", r.sr.Ref); err != nil {
			return nil, err
		}
		if s.vdis, err = xapi.AllRecords[xapi.VDI](ctx, r.target.API, classVDI); err != nil {
			return nil, err
		}
	}
	var disks []xapi.Ref
	var size int64
	for _, d := range r.disks {
		disks, size = append(disks, d.vdi), size+s.vdis[d.vdi].VirtualSize
	}
	return s.obstacle(disks, size, 0), nil
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
