package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

// RunKind says what a run is for.
type RunKind string

// The kinds of runs.
const (
	RunReplicate RunKind = "replicate"
	RunVerify    RunKind = "verify"
	RunRevert    RunKind = "revert" // of a replica to a restore point
	RunResync    RunKind = "resync" // a diverged replica is kept aside, so that the next run may overwrite it
	RunDetach    RunKind = "detach" // a replica becomes a VM of its own; afterwards the run is about none
	RunFailover  RunKind = "failover"
	RunUndo      RunKind = "undo-failover"
	RunCommit    RunKind = "commit-failover"
	RunReverse   RunKind = "reverse"      // the former source of a replica becomes a replica of it
	RunFailback  RunKind = "failback"     // the former source takes the work over again
	RunRehearse  RunKind = "test-replica" // a restore point is started apart from the world
	RunDeploy    RunKind = "deploy"       // of the delegate's image to a pool
	RunTest      RunKind = "test"         // of a delegate
)

var kindsOfReplica = []RunKind{
	RunReplicate, RunVerify, RunRevert, RunResync, RunDetach, RunFailover, RunUndo, RunCommit, RunReverse, RunFailback, RunRehearse,
}

// Valid reports whether k is one of the kinds above.
func (k RunKind) Valid() bool { return k.ofReplica() || k == RunDeploy || k == RunTest }

// ofReplica reports whether runs of this kind are about a replica.
func (k RunKind) ofReplica() bool { return slices.Contains(kindsOfReplica, k) }

// beside reports whether runs of this kind go on beside the one that is at work on their replica: they only read its restore points.
func (k RunKind) beside() bool { return k == RunRehearse }

// Run is the row of a run. Its state, times and error are those of the report, and so is the job's run that it is a part of.
type Run struct {
	Replica         string // empty for RunDeploy and RunTest, and when the replica was forgotten
	Kind            RunKind
	Owner           Owner
	Heartbeat       time.Time // last sign of life of the owner
	CancelRequested bool
	Report          report.Run
}

// BeginRun begins a run on a replica, or on none when it is about none, and makes this process its owner. Of r the id, state and
// start are set here. A replica has at most one unfinished run, not counting tests (RunRehearse), which go on beside it, and a pool at
// most one unfinished deployment: else a *BusyError.
func (s *Store) BeginRun(ctx context.Context, replica string, kind RunKind, r report.Run) (Run, error) {
	what := fmt.Sprintf("beginning a run of kind %q", kind)
	if replica != "" {
		what += " on replica " + replica
	}
	if !kind.Valid() || kind.ofReplica() != (replica != "") {
		return Run{}, fmt.Errorf("%s: the kind is unknown, or is about a replica and has none, or the reverse", what)
	}
	r.ID, r.State, r.Started, r.Finished, r.Error = uuid.NewString(), report.StateRunning, s.now().UTC(), time.Time{}, ""
	document, err := marshalReport(r)
	if err != nil {
		return Run{}, fmt.Errorf("%s: %w", what, err)
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		busy, err := queryAll(ctx, tx, scanRun, selectRuns+`WHERE (replica = ?1 OR kind = ?2 AND ?2 = ?3) AND finished = ''`, replica, kind, RunDeploy)
		if err != nil {
			return err
		}
		for _, other := range busy {
			if kind.beside() || other.Kind.beside() {
				continue
			}
			if kind != RunDeploy || other.Report.VM.PoolUUID == r.VM.PoolUUID {
				return &BusyError{Run: other.Report.ID, Owner: other.Owner}
			}
		}
		_, err = tx.ExecContext(ctx,
			`INSERT INTO runs (id, replica, kind, job_run, state, owner, heartbeat, started, finished, error, report)
			 VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', '', ?)`,
			r.ID, sql.NullString{String: replica, Valid: replica != ""}, kind, r.JobRun, r.State, s.owner.String(), timeText(r.Started), timeText(r.Started),
			document)
		if isForeignKey(err) {
			return fmt.Errorf("replica %s: %w", replica, ErrNotFound)
		}
		return err
	})
	if err != nil {
		return Run{}, fmt.Errorf("%s: %w", what, err)
	}
	return Run{Replica: replica, Kind: kind, Owner: s.owner, Heartbeat: r.Started, Report: r}, nil
}

