package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// FormerSource is what a source VM had before it became a replica, and has again when it takes the work over.
type FormerSource struct {
	Description       string            `json:"description,omitempty"`
	Tagged            bool              `json:"tagged,omitempty"` // it bore the tag that keeps other backup tools away
	HARestartPriority string            `json:"ha_restart_priority,omitempty"`
	Appliance         string            `json:"appliance,omitempty"` // uuid of the vApp
	Order             int64             `json:"order,omitempty"`     // in which it starts
	AutoPowerOn       string            `json:"auto_poweron,omitempty"`
	VMData            map[string]string `json:"vm_data,omitempty"`
}

// CreateReverse remembers the pair in the other direction: the former source of a replica is a replica of the VM that does the work now.
// The pair and note, which names it from then on, are stored together. Of r the id and what runs and administrators add are set here, but
// for AcceptedStart and for its disks, of whose content nothing is known. A second replica of the same VM in the same SR is an ErrExists;
// a replica whose state is not from an ErrConflict. Only the owner of the unfinished run of forward may.
func (s *Store) CreateReverse(ctx context.Context, forward, from string, note FailoverNote, r Replica) (Replica, FailoverNote, error) {
	what := fmt.Sprintf("recording a replica of VM %s, which replica %s has become", r.SourceVM, forward)
	for _, d := range r.Disks {
		if err := d.validate(); err != nil {
			return Replica{}, note, fmt.Errorf("%s: %w", what, err)
		}
	}
	if r.SourceVM == "" || r.TargetSR == "" {
		return Replica{}, note, fmt.Errorf("%s: %w", what, errors.New("it needs a source VM and a target SR"))
	}
	r.ID, r.Created = uuid.NewString(), s.now().UTC()
	note.Reverse = r.ID
	document, err := json.Marshal(note)
	if err != nil {
		return Replica{}, note, err
	}
	err = s.writeReplica(ctx, what, forward, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO replicas (id, source_pool, source_vm, target_pool, target_sr, target_vm, created, last_commit, accepted_start)
			 VALUES (?, ?, ?, ?, ?, ?, ?, '', ?)`,
			r.ID, r.SourcePool, r.SourceVM, r.TargetPool, r.TargetSR, r.TargetVM, timeText(r.Created), optionalTime(r.AcceptedStart))
		if isUnique(err) {
			return ErrExists
		} else if err != nil {
			return err
		}
		for _, d := range r.Disks {
			_, err := tx.ExecContext(ctx,
				`INSERT INTO replica_disks (replica, disk, source_vdi, target_vdi, logical_size, state) VALUES (?, ?, ?, ?, ?, '')`,
				r.ID, d.Disk, d.SourceVDI, d.TargetVDI, d.LogicalSize)
			if err != nil {
				return err
			}
		}
		result, err := tx.ExecContext(ctx, `UPDATE replicas SET failover_note = ? WHERE id = ? AND failover = ?`, string(document), forward, from)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return fmt.Errorf("it was not %q: %w", from, ErrConflict)
	})
	return r, note, err
}

func optionalTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return timeText(t)
}

// SetSource has a replica follow another VM from now on: the one that was made in place of its source. Only the owner of the replica's
// unfinished run may.
func (s *Store) SetSource(ctx context.Context, replica, vm string) error {
	return s.writeReplica(ctx, fmt.Sprintf("having replica %s follow VM %s", replica, vm), replica, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE replicas SET source_vm = ? WHERE id = ?`, vm, replica)
		return err
	})
}
