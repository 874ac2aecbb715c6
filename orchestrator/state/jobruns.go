package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

// JobRun is the row of a job's run. Its state and times are those of the report.
type JobRun struct {
	ID              string
	Job             string // id of the job, which may be gone
	Owner           Owner
	Heartbeat       time.Time // last sign of life of the owner
	CancelRequested bool
	Report          report.JobRun
}

// BeginJobRun begins a run of a job and makes this process its owner. Of r the id, state and start are set here. A job has at most
// one unfinished run: else a *BusyError. ErrDisabled, ErrNotFound.
func (s *Store) BeginJobRun(ctx context.Context, job string, r report.JobRun) (JobRun, error) {
	now := s.now().UTC()
	r.ID, r.Job, r.State, r.Started, r.Finished, r.Error = uuid.NewString(), job, report.StateRunning, now, time.Time{}, ""
	document, err := marshalJobRun(r)
	if err != nil {
		return JobRun{}, err
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		if err := checkEnabled(ctx, tx, job); err != nil {
			return err
		}
		if err := notBusy(ctx, tx, job); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx,
			`INSERT INTO job_runs (id, job, state, owner, heartbeat, started, finished, report) VALUES (?, ?, ?, ?, ?, ?, '', ?)`,
			r.ID, job, r.State, s.owner.String(), timeText(now), timeText(now), document)
		return err
	})
	if err != nil {
		return JobRun{}, fmt.Errorf("beginning a run of job %s: %w", job, err)
	}
	return JobRun{ID: r.ID, Job: job, Owner: s.owner, Heartbeat: now, Report: r}, nil
}

// SaveJobRun stores how far a job's run has come, or its end. Only its owner may: else ErrNotOwner. ErrEnded.
func (s *Store) SaveJobRun(ctx context.Context, r report.JobRun) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		run, err := findJobRun(ctx, tx, r.ID)
		if err != nil {
			return err
		}
		if run.Owner != s.owner {
			return fmt.Errorf("%w: %s", ErrNotOwner, run.Owner)
		}
		return storeJobRun(ctx, tx, r)
	})
	if err != nil {
		return fmt.Errorf("storing the report of job's run %s: %w", r.ID, err)
	}
	return nil
}

func storeJobRun(ctx context.Context, tx *sql.Tx, r report.JobRun) error {
	document, err := marshalJobRun(r)
	if err != nil {
		return err
	}
	result, err := tx.ExecContext(ctx, `UPDATE job_runs SET state = ?, finished = ?, report = ? WHERE id = ? AND finished = ''`,
		r.State, timeText(r.Finished), document, r.ID)
	if err != nil {
		return err
	}
	if err := changedOne(result, ""); err != nil {
		return ErrEnded
	}
	return nil
}

func marshalJobRun(r report.JobRun) (string, error) {
	if err := r.Validate(); err != nil {
		return "", err
	}
	document, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("report of job's run %s: %w", r.ID, err)
	}
	return string(document), nil
}

const selectJobRuns = `SELECT id, job, owner, heartbeat, cancel, report FROM job_runs `

// JobRun reads one by its id; ErrNotFound.
func (s *Store) JobRun(ctx context.Context, id string) (JobRun, error) {
	return findJobRun(ctx, s.db, id)
}

// JobRuns lists the newest runs of a job, or of all with an empty job, the newest first; limit bounds their number.
func (s *Store) JobRuns(ctx context.Context, job string, limit int) ([]JobRun, error) {
	found, err := queryAll(ctx, s.db, scanJobRun, selectJobRuns+`WHERE ?1 IN ('', job) ORDER BY started DESC, id LIMIT ?2`, job, limit)
	if err != nil {
		return nil, fmt.Errorf("listing the runs of jobs: %w", err)
	}
	return found, nil
}

// RunsOf lists the VM runs that are part of a job's run, the oldest first. A VM has several when an earlier one came to nothing.
func (s *Store) RunsOf(ctx context.Context, jobRun string) ([]Run, error) {
	found, err := queryAll(ctx, s.db, scanRun, selectRuns+`WHERE job_run = ? AND job_run <> '' ORDER BY started, id`, jobRun)
	if err != nil {
		return nil, fmt.Errorf("listing the VM runs of job's run %s: %w", jobRun, err)
	}
	return found, nil
}

