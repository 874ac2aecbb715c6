package report

import (
	"fmt"
	"slices"
	"time"
)

// State says how far a run has come.
type State string

// The states of a run. All but StateRunning are final.
const (
	StateRunning     State = "running"
	StateCommitted   State = "committed"   // every disk of the VM is clean with one generation
	StateFailed      State = "failed"      // ended by an error; Run.Error says which
	StateCancelled   State = "cancelled"   // ended by the administrator
	StateInterrupted State = "interrupted" // its process died; a later process cleaned up
)

// Valid reports whether s is one of the states above.
func (s State) Valid() bool {
	return s == StateRunning || s.Final()
}

// Final reports whether a run in this state has ended.
func (s State) Final() bool {
	return slices.Contains([]State{StateCommitted, StateFailed, StateCancelled, StateInterrupted}, s)
}

// Direction says which delegate dials the other.
type Direction string

// The two directions.
const (
	Push Direction = "push" // the delegate of the source dials that of the target
	Pull Direction = "pull" // the delegate of the target dials that of the source
)

// Valid reports whether d is push or pull.
func (d Direction) Valid() bool { return d == Push || d == Pull }

// Method says by whom the data are moved.
type Method string

// The two methods.
const (
	Enhanced Method = "enhanced" // by delegates, from the one to the other: what differs
	Standard Method = "standard" // by the pools' own export and import, through the orchestrator: everything
)

// Valid reports whether m is enhanced or standard.
func (m Method) Valid() bool { return m == Enhanced || m == Standard }

// Reverse is the other direction.
func (d Direction) Reverse() Direction {
	if d == Push {
		return Pull
	}
	return Push
}

// Trust is the administrator's choice about the content of an existing replica.
type Trust string

// The two choices.
const (
	TrustVerify      Trust = "verify" // the whole replica is read and compared
	TrustDestination Trust = "trust"  // the scan is skipped when every rung of evidence holds
)

// Valid reports whether t is verify or trust.
func (t Trust) Valid() bool { return t == TrustVerify || t == TrustDestination }

// Phase names a stretch of a run.
type Phase string

// The phases of a run, in order.
const (
	PhasePlan     Phase = "plan"     // inventory and placement
	PhasePrepare  Phase = "prepare"  // snapshot, clones, replica VM and its disks
	PhaseSpawn    Phase = "spawn"    // delegates started, identified, disks plugged
	PhaseTransfer Phase = "transfer" // disks compared and moved
	PhaseVerify   Phase = "verify"   // the replica read back
	PhaseCommit   Phase = "commit"   // markers, restore point, state database
	PhaseCleanup  Phase = "cleanup"  // delegates, clones and snapshot removed
)

// Valid reports whether p is one of the phases above.
func (p Phase) Valid() bool {
	return slices.Contains([]Phase{PhasePlan, PhasePrepare, PhaseSpawn, PhaseTransfer, PhaseVerify, PhaseCommit, PhaseCleanup}, p)
}

// VM names one VM of a run, source or replica.
type VM struct {
	UUID     string `json:"uuid"`
	Name     string `json:"name"`
	Pool     string `json:"pool"`      // the name that the pool was added under
	PoolUUID string `json:"pool_uuid"` // the pool's own uuid
}

// Host names a host and one of its boots.
type Host struct {
	UUID string `json:"uuid"`
	Name string `json:"name"`
	Boot string `json:"boot,omitempty"` // tells one boot from another; empty when the pool does not say
}

