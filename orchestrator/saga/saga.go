package saga

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// unwindTimeout bounds the undoing of one run's objects, in all pools at once.
	unwindTimeout = 5 * time.Minute
	// undoTimeout bounds one attempt to undo one object: shutting a delegate down and destroying its disks takes seconds, a
	// busy repository may hold them for ten times five (xapi-facts §14.4).
	undoTimeout = 90 * time.Second
	// outage is how long a pool that does not answer is tried again: a restart of its toolstack takes 10 to 60 s.
	outage      = 2 * time.Minute
	outagePause = 3 * time.Second
)

// ErrUnknownKind says that a recorded object cannot be undone because nobody said how.
var ErrUnknownKind = errors.New("no undoer for this kind of object")

// ErrNotMade is wrapped by the error of a create that is certain to have made nothing: then there is nothing to undo.
var ErrNotMade = errors.New("nothing was made")

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
	if err := store.OwnsRun(ctx, o.Run); err != nil { // who has taken the run over may go on with the object
		return fmt.Errorf("undoing %s: %w", o.Name, err)
	}
	attempt, cancel := context.WithTimeoutCause(ctx, undoTimeout,
		fmt.Errorf("not done within %v: %w", undoTimeout, context.DeadlineExceeded))
	defer cancel()
	if err := undo(attempt, o); err != nil {
		err = fmt.Errorf("undoing %s %s (%s): %w", o.Class, o.Name, orUnknown(o.UUID), err)
		if attempt.Err() == nil && xapi.IsTemporary(err) {
			return &temporaryError{err}
		}
		return err
	}
	_, err := store.RecordUndone(context.WithoutCancel(ctx), o)
	return err
}

// temporaryError is the failure of an undoing that is worth repeating soon.
type temporaryError struct{ error }

func (e *temporaryError) Unwrap() error { return e.error }

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
	Origin string // uuid of the object that it is cloned or snapshotted from, or the task that imports it, if any
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
// then records the uuid that create returns. After an error the object may exist, unless that is an ErrNotMade; Unwind removes it then.
func (s *Saga) Create(ctx context.Context, i Intent, create func(ctx context.Context, name string) (uuid string, err error)) (state.Object, error) {
	if _, ok := s.undoers[i.Kind]; !ok {
		return state.Object{}, fmt.Errorf("creating a %s: %w", i.Kind, ErrUnknownKind)
	}
	object, err := s.store.RecordIntent(ctx, state.Object{Run: s.run, Pool: i.Pool, Class: i.Class, Kind: i.Kind, Origin: i.Origin})
	if err != nil {
		return state.Object{}, err
	}
	uuid, err := create(ctx, object.Name)
	if errors.Is(err, ErrNotMade) {
		_, unrecorded := s.store.RecordUndone(context.WithoutCancel(ctx), object)
		err = errors.Join(err, unrecorded)
	}
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

// Release takes back what Keep said of the run's objects: they are to go, by Unwind or by Recover.
func (s *Saga) Release(ctx context.Context) error {
	objects, err := s.store.Objects(ctx, s.run)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if o.Status != state.ObjectKept {
			continue
		}
		if _, err := s.store.RecordCreated(ctx, o, o.UUID); err != nil {
			return err
		}
	}
	return nil
}

// Undo removes one object before the run's end, such as a delegate that has done its work.
func (s *Saga) Undo(ctx context.Context, o state.Object) error {
	return s.undoers.undo(ctx, s.store, o)
}

// Unwind removes what the run made and did not Keep: at the end of a good run its temporary objects, after a failure all of
// them. It goes on when ctx has ended, for a few minutes at most, and past objects that it cannot remove; their errors are
// joined, and Recover tries them again.
//
// Pools are unwound at the same time and independently, so that one that hangs does not keep what is left in another; within a
// pool the newest object goes first. While a pool does not answer, as during a restart of its toolstack, its objects are tried
// again for some two minutes.
func (s *Saga) Unwind(ctx context.Context) error {
	_, err := unwind(context.WithoutCancel(ctx), s.store, s.run, s.undoers)
	return err
}

// unwind also returns what it has undone.
func unwind(ctx context.Context, store *state.Store, run string, undoers Undoers) (undone []state.Object, err error) {
	ctx, cancel := context.WithTimeout(ctx, unwindTimeout)
	defer cancel()
	objects, err := store.Objects(ctx, run)
	if err != nil {
		return nil, err
	}
	pools := map[string][]state.Object{} // what is to go, the newest first
	for _, o := range slices.Backward(objects) {
		if o.Pending() {
			pools[o.Pool] = append(pools[o.Pool], o)
		}
	}
	var (
		group sync.WaitGroup
		mu    sync.Mutex // of undone and errs
		errs  []error
	)
	for _, pending := range pools {
		group.Go(func() {
			gone, err := undoers.undoAll(ctx, store, pending)
			mu.Lock()
			defer mu.Unlock()
			undone, errs = append(undone, gone...), append(errs, err)
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return undone, err
	}
	return undone, store.ReleaseRun(context.WithoutCancel(ctx), run)
}

// undoAll undoes objects of one pool in their order. When the pool did not answer for one of them all that failed are tried
// again: an object may have been held by one that could not be undone either.
func (u Undoers) undoAll(ctx context.Context, store *state.Store, pending []state.Object) (undone []state.Object, err error) {
	giveUp := time.Now().Add(outage)
	for {
		var (
			failed []state.Object
			errs   []error
		)
		for _, o := range pending {
			if err := u.undo(ctx, store, o); err != nil {
				failed, errs = append(failed, o), append(errs, err)
				continue
			}
			undone = append(undone, o)
		}
		err := errors.Join(errs...)
		var temporary *temporaryError
		if !errors.As(err, &temporary) || time.Now().After(giveUp) {
			return undone, err
		}
		select {
		case <-time.After(outagePause):
		case <-ctx.Done():
			return undone, err
		}
		pending = failed
	}
}
