package tasks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/devices"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// task is one order. Its goroutine is run.
type task struct {
	manager  *Manager
	spec     control.TaskSpec
	key      manifest.Key
	geometry manifest.Geometry
	meter    meter          // guarded by mu
	known    *table         // nil: none announced
	hint     *transfer.Hint // nil: none, or the task has ended
	sinks    []*sink        // of a send; other kinds have one that stands for the task
	leases   []*devices.Lease

	ctx    context.Context // ends with the cause for which the task is to end
	cancel context.CancelCauseFunc
	ended  chan struct{}

	mu       sync.Mutex
	state    control.State
	waiting  string
	err      error
	root     manifest.Digest
	result   manifest.Digest
	trusted  bool
	verified *transfer.VerifyResult
	hinted   *control.HintStatus
	changed  chan struct{} // closed and replaced at every change of state
}

// sink is one side of a task that has a baseline and a journal of its own.
type sink struct {
	peer     control.Peer
	conn     *netproto.Conn // once met
	trusted  control.Trusted
	baseline *baseline // of TrustManifest and TrustKnown, and of what only a hint needs
	journal  *journal  // nil: none asked for

	// Of the attempts so far; used by the task's goroutine.
	start uint32            // from which the next one goes on
	sent  map[uint32]uint64 // see transfer.SinkSpec.Sent
	since time.Time         // when it last came further
	pause time.Duration     // before the peer is dialled again

	// Guarded by the task's mu.
	err      error
	result   manifest.Digest
	meter    meter
	cuts     int
	cutCause error
	reached  uint32 // as in control.TaskStatus, but for an attempt
	working  bool   // which is under way, or did not tell
}

func newTask(m *Manager, spec control.TaskSpec, key manifest.Key) *task {
	ctx, cancel := context.WithCancelCause(context.Background())
	t := &task{
		manager: m, spec: spec, key: key, geometry: manifest.Geometry{Size: spec.Size},
		ctx: ctx, cancel: cancel, ended: make(chan struct{}), state: control.StateWaiting, changed: make(chan struct{}),
	}
	if spec.Known {
		t.known = newTable(spec.KnownExtents())
	}
	if spec.Kind == control.KindSend {
		for _, s := range spec.Sinks {
			t.sinks = append(t.sinks, t.newSink(s.Peer, s.Trusted, s.Records))
		}
		return t
	}
	var peer control.Peer
	if spec.Peer != nil {
		peer = *spec.Peer
	}
	t.sinks = []*sink{t.newSink(peer, spec.Trusted, spec.Records)}
	return t
}

func (t *task) newSink(peer control.Peer, trusted control.Trusted, records bool) *sink {
	s := &sink{peer: peer, trusted: trusted, start: t.spec.Start}
	if records {
		s.journal = newJournal()
	}
	patience := t.manager.options.OrchestratorWait
	switch {
	case trusted == control.TrustManifest:
		s.baseline = newBaseline(newTable(t.geometry.Extents()), t.geometry, t.key, patience)
	case trusted == control.TrustKnown, t.spec.HintsByKnown():
		s.baseline = newBaseline(t.known, t.geometry, t.key, patience)
	}
	return s
}

// decodeHint takes the map out of the specification.
func (t *task) decodeHint() (err error) {
	if t.spec.Hint == nil {
		return nil
	}
	var base transfer.Baseline
	if len(t.sinks) == 1 && t.sinks[0].baseline != nil {
		base = t.sinks[0].baseline
	}
	t.hint, err = t.spec.Hint.Decode(t.spec.Size, base)
	return err
}

// fill reads extent digests into a table, after a look at the body's length.
func (t *task) fill(table *table, body io.Reader, length int64) error {
	if want := t.spec.ExtentsBytes(); length != want {
		return control.NewError(control.CodeInvalid, fmt.Errorf("the body has %d bytes, the extent digests of this task, of a disk of %d bytes, have %d", length, t.spec.Size, want))
	}
	return table.fill(body)
}

// run does the task and ends it.
func (t *task) run() {
	err := t.attempt()
	for _, lease := range t.leases {
		// Before the end is told: then the disk may be unplugged.
		err = errors.Join(err, lease.Release())
	}
	if cause := context.Cause(t.ctx); cause != nil && err != nil {
		err = cause // what the transfer returned is its consequence
	}
	t.dropTables()
	t.end(err)
	t.cancel(nil)
}

// dropTables frees the extent digests and the hint; the task itself is kept for a while.
func (t *task) dropTables() {
	t.hint = nil
	if t.known != nil {
		t.known.drop()
	}
	for _, s := range t.sinks {
		if s.baseline != nil {
			s.baseline.drop()
		}
	}
	t.manager.budget.unreserve(t.spec.TableBytes())
}

// attempt turns a panic of the task's own goroutine into an error.
func (t *task) attempt() (err error) {
	defer func() {
		if p := recover(); p != nil {
			t.manager.options.Log.Error("task panicked", "task", t.spec.ID, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: the task panicked: %v; please report it with the delegate's events", transfer.ErrDefect, p)
		}
	}()
	if err := t.awaitTables(); err != nil {
		return err
	}
	t.setWaiting("its turn: other transfers use the delegate's memory")
	granted, err := t.manager.budget.acquire(t.ctx, claimOf(&t.spec))
	if err != nil {
		return err
	}
	defer t.manager.budget.release(granted)
	return t.transfer(t.ctx, granted)
}

// awaitTables waits for the digests that were announced.
func (t *task) awaitTables() error {
	patience := t.manager.options.OrchestratorWait
	ctx, cancel := context.WithTimeoutCause(t.ctx, patience,
		fmt.Errorf("the orchestrator did not send the extent digests that it announced within %v: check that it runs, then repeat the task", patience))
	defer cancel()
	await := func(table *table, what string) error {
		t.setWaiting(what)
		select {
		case <-table.ready:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if t.known != nil {
		if err := await(t.known, "extent digests: PUT known"); err != nil {
			return err
		}
	}
	for i, s := range t.sinks {
		if s.baseline == nil {
			continue
		}
		if err := await(s.baseline.table, fmt.Sprintf("extent digests: PUT baseline?sink=%d", i)); err != nil {
			return err
		}
	}
	return nil
}

// listensFor tells whether the task expects a peer with this key to dial.
func (t *task) listensFor(peer netproto.Fingerprint) bool {
	for _, s := range t.sinks {
		if s.peer.Fingerprint == peer && s.peer.Address == "" {
			return true
		}
	}
	return false
}
