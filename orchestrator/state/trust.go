package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// TrustOverride is an administrator's word about one replica, which the runs obey until he takes it back.
type TrustOverride string

// What he may say.
const (
	TrustAsAsked TrustOverride = ""         // as each run is asked to
	TrustAlways  TrustOverride = "trust"    // as if every run were asked to trust: the evidence must speak for it nevertheless
	TrustNever   TrustOverride = "distrust" // every run scans
)

// Valid reports whether t is one of the values above.
func (t TrustOverride) Valid() bool {
	return slices.Contains([]TrustOverride{TrustAsAsked, TrustAlways, TrustNever}, t)
}

// SetTrust stores an administrator's word about a replica; ErrNotFound. A run under way goes on as it began.
func (s *Store) SetTrust(ctx context.Context, replica string, t TrustOverride) error {
	what := "storing whether replica " + replica + " is trusted"
	if !t.Valid() {
		return fmt.Errorf("%s: %q is neither trust nor distrust", what, t)
	}
	err := s.write(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE replicas SET trust = ? WHERE id = ?`, t, replica)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return ErrNotFound
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// NoteUtilisation stores how many bytes the pool says the disks of a replica take, by number, just after a commit. Only the owner
// of the replica's unfinished run may.
func (s *Store) NoteUtilisation(ctx context.Context, replica string, bytes map[string]int64) error {
	return s.writeReplica(ctx, "noting what the disks of replica "+replica+" take", replica, func(tx *sql.Tx) error {
		for disk, n := range bytes {
			_, err := tx.ExecContext(ctx, `UPDATE replica_disks SET utilisation = ? WHERE replica = ? AND disk = ?`, max(n, 0), replica, disk)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// NoteForeignWrites stores what was found on the disks of a replica, by number, that somebody else wrote. Only the owner of the
// replica's unfinished run may.
func (s *Store) NoteForeignWrites(ctx context.Context, replica string, found map[string]string) error {
	return s.writeReplica(ctx, "noting what somebody wrote to replica "+replica, replica, func(tx *sql.Tx) error {
		for disk, what := range found {
			if _, err := tx.ExecContext(ctx, `UPDATE replica_disks SET foreign_writes = ? WHERE replica = ? AND disk = ?`, what, replica, disk); err != nil {
				return err
			}
		}
		return nil
	})
}

// AcceptDivergence records that an administrator chose to have a replica overwritten that somebody used: what its disks hold is not
// known from now on, and the start of its VM at a time by its pool's clock, zero when it never ran, holds nobody up any more. Only
// the owner of the replica's unfinished run may.
func (s *Store) AcceptDivergence(ctx context.Context, replica string, start time.Time) error {
	return s.writeReplica(ctx, "accepting what was done to replica "+replica, replica, func(tx *sql.Tx) error {
		if err := acceptStart(ctx, tx, replica, start); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE replica_disks SET state = '', utilisation = 0, foreign_writes = '' WHERE replica = ?`, replica)
		return err
	})
}

// AcceptStart is the part of AcceptDivergence that is about the VM: what is known of the disks stays.
func (s *Store) AcceptStart(ctx context.Context, replica string, start time.Time) error {
	return s.writeReplica(ctx, "accepting the start of replica "+replica, replica, func(tx *sql.Tx) error {
		return acceptStart(ctx, tx, replica, start)
	})
}

func acceptStart(ctx context.Context, tx *sql.Tx, replica string, start time.Time) error {
	_, err := tx.ExecContext(ctx, `UPDATE replicas SET accepted_start = ? WHERE id = ?`, optionalTime(start), replica)
	return err
}

// ForgetReplica removes a replica from the state, with its disks, manifests and journals. Its runs stay, as runs about no replica.
// Only the owner of the
// replica's unfinished run may.
func (s *Store) ForgetReplica(ctx context.Context, replica string) error {
	what := "forgetting replica " + replica
	var disks []Disk
	err := s.writeReplica(ctx, what, replica, func(tx *sql.Tx) (err error) {
		if disks, err = disksOf(ctx, tx, replica); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE runs SET replica = NULL WHERE replica = ?`, replica); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM replicas WHERE id = ?`, replica)
		return err
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range disks {
		if err := os.Remove(s.journalPath(replica, d.Disk)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		errs = append(errs, s.removeFiles(replica, d.Disk, nil))
	}
	// Empty by now, unless a file could not be removed, which is in the errors.
	_ = os.Remove(filepath.Join(s.dir, manifestsName, replica))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