// SaveReport stores how far a run has come, or, when the report's state is final, its end: then nothing can
// be added to the run any more, but its objects can still be undone. Its addresses are free again, unless objects are left
// behind: a delegate among them may still answer there, and ReleaseRun follows its removal. Only the run's owner may.
func (s *Store) SaveReport(ctx context.Context, r report.Run) error {
	document, err := marshalReport(r)
	if err != nil {
		return err
	}
	return s.writeRun(ctx, "storing the report of run "+r.ID, r.ID, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx,
			`UPDATE runs SET job_run = ?, state = ?, finished = ?, error = ?, report = ? WHERE id = ? AND finished = ''`,
			r.JobRun, r.State, timeText(r.Finished), r.Error, document, r.ID)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return ErrEnded
		}
		if !r.State.Final() {
			return nil
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM address_leases WHERE run = ?1
			AND NOT EXISTS (SELECT 1 FROM objects WHERE objects.run = ?1 AND status IN (?2, ?3))`, r.ID, ObjectIntended, ObjectCreated)
		return err
	})
}

func marshalReport(r report.Run) (string, error) {
	if err := r.Validate(); err != nil {
		return "", err
	}
	document, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("report of run %s: %w", r.ID, err)
	}
	return string(document), nil
}

const selectRuns = `SELECT coalesce(replica, ''), kind, owner, heartbeat, cancel, report FROM runs `

// Run reads one run by its id; ErrNotFound.
func (s *Store) Run(ctx context.Context, id string) (Run, error) {
	return findRun(ctx, s.db, id)
}

// Runs lists the newest runs, the newest first; limit bounds their number.
func (s *Store) Runs(ctx context.Context, limit int) ([]Run, error) {
	runs, err := queryAll(ctx, s.db, scanRun, selectRuns+`ORDER BY started DESC, id LIMIT ?`, limit)
	if err != nil {
		return nil, fmt.Errorf("listing runs: %w", err)
	}
	return runs, nil
}

// RunOf reads the run of a replica that marked it with a generation; ErrNotFound.
func (s *Store) RunOf(ctx context.Context, replica string, g manifest.Generation) (Run, error) {
	runs, err := queryAll(ctx, s.db, scanRun, selectRuns+`WHERE replica = ? AND json_extract(report, '$.generation') = ?`, replica, g.String())
	if err != nil {
		return Run{}, fmt.Errorf("looking for the run of generation %s: %w", g, err)
	}
	if len(runs) == 0 {
		return Run{}, fmt.Errorf("run of generation %s: %w", g, ErrNotFound)
	}
	return runs[0], nil
}

// PendingRuns lists, the oldest first, the runs that recovery must look at: those that have not ended, and those that have
// and left objects behind.
func (s *Store) PendingRuns(ctx context.Context) ([]Run, error) {
	runs, err := queryAll(ctx, s.db, scanRun, selectRuns+
		`WHERE finished = '' OR EXISTS (SELECT 1 FROM objects WHERE objects.run = runs.id AND status IN (?, ?)) ORDER BY started, id`,
		ObjectIntended, ObjectCreated)
	if err != nil {
		return nil, fmt.Errorf("listing unfinished runs: %w", err)
	}
	return runs, nil
}

// TakeOver makes this process the owner of a run that has ended, or whose owner is gone: dead, or on another host and without
// a sign of life for LeaseTime. Else it is a *BusyError; of a run that is this process's own already, nothing changes.
func (s *Store) TakeOver(ctx context.Context, id string) (Run, error) {
	var run Run
	err := s.write(ctx, func(tx *sql.Tx) (err error) {
		if run, err = findRun(ctx, tx, id); err != nil || run.Owner == s.owner {
			return err
		}
		if !run.Report.State.Final() {
			if err := s.checkGone(ctx, tx, id, run.Owner); err != nil {
				return err
			}
		}
		run.Owner, run.Heartbeat = s.owner, s.now().UTC()
		_, err = tx.ExecContext(ctx, `UPDATE runs SET owner = ?, heartbeat = ? WHERE id = ?`, run.Owner.String(), timeText(run.Heartbeat), id)
		return err
	})
	if err != nil {
		return Run{}, fmt.Errorf("taking over run %s: %w", id, err)
	}
	return run, nil
}

func findRun(ctx context.Context, q querier, id string) (Run, error) {
	runs, err := queryAll(ctx, q, scanRun, selectRuns+`WHERE id = ?`, id)
	if err != nil {
		return Run{}, fmt.Errorf("reading run %s: %w", id, err)
	}
	if len(runs) == 0 {
		return Run{}, fmt.Errorf("run %s: %w", id, ErrNotFound)
	}
	return runs[0], nil
}

func scanRun(scan scanFunc) (r Run, err error) {
	var owner, heartbeat, document string
	if err := scan(&r.Replica, &r.Kind, &owner, &heartbeat, &r.CancelRequested, &document); err != nil {
		return Run{}, err
	}
	if r.Owner, err = ParseOwner(owner); err != nil {
		return Run{}, err
	}
	if r.Heartbeat, err = parseTime(heartbeat); err != nil {
		return Run{}, err
	}
	return r, json.Unmarshal([]byte(document), &r.Report)
}

// writeRun is write for changes of a run, which only its owner may make: else ErrNotOwner.
func (s *Store) writeRun(ctx context.Context, what, id string, f func(*sql.Tx) error) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		run, err := findRun(ctx, tx, id)
		if err != nil {
			return err
		}
		if run.Owner != s.owner {
			return fmt.Errorf("%w: %s", ErrNotOwner, run.Owner)
		}
		return f(tx)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