// TakeOverJobRun makes this process the owner of a job's run whose owner is gone: dead, or on another host and without a sign
// of life for LeaseTime.
// Else it is a *BusyError, also when the owner is this very process. ErrEnded.
func (s *Store) TakeOverJobRun(ctx context.Context, id string) (JobRun, error) {
	var run JobRun
	err := s.write(ctx, func(tx *sql.Tx) (err error) {
		if run, err = findJobRun(ctx, tx, id); err != nil {
			return err
		}
		if run.Report.State.Final() {
			return ErrEnded
		}
		if err := s.checkGone(ctx, tx, id, run.Owner); err != nil {
			return err
		}
		run.Owner, run.Heartbeat = s.owner, s.now().UTC()
		_, err = tx.ExecContext(ctx, `UPDATE job_runs SET owner = ?, heartbeat = ? WHERE id = ?`, run.Owner.String(), timeText(run.Heartbeat), id)
		return err
	})
	if err != nil {
		return JobRun{}, fmt.Errorf("taking over job's run %s: %w", id, err)
	}
	return run, nil
}

// cancelJobRun ends a run whose owner is gone there and then, for nobody would see the flag.
func (s *Store) cancelJobRun(ctx context.Context, tx *sql.Tx, run JobRun) error {
	if run.Report.State.Final() {
		return ErrEnded
	}
	if _, err := tx.ExecContext(ctx, `UPDATE job_runs SET cancel = 1 WHERE id = ?`, run.ID); err != nil {
		return err
	}
	if err := s.checkGone(ctx, tx, run.ID, run.Owner); errors.Is(err, ErrBusy) {
		return nil
	} else if err != nil {
		return err
	}
	return s.endJobRun(ctx, tx, run.Report, report.StateCancelled, "cancelled after its process had died")
}

// PendingJobRuns lists the runs of jobs that have not ended, the oldest first.
func (s *Store) PendingJobRuns(ctx context.Context) ([]JobRun, error) {
	found, err := queryAll(ctx, s.db, scanJobRun, selectJobRuns+`WHERE finished = '' ORDER BY started, id`)
	if err != nil {
		return nil, fmt.Errorf("listing the runs of jobs that have not ended: %w", err)
	}
	return found, nil
}

// EndJobRun ends a job's run whose owner is gone, as interrupted: nobody is to go on with it. Else it is a *BusyError. ErrEnded.
func (s *Store) EndJobRun(ctx context.Context, id, cause string) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		run, err := findJobRun(ctx, tx, id)
		if err != nil {
			return err
		}
		if run.Report.State.Final() {
			return ErrEnded
		}
		if err := s.checkGone(ctx, tx, id, run.Owner); err != nil {
			return err
		}
		return s.endJobRun(ctx, tx, run.Report, report.StateInterrupted, cause)
	})
	if err != nil {
		return fmt.Errorf("ending job's run %s: %w", id, err)
	}
	return nil
}

// endJobRun stores the end of a run whose process died, and of those of its VMs that had not come to theirs.
func (s *Store) endJobRun(ctx context.Context, tx *sql.Tx, r report.JobRun, end report.State, cause string) error {
	r.State, r.Finished, r.Error = end, s.now().UTC(), cause
	for i := range r.VMs {
		switch r.VMs[i].State {
		case report.StateWaiting:
			r.VMs[i].State = end
		case report.StateRunning:
			r.VMs[i].State, r.VMs[i].Error = report.StateInterrupted, "its process died"
		}
	}
	return storeJobRun(ctx, tx, r)
}

func findJobRun(ctx context.Context, q querier, id string) (JobRun, error) {
	found, err := queryAll(ctx, q, scanJobRun, selectJobRuns+`WHERE id = ?`, id)
	if err != nil {
		return JobRun{}, fmt.Errorf("reading job's run %s: %w", id, err)
	}
	if len(found) == 0 {
		return JobRun{}, fmt.Errorf("job's run %s: %w", id, ErrNotFound)
	}
	return found[0], nil
}

func scanJobRun(scan scanFunc) (r JobRun, err error) {
	var owner, heartbeat, document string
	if err := scan(&r.ID, &r.Job, &owner, &heartbeat, &r.CancelRequested, &document); err != nil {
		return JobRun{}, err
	}
	if r.Owner, err = ParseOwner(owner); err != nil {
		return JobRun{}, err
	}
	if r.Heartbeat, err = parseTime(heartbeat); err != nil {
		return JobRun{}, err
	}
	return r, json.Unmarshal([]byte(document), &r.Report)
}

// SingleRuns lists the newest runs that are part of no job's run, the newest first; limit bounds their number.
func (s *Store) SingleRuns(ctx context.Context, limit int) ([]Run, error) {
	found, err := queryAll(ctx, s.db, scanRun, selectRuns+`WHERE job_run = '' ORDER BY started DESC, id LIMIT ?`, limit)
	if err != nil {
		return nil, fmt.Errorf("listing single runs: %w", err)
	}
	return found, nil
}
