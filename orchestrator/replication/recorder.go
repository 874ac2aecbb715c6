package replication

import (
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

// observeEvery is the least time between two copies for the observer.
const observeEvery = 500 * time.Millisecond

// recorder owns a run's report. It is safe for concurrent use; the observer is called by one goroutine at a time.
type recorder struct {
	mu      sync.Mutex
	run     report.Run
	observe func(report.Run)
	shown   time.Time
}

// newRecorder takes over a run that has just begun, and whose planning had begun earlier.
func newRecorder(run report.Run, planning time.Time, observe func(report.Run)) *recorder {
	run.Phases = []report.PhaseTime{{Phase: report.PhasePlan, Started: planning.UTC()}}
	return &recorder{run: run, observe: observe}
}

// change changes the report, and shows it when that has not been done for a while.
func (r *recorder) change(f func(*report.Run)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.run)
	if r.observe != nil && time.Since(r.shown) >= observeEvery {
		r.shown = time.Now()
		r.observe(r.run.Clone())
	}
}

// disk changes one disk's part.
func (r *recorder) disk(disk string, f func(*report.Disk)) {
	r.change(func(run *report.Run) {
		for i := range run.Disks {
			if run.Disks[i].Disk == disk {
				f(&run.Disks[i])
			}
		}
	})
}

func (r *recorder) event(cause, format string, args ...any) {
	r.change(func(run *report.Run) {
		run.Events = append(run.Events, report.Event{Time: time.Now().UTC(), Cause: cause, Text: fmt.Sprintf(format, args...)})
	})
}

// phase ends the phase that is on and begins another; "" only ends.
func (r *recorder) phase(p report.Phase) {
	r.change(func(run *report.Run) {
		now := time.Now().UTC()
		if n := len(run.Phases); n > 0 && run.Phases[n-1].Finished.IsZero() {
			run.Phases[n-1].Finished = now
		}
		if p != "" {
			run.Phases = append(run.Phases, report.PhaseTime{Phase: p, Started: now})
		}
	})
}

// end ends the report and shows it, however shortly after the last time.
func (r *recorder) end(state report.State, err error) {
	r.phase("")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.run.State, r.run.Finished = state, time.Now().UTC()
	if err != nil {
		r.run.Error = err.Error()
	}
	for i := range r.run.Disks {
		switch disk := &r.run.Disks[i]; {
		case state == report.StateCommitted:
			disk.State = report.DiskCommitted
		case disk.State == report.DiskMoving:
			disk.State = report.DiskFailed
		}
	}
	if r.observe != nil {
		r.observe(r.run.Clone())
	}
}

func (r *recorder) copy() report.Run {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.run.Clone()
}
