package placement

import (
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// rounding is what SRs round a disk's size up to (xapi-facts §6.6: VHD 2 MiB, LVM 4 MiB).
	rounding = 4 << 20
	// thinFloorPercent of a thin SR must stay free: below it a run ends, so that none begins there.
	thinFloorPercent = 10
)

// Space is the room that a run needs on one SR, in bytes.
type Space struct {
	Side   Side   `json:"side"` // SideBoth when source and target are one SR
	SRUUID string `json:"sr_uuid"`
	SRName string `json:"sr_name"`
	Thin   bool   `json:"thin"`
	// Needed is the most that the run can take. A thick SR must have it free; on a thin one it is an upper bound.
	Needed int64 `json:"needed"`
	Free   int64 `json:"free"`
	Known  bool  `json:"known"` // false: the SR does not tell its size, and Free means nothing
}

// spaceNeeded adds up, for each SR, new disks and their growth on the target, and a snapshot with its clone on
// the source.
func spaceNeeded(request Request, disks []inventory.Disk, found *findings) []Space {
	var spaces []Space
	records := map[string]xapi.SR{}
	need := func(side Side, sr xapi.SR, bytes int64) {
		records[sr.UUID] = sr
		for i := range spaces {
			if spaces[i].SRUUID == sr.UUID {
				spaces[i].Needed += bytes
				if spaces[i].Side != side {
					spaces[i].Side = SideBoth
				}
				return
			}
		}
		free, known := inventory.FreeSpace(sr)
		spaces = append(spaces, Space{Side: side, SRUUID: sr.UUID, SRName: sr.NameLabel, Thin: inventory.Thin(sr), Needed: bytes, Free: free, Known: known})
	}
	for _, disk := range disks {
		sr := request.Source.SRs[disk.VDI.SR]
		// A thick SR gives the snapshot and its clone the full size each; on a thin one both grow with what the
		// running VM writes, at most its size.
		copies := int64(2)
		if inventory.Thin(sr) || request.NoDelegates { // an export reads the snapshot itself
			copies = 1
		}
		need(SideSource, sr, copies*roundUp(disk.VDI.VirtualSize))
	}
	written := map[string]int64{} // what a thin SR takes for certain, by its uuid
	for _, disk := range disks {
		sr, size := request.Target.SRs[request.targetSR(disk.Number)], roundUp(disk.VDI.VirtualSize)
		existing := request.existing(disk.Number)
		if request.NoDelegates && existing > 0 && inventory.Thin(sr) { // written whole, over the last restore point
			existing = 0
			written[sr.UUID] += size
		}
		need(SideTarget, sr, max(size-existing, 0))
	}
	for _, space := range spaces {
		found.space(space, records[space.SRUUID], written[space.SRUUID])
	}
	return spaces
}

// space judges one SR, that takes so much for certain if it is thin. One that does not tell its size is not judged.
func (f *findings) space(s Space, sr xapi.SR, written int64) {
	name := srSubject(sr)
	switch floor := sr.PhysicalSize / 100 * thinFloorPercent; {
	case !s.Known:
	case s.Thin && s.Free < floor:
		f.error(CodeSpace, name, "free space on it or enlarge it", "%s has %d MiB free, less than %d %% of its size", name, s.Free>>20, thinFloorPercent)
	case s.Thin && s.Free-written < floor:
		f.error(CodeSpace, name, "free space on it or enlarge it, or keep fewer restore points",
			"%s has %d MiB free, a copy writes %d MiB anew, and %d %% of it are to stay free", name, s.Free>>20, (written+1<<20-1)>>20, thinFloorPercent)
	case !s.Thin && s.Free < s.Needed:
		f.error(CodeSpace, name, "free space on it, or use a thin SR, where disks and snapshots take only what is written",
			"%s has %d MiB free, the %s side needs %d MiB", name, s.Free>>20, s.Side, (s.Needed+1<<20-1)>>20)
	}
}

func roundUp(size int64) int64 { return (size + rounding - 1) / rounding * rounding }
