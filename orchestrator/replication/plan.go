package replication

import (
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

// Plan says what a run would do.
type Plan struct {
	Method    report.Method    `json:"method"`
	Direction report.Direction `json:"direction"`
	Trust     report.Trust     `json:"trust"`
	// Consistency is ConsistencyPaused when the VM is to stand still while it is snapshotted.
	Consistency report.Consistency `json:"consistency"`
	VM          report.VM          `json:"vm"`
	Replica     report.VM          `json:"replica"` // without uuid: it will be made
	ReplicaID   string             `json:"replica_id,omitempty"`
	SR          string             `json:"sr"` // uuid
	SRName      string             `json:"sr_name"`
	Disks       []DiskPlan         `json:"disks"`
	Removed     []string           `json:"removed,omitempty"` // disks that the source has no more; detached, not destroyed
	Placement   placement.Plan     `json:"placement"`
	Seeds       []SeedPlan         `json:"seeds,omitempty"`
	// Limit is how fast the run may send, written as rules; empty: as fast as it can.
	Limit ratelimit.Schedule `json:"limit,omitempty"`
	Notes []Note             `json:"notes,omitempty"`
	// Findings are warnings: what would stop a run is an error of Engine.Plan. They become events of the run.
	Findings []report.Finding `json:"findings,omitempty"`
}

// Note is something to know of a plan that does not stop it; it becomes an event of the run.
type Note struct {
	Cause string `json:"cause"` // a short stable word
	Text  string `json:"text"`
}

// Action says what becomes of a disk of the replica before the transfer.
type Action string

// The actions.
const (
	ActionCreate Action = "create"
	ActionKeep   Action = "keep"
	ActionGrow   Action = "grow" // the source disk is larger than before
)

// Baseline says what the transfer takes the disk's content for.
type Baseline string

// The baselines.
const (
	BaselineZero     Baseline = "zero"     // made in this run, in a format that reads as zeroes
	BaselineManifest Baseline = "manifest" // the cached manifest
	BaselineScan     Baseline = "scan"     // nothing: the delegate reads it
	BaselineNone     Baseline = "none"     // nothing, and it is not read: everything is written, by the standard method
)

// DiskPlan is the plan for one disk.
type DiskPlan struct {
	Disk      string   `json:"disk"` // userdevice
	SourceVDI string   `json:"source_vdi"`
	TargetVDI string   `json:"target_vdi,omitempty"` // uuid; empty when it will be made
	SR        string   `json:"sr"`                   // uuid, of the SR that the replica's disk lies or will lie on
	SRName    string   `json:"sr_name"`
	Size      int64    `json:"size"` // logical size in bytes
	Action    Action   `json:"action"`
	Baseline  Baseline `json:"baseline"`
	Rung      string   `json:"rung"`
	Cause     string   `json:"cause"`
	Untested  string   `json:"untested,omitempty"`
}

// mode is how the report calls the baseline; the standard method compares nothing.
func (p Plan) mode(d DiskPlan) report.Mode {
	switch {
	case p.Method == report.Standard:
		return ""
	case d.Baseline == BaselineScan:
		return report.Untrusted
	}
	return report.Trusted
}

// rungFresh stands in reports for disks that the run has made: the ladder of trust is about older ones.
const rungFresh = "fresh"

// defaultPattern names a replica.
const defaultPattern = "{vm} (replica)"

func replicaName(pattern, vm string) string {
	if pattern == "" {
		pattern = defaultPattern
	}
	return strings.ReplaceAll(pattern, "{vm}", vm)
}

// diskPlans decides for each source disk what becomes of the replica's, and what it is taken for.
func (s *subject) diskPlans() []DiskPlan {
	var plans []DiskPlan
	for _, source := range s.disks {
		plan := DiskPlan{
			Disk: diskName(source.Number), SourceVDI: source.VDI.UUID, Size: source.VDI.VirtualSize,
			Action: ActionKeep, Baseline: BaselineScan, Rung: string(s.decision.Rung), Cause: s.decision.Cause,
		}
		standby, exists := s.standbyDisks[plan.Disk]
		sr := s.diskSR(plan.Disk)
		plan.SR, plan.SRName = sr.UUID, sr.NameLabel
		switch {
		case !exists:
			plan.Action, plan.Rung = ActionCreate, rungFresh
			plan.Baseline, plan.Cause = freshBaseline(sr.SR)
		case s.recordedSize(plan.Disk) > 0 && s.recordedSize(plan.Disk) != plan.Size:
			if plan.Size > s.recordedSize(plan.Disk) {
				plan.Action = ActionGrow
			}
			plan.Rung, plan.Cause = string(replica.RungDisks), "the source disk has another size than at the last run"
		case s.decision.Mode == report.Trusted:
			plan.Baseline, plan.Untested = BaselineManifest, string(s.decision.Untested)
		}
		if s.request.method() == report.Standard && plan.Baseline != BaselineZero {
			plan.Baseline, plan.Rung, plan.Cause, plan.Untested = BaselineNone, "", "the standard method writes everything", ""
		}
		if exists {
			plan.TargetVDI = standby.VDI.UUID
		}
		plans = append(plans, plan)
	}
	return plans
}
