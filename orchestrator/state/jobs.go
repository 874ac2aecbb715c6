package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/understudy-dr/understudy/orchestrator/job"
)

// Job is a standing order with what is kept about it.
type Job struct {
	ID         string // a uuid of ours
	Enabled    bool   // else it is not run
	Created    time.Time
	Updated    time.Time // when its definition was last changed
	Definition job.Definition
}

// ErrJobName says that another job bears the name. It is an ErrExists.
var ErrJobName = fmt.Errorf("another job bears this name: %w", ErrExists)

// CreateJob remembers a new job, which is enabled. Its pools must be known: ErrNotFound; its name must be new: ErrJobName.
func (s *Store) CreateJob(ctx context.Context, d job.Definition) (Job, error) {
	j := Job{ID: uuid.NewString(), Enabled: true, Created: s.now().UTC(), Definition: d}
	j.Updated = j.Created
	err := s.putJob(ctx, j, func(tx *sql.Tx, document string) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO jobs (id, name, enabled, definition, created, updated) VALUES (?, ?, 1, ?, ?, ?)`,
			j.ID, d.Name, document, timeText(j.Created), timeText(j.Updated))
		return err
	})
	if err != nil {
		return Job{}, fmt.Errorf("creating job %q: %w", d.Name, err)
	}
	return j, nil
}

// UpdateJob replaces a job's definition, which holds from the next run on. Errors are those of CreateJob.
func (s *Store) UpdateJob(ctx context.Context, id string, d job.Definition) (Job, error) {
	j, err := s.Job(ctx, id)
	if err != nil {
		return Job{}, err
	}
	j.Definition, j.Updated = d, s.now().UTC()
	err = s.putJob(ctx, j, func(tx *sql.Tx, document string) error {
		result, err := tx.ExecContext(ctx, `UPDATE jobs SET name = ?, definition = ?, updated = ? WHERE id = ?`,
			d.Name, document, timeText(j.Updated), j.ID)
		if err != nil {
			return err
		}
		return changedOne(result, "job "+id)
	})
	if err != nil {
		return Job{}, fmt.Errorf("changing job %q: %w", d.Name, err)
	}
	return j, nil
}

// putJob checks a job and has put store it.
func (s *Store) putJob(ctx context.Context, j Job, put func(tx *sql.Tx, document string) error) error {
	if err := j.Definition.Validate(); err != nil {
		return err
	}
	document, err := json.Marshal(j.Definition)
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx *sql.Tx) error {
		for _, pool := range []string{j.Definition.Source, j.Definition.Target} {
			known := false
			if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pools WHERE uuid = ?)`, pool).Scan(&known); err != nil {
				return err
			}
			if !known {
				return fmt.Errorf("pool %s: %w: add it first", pool, ErrNotFound)
			}
		}
		err := put(tx, string(document))
		if isUnique(err) {
			return ErrJobName
		}
		return err
	})
}

const selectJobs = `SELECT id, enabled, definition, created, updated FROM jobs `

// Job reads one by its id or name; ErrNotFound.
func (s *Store) Job(ctx context.Context, nameOrID string) (Job, error) {
	found, err := queryAll(ctx, s.db, scanJob, selectJobs+`WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC`, nameOrID)
	if err != nil {
		return Job{}, fmt.Errorf("reading job %q: %w", nameOrID, err)
	}
	if len(found) == 0 {
		return Job{}, fmt.Errorf("job %q: %w", nameOrID, ErrNotFound)
	}
	return found[0], nil
}

// Jobs lists all jobs by name.
func (s *Store) Jobs(ctx context.Context) ([]Job, error) {
	found, err := queryAll(ctx, s.db, scanJob, selectJobs+`ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("listing jobs: %w", err)
	}
	return found, nil
}

func scanJob(scan scanFunc) (j Job, err error) {
	var definition, created, updated string
	if err := scan(&j.ID, &j.Enabled, &definition, &created, &updated); err != nil {
		return Job{}, err
	}
	if j.Created, err = parseTime(created); err != nil {
		return Job{}, err
	}
	if j.Updated, err = parseTime(updated); err != nil {
		return Job{}, err
	}
	return j, json.Unmarshal([]byte(definition), &j.Definition)
}

// EnableJob enables a job, or disables it: then no run of it begins. One that is under way goes on.
func (s *Store) EnableJob(ctx context.Context, id string, enabled bool) error {
	result, err := s.db.ExecContext(ctx, `UPDATE jobs SET enabled = ? WHERE id = ?`, enabled, id)
	if err != nil {
		return fmt.Errorf("job %s: %w", id, err)
	}
	return changedOne(result, "job "+id)
}

// DeleteJob forgets a job. Its replicas stay, and so does what is known of its runs. A *BusyError while one has not ended.
func (s *Store) DeleteJob(ctx context.Context, id string) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		if err := notBusy(ctx, tx, id); err != nil {
			return err
		}
		result, err := tx.ExecContext(ctx, `DELETE FROM jobs WHERE id = ?`, id)
		if err != nil {
			return err
		}
		return changedOne(result, "job "+id)
	})
	if err != nil {
		return fmt.Errorf("deleting job %s: %w", id, err)
	}
	return nil
}

// notBusy is a *BusyError while a run of a job has not ended.
func notBusy(ctx context.Context, tx *sql.Tx, job string) error {
	found, err := queryAll(ctx, tx, scanJobRun, selectJobRuns+`WHERE job = ? AND finished = ''`, job)
	if err == nil && len(found) > 0 {
		return &BusyError{Run: found[0].Report.ID, Owner: found[0].Owner}
	}
	return err
}

// checkEnabled is an ErrDisabled for a job that is not to be run, and an ErrNotFound for one that is not there.
func checkEnabled(ctx context.Context, tx *sql.Tx, job string) error {
	enabled := false
	err := tx.QueryRowContext(ctx, `SELECT enabled FROM jobs WHERE id = ?`, job).Scan(&enabled)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case err == nil && !enabled:
		return ErrDisabled
	}
	return err
}
