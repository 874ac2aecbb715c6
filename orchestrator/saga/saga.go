package saga

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/state"
)

// unwindTimeout bounds one Unwind: shutting a delegate down and destroying its disks takes seconds, a busy repository may
// hold them for ten times five (xapi-facts §14.4).
const unwindTimeout = 5 * time.Minute

// ErrUnknownKind says that a recorded object cannot be undone because nobody said how.
var ErrUnknownKind = errors.New("no undoer for this kind of object")

// Undoer removes an object from its pool, knowing its record only. It must be idempotent: nil when the object does not exist.
// An object without UUID may exist nevertheless, under o.Name; the Undoer looks for that. Before it removes anything it
// makes sure that what it found is the object of the record and not somebody's copy of it.
type Undoer func(ctx context.Context, o state.Object) error

// Undoers says for each kind of object how it is undone.
type Undoers map[string]Undoer

func (u Undoers) undo(ctx context.Context, store *state.Store, o state.Object) error {
	undo, ok := u[o.Kind]
	if !ok {
		return fmt.Errorf("undoing %s: %w", o.Name, ErrUnknownKind)
	}
	if err := undo(ctx, o); err != nil {
		return fmt.Errorf("undoing %s %s (%s): %w", o.Class, o.Name, orUnknown(o.UUID), err)
	}
	_, err := store.RecordUndone(ctx, o)
	return err
}

func orUnknown(uuid string) string {
	if uuid == "" {
		return "uuid not known"
	}
	return uuid
}

// Intent says what is about to be made. Its kind must have an Undoer.
type Intent struct {
	Pool   string // uuid
	Class  string // XenAPI class
	Kind   string
	Origin string // uuid of the object that it is cloned or snapshotted from, if any
}

// Saga makes and undoes the objects of one run, which must be this process's. It is safe for concurrent use, except that
// Unwind comes after the last Create.
type Saga struct {
	store   *state.Store
	run     string
	undoers Undoers
}

// New returns the saga of a run.
func New(store *state.Store, run string, undoers Undoers) *Saga {
	return &Saga{store: store, run: run, undoers: undoers}
}

// Create records the intent, durably, then calls create with the name that the object must have from its first moment on,
// then records the uuid that create returns. After an error the object may exist; Unwind removes it then.
func (s *Saga) Create(ctx context.Context, i Intent, create func(ctx context.Context, name string) (uuid string, err error)) (state.Object, error) {
	if _, ok := s.undoers[i.Kind]; !ok {
		return state.Object{}, fmt.Errorf("creating a %s: %w", i.Kind, ErrUnknownKind)
	}
	object, err := s.store.RecordIntent(ctx, state.Object{Run: s.run, Pool: i.Pool, Class: i.Class, Kind: i.Kind, Origin: i.Origin})
	if err != nil {
		return state.Object{}, err
	}
	uuid, err := create(ctx, object.Name)
	if err != nil {
		return state.Object{}, fmt.Errorf("creating %s %s: %w", object.Class, object.Name, err)
	}
	// The object exists: a context that has just ended must not lose its uuid.
	return s.store.RecordCreated(context.WithoutCancel(ctx), object, uuid)
}

// Keep records that objects are part of the run's result: they are not undone.
func (s *Saga) Keep(ctx context.Context, objects ...state.Object) error {
	for _, o := range objects {
		if _, err := s.store.RecordKept(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// Undo removes one object before the run's end, such as a delegate that has done its work.
func (s *Saga) Undo(ctx context.Context, o state.Object) error {
	return s.undoers.undo(ctx, s.store, o)
}

// Unwind removes what the run made and did not Keep, the newest first: at the end of a good run its temporary objects, after
// a failure all of them. It goes on when ctx has ended, for a few minutes at most, and past objects that it cannot remove;
// their errors are joined, and Recover tries them again.
func (s *Saga) Unwind(ctx context.Context) error {
	_, err := unwind(ctx, s.store, s.run, s.undoers)
	return err
}

// unwind also returns what it has undone.
func unwind(ctx context.Context, store *state.Store, run string, undoers Undoers) (undone []state.Object, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unwindTimeout)
	defer cancel()
	objects, err := store.Objects(ctx, run)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, o := range slices.Backward(objects) {
		if !o.Pending() {
			continue
		}
		if err := undoers.undo(ctx, store, o); err != nil {
			errs = append(errs, err)
			continue
		}
		undone = append(undone, o)
	}
	if len(errs) > 0 {
		return undone, errors.Join(errs...)
	}
	return undone, store.ReleaseRun(ctx, run)
}
