package placement

import (
	"fmt"

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
func spaceNeeded(request Request, disks []inventory.Disk, target xapi.SR) ([]Space, []Finding) {
	var spaces []Space
	need := func(side Side, sr xapi.SR, bytes int64) {
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
	records := map[string]xapi.SR{target.UUID: target}
	for _, disk := range disks {
		sr := request.Source.SRs[disk.VDI.SR]
		records[sr.UUID] = sr
		// A thick SR gives the snapshot and its clone the full size each; on a thin one both grow with what the
		// running VM writes, at most its size.
		copies := int64(2)
		if inventory.Thin(sr) {
			copies = 1
		}
		need(SideSource, sr, copies*roundUp(disk.VDI.VirtualSize))
	}
	for _, disk := range disks {
		need(SideTarget, target, max(roundUp(disk.VDI.VirtualSize)-request.Existing[disk.Number], 0))
	}

	var findings []Finding
	for _, space := range spaces {
		if finding, short := space.finding(records[space.SRUUID]); short {
			findings = append(findings, finding)
		}
	}
	return spaces, findings
}

// finding judges one SR. One that does not tell its size is not judged.
func (s Space) finding(sr xapi.SR) (Finding, bool) {
	name := fmt.Sprintf("SR %s (%s)", s.SRName, s.SRUUID)
	switch floor := sr.PhysicalSize / 100 * thinFloorPercent; {
	case !s.Known:
		return Finding{}, false
	case s.Thin && s.Free < floor:
		return Finding{
			Cause: fmt.Sprintf("%s has %d MiB free, less than %d %% of its size", name, s.Free>>20, thinFloorPercent),
			Mend:  "free space on it or enlarge it",
		}, true
	case !s.Thin && s.Free < s.Needed:
		return Finding{
			Cause: fmt.Sprintf("%s has %d MiB free, the %s side needs %d MiB", name, s.Free>>20, s.Side, (s.Needed+1<<20-1)>>20),
			Mend:  "free space on it, or use a thin SR, where disks and snapshots take only what is written",
		}, true
	}
	return Finding{}, false
}

func roundUp(size int64) int64 { return (size + rounding - 1) / rounding * rounding }
