package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// LeaseTime is how long a process on another host may be silent before its runs can be taken over. The clocks of hosts that
	// share a state directory must agree to a few seconds. Of a process on this host it is known whether it lives, and no clock counts.
	LeaseTime = 30 * time.Second
	// giveUp is how long after its last sign of life a process stops working on a run: some time before another one may begin.
	// SQLite may keep a call waiting beyond that, for up to 10 seconds.
	giveUp = LeaseTime - 2*beatEvery
	// beatEvery is the time between two signs of life: several may be late before a run is lost.
	beatEvery = 5 * time.Second
	// lookEvery is how often the owner of a run looks whether it is to be cancelled: at least once a second, as is promised.
	lookEvery = 400 * time.Millisecond
)

// Heartbeat gives a sign of life for a run, be it a job's or a single one's. Only its owner may: ErrNotOwner. A run that has ended
// needs none: ErrEnded.
func (s *Store) Heartbeat(ctx context.Context, id string) error {
	_, err := s.heartbeat(ctx, id)
	return err
}

func (s *Store) heartbeat(ctx context.Context, id string) (cancelled bool, err error) {
	err = s.write(ctx, func(tx *sql.Tx) error {
		for _, table := range []string{"runs", "job_runs"} {
			_, err := tx.ExecContext(ctx, `UPDATE `+table+` SET heartbeat = ? WHERE id = ? AND owner = ? AND finished = ''`,
				timeText(s.now()), id, s.owner.String())
			if err != nil {
				return err
			}
		}
		cancelled, err = s.look(ctx, tx, id)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("sign of life of run %s: %w", id, err)
	}
	return cancelled, nil
}

// rowQuerier is a *sql.DB or a *sql.Tx.
type rowQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// look reads whether a run of this process is to be cancelled; ErrNotOwner, ErrEnded, ErrNotFound.
func (s *Store) look(ctx context.Context, q rowQuerier, id string) (cancelled bool, err error) {
	var owner, finished string
	err = q.QueryRowContext(ctx, `SELECT owner, finished, cancel FROM runs WHERE id = ?1
		UNION ALL SELECT owner, finished, cancel FROM job_runs WHERE id = ?1`, id).Scan(&owner, &finished, &cancelled)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, ErrNotFound
	case err != nil:
		return false, err
	case owner != s.owner.String():
		return false, fmt.Errorf("%w: %s", ErrNotOwner, owner)
	case finished != "":
		return false, ErrEnded
	}
	return cancelled, nil
}

// Keep keeps a run, a job's or a single one's, for as long as this process is at work on it: it gives signs of life and looks for
// the wish to cancel it. The context that it returns ends, with a cause, when the run is to be cancelled (ErrCancelled), belongs to
// another process now (ErrNotOwner), or when no sign of life could be given for so long that another process may soon take the
// run, however long the state database keeps its callers waiting. stop ends the keeping, and comes after the last that is done for the run, its removals among it.
func (s *Store) Keep(ctx context.Context, id string) (kept context.Context, stop func()) {
	kept, cancel := context.WithCancelCause(ctx)
	keeping, end := context.WithCancel(context.WithoutCancel(ctx)) // what is removed after the end of ctx takes a while, too
	var group sync.WaitGroup
	group.Go(func() { cancel(s.keep(keeping, id, cancel)) })
	return kept, func() {
		end()
		group.Wait()
	}
}

// keep returns why the run cannot be kept any more; nil when it need not.
func (s *Store) keep(ctx context.Context, id string, cancel context.CancelCauseFunc) error {
	ticker := time.NewTicker(s.lookEvery)
	defer ticker.Stop()
	lived := time.Now() // when the last sign of life that succeeded was begun; the run's beginning is one
	for first := true; ; first = false {
		var cancelled bool
		var err error
		if began := time.Now(); first || began.Sub(lived) >= s.beatEvery {
			if cancelled, err = s.heartbeatUntil(ctx, id, lived.Add(s.giveUp)); err == nil {
				lived = began
			}
		} else {
			cancelled, err = s.look(ctx, s.db, id)
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, ErrEnded):
			return nil
		case errors.Is(err, ErrNotOwner), errors.Is(err, ErrNotFound):
			return err
		case err == nil:
			if cancelled {
				cancel(ErrCancelled)
			}
		case time.Since(lived) >= s.giveUp:
			return fmt.Errorf("run %s could give no sign of life for %v, another process may soon take it over: %w", id, s.giveUp, err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// heartbeatUntil is heartbeat with a deadline.
func (s *Store) heartbeatUntil(ctx context.Context, id string, deadline time.Time) (cancelled bool, err error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return s.heartbeat(ctx, id)
}

// CancelRun has a run end, be it a job's, with all its VMs, or a single VM's. The process that owns it sees the wish within a
// second; that it has ended, with what it made removed, is in its report. A job's run whose owner is gone ends at once. ErrEnded.
func (s *Store) CancelRun(ctx context.Context, id string) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		run, err := findRun(ctx, tx, id)
		if errors.Is(err, ErrNotFound) {
			whole, err := findJobRun(ctx, tx, id)
			if err != nil {
				return err
			}
			return s.cancelJobRun(ctx, tx, whole)
		}
		if err != nil {
			return err
		}
		if run.Report.State.Final() {
			return ErrEnded
		}
		_, err = tx.ExecContext(ctx, `UPDATE runs SET cancel = 1 WHERE id = ?`, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("cancelling run %s: %w", id, err)
	}
	return nil
}

// OwnsRun is an ErrNotOwner when a single run belongs to another process.
func (s *Store) OwnsRun(ctx context.Context, id string) error {
	run, err := s.Run(ctx, id)
	if err == nil && run.Owner != s.owner {
		return fmt.Errorf("run %s: %w: %s", id, ErrNotOwner, run.Owner)
	}
	return err
}

// OwnerGone reports whether the owner of an unfinished run, a job's or a single one's, is gone, so that another process may take the
// run over.
func (s *Store) OwnerGone(ctx context.Context, run string, owner Owner) (bool, error) {
	err := s.checkGone(ctx, s.db, run, owner)
	if errors.Is(err, ErrBusy) {
		return false, nil
	}
	return err == nil, err
}

// checkGone is a *BusyError unless the owner of an unfinished run is gone. One on this host is when it is dead: how old its last sign
// of life seems tells nothing, since clocks are set and machines sleep with all their processes. One on another host is when it
// has given no sign of life, by any of its runs, for LeaseTime.
func (s *Store) checkGone(ctx context.Context, q querier, run string, owner Owner) error {
	busy := &BusyError{Run: run, Owner: owner}
	if owner == s.owner {
		return busy
	}
	alive, err := owner.Alive()
	switch {
	case err == nil && alive:
		return busy
	case err == nil:
		return nil
	case !errors.Is(err, ErrForeignHost):
		return err
	}
	beats, err := queryAll(ctx, q, func(scan scanFunc) (beat string, err error) { return beat, scan(&beat) },
		`SELECT heartbeat FROM runs WHERE owner = ?1 AND finished = '' UNION ALL SELECT heartbeat FROM job_runs WHERE owner = ?1 AND finished = ''`,
		owner.String())
	if err != nil {
		return err
	}
	for _, text := range beats {
		beat, err := parseTime(text)
		if err != nil {
			return err
		}
		if s.now().Sub(beat) < LeaseTime {
			return busy
		}
	}
	return nil
}