// PhaseTime is the time one phase took. Finished is zero while the phase lasts.
type PhaseTime struct {
	Phase    Phase     `json:"phase"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
}

// Event is something that a reader of the report should know: above all every fallback, with its cause.
type Event struct {
	Time  time.Time `json:"time"`
	Cause string    `json:"cause"` // a short stable word, such as "manifest-lost"
	Text  string    `json:"text"`  // one sentence for people
}

// Delegate is an appliance VM that a run had, and whom it dialled.
type Delegate struct {
	Side    string `json:"side"` // source, target or both: that one copies from disk to disk, and the run's direction means nothing
	Pool    string `json:"pool"`
	Host    string `json:"host"`
	Address string `json:"address"` // ip:port on which it listens
	// Dials is the address of the delegate that this one opens the data connections to; empty: it waits for them, or there are none.
	Dials string `json:"dials,omitempty"`
}

// Run is the report of one VM run. It is not safe for concurrent use: its driver owns it and hands out copies (Clone).
type Run struct {
	ID        string    `json:"id"`
	JobRun    string    `json:"job_run,omitempty"` // id of the job's run that it is a part of; empty: of none
	Started   time.Time `json:"started"`
	Finished  time.Time `json:"finished,omitzero"`
	State     State     `json:"state"`
	Method    Method    `json:"method,omitempty"` // empty: of a run that moves no data, or of an older version, which had one method
	Direction Direction `json:"direction"`
	Trust     Trust     `json:"trust"`
	// Consistency is what was asked for; empty in reports of before there was the choice, and of runs that take no snapshot of a source.
	Consistency Consistency `json:"consistency,omitempty"`
	VM          VM          `json:"vm"`
	Replica     VM          `json:"replica"`
	Disks       []Disk      `json:"disks"`
	Phases      []PhaseTime `json:"phases,omitempty"`
	Events      []Event     `json:"events,omitempty"`
	// Snapshot is the source's; zero until it was taken.
	Snapshot Snapshot `json:"snapshot,omitzero"`
	// Generation is what the run marks the replica with, once it writes to it.
	Generation string `json:"generation,omitempty"`
	// RestorePoint is the uuid of the one that a revert takes the replica back to, or that is tested; empty for other runs.
	RestorePoint string `json:"restore_point,omitempty"`
	// Delegates are those that the run had last: the source's and the target's, or one that served both.
	Delegates []Delegate `json:"delegates,omitempty"`
	// TargetHosts are the hosts that the delegates of the target ran on, as they were when they came up.
	TargetHosts  []Host    `json:"target_hosts,omitempty"`
	Updated      time.Time `json:"updated,omitzero"` // last stored while the transfer went on
	ControlBytes int64     `json:"control_bytes"`    // both ways, between the orchestrator and all delegates
	Error        string    `json:"error,omitempty"`
}

// Validate checks the typed strings and that the times fit the state. It is called before a report is stored.
func (r Run) Validate() error {
	switch {
	case r.ID == "":
		return fmt.Errorf("report: a run without an id")
	case !r.State.Valid():
		return fmt.Errorf("report: run %s: unknown state %q", r.ID, r.State)
	case r.State.Final() == r.Finished.IsZero():
		return fmt.Errorf("report: run %s: state %q does not fit its finishing time %v", r.ID, r.State, r.Finished)
	case r.Method != "" && !r.Method.Valid():
		return fmt.Errorf("report: run %s: unknown method %q, want enhanced or standard", r.ID, r.Method)
	case r.Direction == "" && r.Trust == "" && r.VM.UUID == "": // about no VM, such as a deployment: there is nothing to choose
	case !r.Direction.Valid():
		return fmt.Errorf("report: run %s: unknown direction %q, want push or pull", r.ID, r.Direction)
	case !r.Trust.Valid():
		return fmt.Errorf("report: run %s: unknown trust choice %q, want verify or trust", r.ID, r.Trust)
	}
	if r.Consistency != "" && !r.Consistency.Valid() {
		return fmt.Errorf("report: run %s: unknown consistency %q, want disk or paused", r.ID, r.Consistency)
	}
	for _, p := range r.Phases {
		if !p.Phase.Valid() {
			return fmt.Errorf("report: run %s: unknown phase %q", r.ID, p.Phase)
		}
	}
	for _, d := range r.Disks {
		if err := d.validate(); err != nil {
			return fmt.Errorf("report: run %s: %w", r.ID, err)
		}
	}
	return nil
}

// Clone returns a copy that shares nothing with r.
func (r Run) Clone() Run {
	r.Disks = slices.Clone(r.Disks)
	for i := range r.Disks {
		r.Disks[i] = r.Disks[i].clone()
	}
	r.Phases = slices.Clone(r.Phases)
	r.Events = slices.Clone(r.Events)
	r.Delegates = slices.Clone(r.Delegates)
	r.TargetHosts = slices.Clone(r.TargetHosts)
	r.Snapshot = r.Snapshot.clone()
	return r
}
