package report

import (
	"fmt"
	"slices"
	"time"
)

// States of a VM in a job's run; a run by itself is never in one of them.
const (
	StateWaiting   State = "waiting"   // its turn has not come
	StateSuspended State = "suspended" // its replica is in a failover state: it is left out, which is no failure
)

// JobRun is the report of one run of a job: what became of each of its VMs. What a VM run itself has to say stands in its own Run.
type JobRun struct {
	ID       string    `json:"id"`
	Job      string    `json:"job"`      // id of the job
	JobName  string    `json:"job_name"` // as it was called then
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
	State    State     `json:"state"`
	VMs      []JobVM   `json:"vms"`
	Findings []Finding `json:"findings,omitempty"` // about the job as a whole, such as a selector that chooses nothing
	Error    string    `json:"error,omitempty"`
}

// JobVM is one VM of a job's run.
type JobVM struct {
	VM    VM     `json:"vm"`
	Run   string `json:"run,omitempty"` // id of the VM run; empty before it begins
	State State  `json:"state"`
	Error string `json:"error,omitempty"`
}

// Validate checks the typed strings and that the times fit the state. It is called before a report is stored.
func (r JobRun) Validate() error {
	switch {
	case r.ID == "" || r.Job == "":
		return fmt.Errorf("report: a job's run without an id, or of no job")
	case !r.State.Valid() || r.State == StateSuspended:
		return fmt.Errorf("report: job's run %s: unknown state %q", r.ID, r.State)
	case r.State.Final() == r.Finished.IsZero():
		return fmt.Errorf("report: job's run %s: state %q does not fit its finishing time %v", r.ID, r.State, r.Finished)
	}
	for _, vm := range r.VMs {
		switch {
		case vm.VM.UUID == "":
			return fmt.Errorf("report: job's run %s: a VM without uuid", r.ID)
		case vm.State != StateWaiting && vm.State != StateSuspended && !vm.State.Valid():
			return fmt.Errorf("report: job's run %s: VM %s: unknown state %q", r.ID, vm.VM.UUID, vm.State)
		case r.State.Final() && vm.State != StateSuspended && !vm.State.Final():
			return fmt.Errorf("report: job's run %s has ended and its VM %s is %s", r.ID, vm.VM.UUID, vm.State)
		}
	}
	for _, f := range r.Findings {
		if !f.Severity.Valid() {
			return fmt.Errorf("report: job's run %s: finding %s: unknown severity %q", r.ID, f.Code, f.Severity)
		}
	}
	return nil
}

// Uncommitted lists the uuids of the VMs that this run has not replicated.
func (r JobRun) Uncommitted() []string {
	var uuids []string
	for _, vm := range r.VMs {
		if vm.State != StateCommitted {
			uuids = append(uuids, vm.VM.UUID)
		}
	}
	return uuids
}

// Clone returns a copy that shares nothing with r.
func (r JobRun) Clone() JobRun {
	r.VMs = slices.Clone(r.VMs)
	r.Findings = slices.Clone(r.Findings)
	return r
}
