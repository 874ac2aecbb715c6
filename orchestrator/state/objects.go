package state

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// ObjectStatus says what is known of an object that a run makes in a pool.
type ObjectStatus string

// The statuses of an object.
const (
	ObjectIntended ObjectStatus = "intended" // its creation was about to be asked for; it may exist
	ObjectCreated  ObjectStatus = "created"  // it exists, its uuid is known
	ObjectKept     ObjectStatus = "kept"     // it is part of the run's result and outlives it
	ObjectUndone   ObjectStatus = "undone"   // it is gone
)

// Object is something that a run makes in a pool, recorded before it is asked for.
type Object struct {
	Run      string
	Sequence int64  // order of creation within the run, from 1
	Pool     string // uuid
	Class    string // XenAPI class, such as VM or VDI
	Kind     string // what it is for, and by that how it is undone
	Name     string // carries run and sequence; the object has it from its creation on
	Origin   string // uuid of the object that it is cloned or snapshotted from, or the task that imports it, if any
	UUID     string // empty while Status is intended
	Status   ObjectStatus
	Recorded time.Time
}

// Pending reports whether the object is there, or may be, and is to go.
func (o Object) Pending() bool { return o.Status == ObjectIntended || o.Status == ObjectCreated }

// RecordIntent records, durably, that an object is about to be created. Run, Pool, Class, Kind and Origin are the caller's;
// the rest is set here, Name above all. Only the run's owner may.
func (s *Store) RecordIntent(ctx context.Context, o Object) (Object, error) {
	if o.Pool == "" || o.Class == "" || o.Kind == "" {
		return Object{}, fmt.Errorf("recording an object of run %s: pool %q, class %q and kind %q must all be given", o.Run, o.Pool, o.Class, o.Kind)
	}
	err := s.writeRun(ctx, fmt.Sprintf("recording a %s of run %s", o.Kind, o.Run), o.Run, func(tx *sql.Tx) error {
		var finished string
		if err := tx.QueryRowContext(ctx, `SELECT finished FROM runs WHERE id = ?`, o.Run).Scan(&finished); err != nil {
			return err
		}
		if finished != "" {
			return ErrEnded
		}
		err := tx.QueryRowContext(ctx, `SELECT 1 + coalesce(max(sequence), 0) FROM objects WHERE run = ?`, o.Run).Scan(&o.Sequence)
		if err != nil {
			return err
		}
		o.Name = objectName(o.Kind, o.Run, o.Sequence)
		o.UUID, o.Status, o.Recorded = "", ObjectIntended, time.Now().UTC()
		_, err = tx.ExecContext(ctx,
			`INSERT INTO objects (run, sequence, pool, class, kind, name, origin, uuid, status, recorded) VALUES (?, ?, ?, ?, ?, ?, ?, '', ?, ?)`,
			o.Run, o.Sequence, o.Pool, o.Class, o.Kind, o.Name, o.Origin, o.Status, timeText(o.Recorded))
		return err
	})
	if err != nil {
		return Object{}, err
	}
	return o, nil
}

// objectName is short: LVM repositories cut name and description together at 445 bytes (xapi-facts §14.41).
func objectName(kind, run string, sequence int64) string {
	return fmt.Sprintf("understudy %s %s.%d", kind, strings.ToLower(run), sequence)
}

// RecordCreated records the uuid of an object that was created. Only the run's owner may.
func (s *Store) RecordCreated(ctx context.Context, o Object, uuid string) (Object, error) {
	if uuid == "" {
		return Object{}, fmt.Errorf("recording %s: it has no uuid", o.Name)
	}
	o.UUID = uuid
	return s.setObject(ctx, o, ObjectCreated)
}

// RecordKept records that an object outlives the run. Only the run's owner may.
func (s *Store) RecordKept(ctx context.Context, o Object) (Object, error) {
	if o.UUID == "" {
		return Object{}, fmt.Errorf("keeping %s: it has no uuid", o.Name)
	}
	return s.setObject(ctx, o, ObjectKept)
}

// RecordUndone records that an object is gone. Only the run's owner may.
func (s *Store) RecordUndone(ctx context.Context, o Object) (Object, error) {
	return s.setObject(ctx, o, ObjectUndone)
}

func (s *Store) setObject(ctx context.Context, o Object, status ObjectStatus) (Object, error) {
	o.Status = status
	err := s.writeRun(ctx, fmt.Sprintf("recording %s as %s", o.Name, status), o.Run, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE objects SET uuid = ?, status = ? WHERE run = ? AND sequence = ?`,
			o.UUID, o.Status, o.Run, o.Sequence)
		if err != nil {
			return err
		}
		return changedOne(result, "object "+o.Name)
	})
	if err != nil {
		return Object{}, err
	}
	return o, nil
}

// Objects lists what a run made, in the order of creation.
func (s *Store) Objects(ctx context.Context, run string) ([]Object, error) {
	objects, err := queryAll(ctx, s.db, scanObject,
		`SELECT run, sequence, pool, class, kind, name, origin, uuid, status, recorded FROM objects WHERE run = ? ORDER BY sequence`, run)
	if err != nil {
		return nil, fmt.Errorf("listing the objects of run %s: %w", run, err)
	}
	return objects, nil
}

func scanObject(scan scanFunc) (o Object, err error) {
	var recorded string
	err = scan(&o.Run, &o.Sequence, &o.Pool, &o.Class, &o.Kind, &o.Name, &o.Origin, &o.UUID, &o.Status, &recorded)
	if err != nil {
		return Object{}, err
	}
	o.Recorded, err = parseTime(recorded)
	return o, err
}
