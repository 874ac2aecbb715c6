package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// Failover is where a replica stands between waiting and doing its source's work. Package replica knows the states and what leads from one to the next.
type Failover struct {
	State string // of replica.Failover; empty: standby
	Note  FailoverNote
}

// FailoverNote is what the next decision needs to know of the last ones.
type FailoverNote struct {
	Since   time.Time `json:"since,omitzero"`           // when the present state began, by the orchestrator's clock
	Point   string    `json:"point,omitempty"`          // uuid of the restore point that the replica's VM began with
	Reverts bool      `json:"reverts,omitempty"`        // the replica goes back to Point before it begins
	Planned bool      `json:"planned,omitempty"`        // the source was shut down for it, after a last run
	Stopped bool      `json:"source_stopped,omitempty"` // we shut the source VM down: the way back starts it again
	Blocked bool      `json:"source_blocked,omitempty"` // we keep the source VM from being started: the way back lifts that
	// Released: the replica's VM is not kept from being started any more, and whoever wants may have done it.
	Released bool   `json:"released,omitempty"`
	Reverse  string `json:"reverse_replica,omitempty"` // id of the replica that the former source has become

	Former *FormerSource `json:"former_source,omitempty"`  // what that had before; nil: it was gone
	Kept   string        `json:"kept,omitempty"`           // uuid of the snapshot in which its content is kept
	Halted bool          `json:"replica_halted,omitempty"` // failing back, we shut the replica's VM down
	Final  string        `json:"final_run,omitempty"`      // failing back, the last run, after which nothing was written any more
}

// SetFailover stores a replica's state, which was another one: where it is not from, nothing is stored and the error is ErrConflict. Only the
// owner of the replica's unfinished run may.
func (s *Store) SetFailover(ctx context.Context, replica, from string, to Failover) error {
	note := ""
	if to.State != "" {
		if to.Note.Since.IsZero() {
			to.Note.Since = s.now().UTC()
		}
		document, err := json.Marshal(to.Note)
		if err != nil {
			return err
		}
		note = string(document)
	}
	what := fmt.Sprintf("storing that replica %s is %q", replica, to.State)
	return s.writeReplica(ctx, what, replica, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE replicas SET failover = ?, failover_note = ? WHERE id = ? AND failover = ?`, to.State, note, replica, from)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return fmt.Errorf("it was not %q: %w", from, ErrConflict)
	})
}

func parseFailover(state, note string) (Failover, error) {
	f := Failover{State: state}
	if note == "" {
		return f, nil
	}
	if err := json.Unmarshal([]byte(note), &f.Note); err != nil {
		return f, fmt.Errorf("what is noted of a failover: %w", err)
	}
	return f, nil
}
