package tasks

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/devices"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// keepEnded is how many tasks that ended are kept, with what is left of their journals.
const keepEnded = 8

// maxTasks bounds the tasks that have not ended.
const maxTasks = 64

// Options of a Manager.
type Options struct {
	Devices  *devices.Registry
	Identity *netproto.Identity // of the delegate, for dialling peers
	Software string             // what peers are told
	Log      *slog.Logger
	// PeerWait is how long a task dials a peer that does not listen yet, and how long a connection waits for its task. A task that
	// listens waits four times as long, since its peer may have to wait for a turn. Default 30 s.
	PeerWait time.Duration
	// OrchestratorWait is how long a task waits for digests from the orchestrator. Default 10 min, within which an orchestrator has
	// restarted, and less than the delegate waits before it powers off.
	OrchestratorWait time.Duration
}

// errCancelled and errStopped end a task without its failing.
var (
	errCancelled = errors.New("cancelled by the orchestrator")
	errStopped   = fmt.Errorf("the delegate stops: %w", transfer.ErrCut) // its peer may go on with another delegate
)

// Manager holds the tasks. It may be used by several goroutines. Errors for the orchestrator are *control.Error.
type Manager struct {
	options    Options
	budget     budget
	rendezvous *rendezvous
	limiter    transfer.Limiter // of all sends
	running    sync.WaitGroup

	mu     sync.Mutex
	key    manifest.Key
	tasks  []*task // in the order of posting
	closed bool
}

// NewManager returns a Manager, to be closed by Close.
func NewManager(o Options) *Manager {
	if o.PeerWait == 0 {
		o.PeerWait = 30 * time.Second
	}
	if o.OrchestratorWait == 0 {
		o.OrchestratorWait = 10 * time.Minute
	}
	return &Manager{options: o, rendezvous: newRendezvous(o.PeerWait)}
}

// Close cancels all tasks and returns when they have ended.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	for _, t := range m.tasks {
		t.cancel(errStopped)
	}
	m.mu.Unlock()
	m.running.Wait()
}

// SetKey takes the digest key for tasks posted from now on.
func (m *Manager) SetKey(r control.KeyRequest) error {
	key, err := manifest.ParseKey(r.Key)
	if err != nil {
		return control.NewError(control.CodeInvalid, err)
	}
	if key.ID() != r.ID {
		return control.NewError(control.CodeInvalid, fmt.Errorf("the key's id is %s, not %s: it was damaged on its way or belongs to another domain", key.ID(), r.ID))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.key = key
	return nil
}

// SetLimit bounds what all sends together put on their lines.
func (m *Manager) SetLimit(r control.LimitRequest) error {
	if r.BytesPerSecond < 0 {
		return control.NewError(control.CodeInvalid, fmt.Errorf("bytes_per_second is %d: it is 0 (no limit) or more", r.BytesPerSecond))
	}
	m.limiter.Set(r.BytesPerSecond)
	m.options.Log.Info("limit set", "bytes_per_second", r.BytesPerSecond)
	return nil
}

// Limit is the limit of all sends in bytes a second; 0: none.
func (m *Manager) Limit() int64 { return m.limiter.Rate() }

// KeyID names the digest key; zero when there is none.
func (m *Manager) KeyID() manifest.KeyID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.key.ID()
}

// Post starts a task. The same specification again returns the task as it stands, with created false.
func (m *Manager) Post(spec control.TaskSpec) (status control.TaskStatus, created bool, err error) {
	if err := spec.Validate(); err != nil {
		return status, false, control.NewError(control.CodeInvalid, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.find(spec.ID); t != nil {
		if !reflect.DeepEqual(t.spec, abridged(spec)) {
			return status, false, control.NewError(control.CodeConflict, fmt.Errorf("task %s exists with another specification: choose another id", spec.ID))
		}
		return t.status(), false, nil
	}
	t, err := m.admit(spec)
	if err != nil {
		return status, false, err
	}
	m.tasks = append(m.tasks, t)
	m.running.Go(t.run)
	m.options.Log.Info("task posted", "task", spec.ID, "kind", spec.Kind, "device", spec.Device, "size", spec.Size)
	return t.status(), true, nil
}

// admit makes a task after all that can be refused at once. m.mu is held.
func (m *Manager) admit(spec control.TaskSpec) (*task, error) {
	switch {
	case m.closed:
		return nil, control.NewError(control.CodeConflict, errStopped)
	case m.key.IsZero():
		return nil, control.NewError(control.CodeKey, errors.New("no digest key: PUT key first (it is lost when the delegate restarts)"))
	case m.key.ID() != spec.KeyID:
		return nil, control.NewError(control.CodeKey, fmt.Errorf("task %s wants digest key %s, the delegate has %s: PUT the right key", spec.ID, spec.KeyID, m.key.ID()))
	case m.forgetEnded() >= maxTasks:
		return nil, control.NewError(control.CodeConflict, fmt.Errorf("%d tasks have not ended: wait for some, or cancel them", maxTasks))
	}
	t := newTask(m, spec, m.key)
	numbers := []int{spec.Device}
	if spec.Kind == control.KindCopy {
		numbers = append(numbers, spec.Target)
	}
	for _, seed := range spec.Seeds {
		numbers = append(numbers, seed.Device)
	}
	if err := m.budget.reserve(spec.TableBytes()); err != nil {
		return nil, control.NewError(control.CodeMemory, err)
	}
	if err := t.decodeHint(); err != nil {
		m.budget.unreserve(spec.TableBytes())
		return nil, control.NewError(control.CodeInvalid, err)
	}
	leases, err := m.options.Devices.Acquire(spec.ID, t.cancel, numbers...)
	if err != nil {
		m.budget.unreserve(spec.TableBytes())
		return nil, deviceError(err)
	}
	t.leases = leases
	t.spec = abridged(spec)
	return t, nil
}

// abridged has only the digest of a hint's map, which is large and not needed once it is decoded.
func abridged(spec control.TaskSpec) control.TaskSpec {
	if spec.Hint != nil {
		hint := *spec.Hint
		sum := sha256.Sum256(hint.Map)
		hint.Map, spec.Hint = sum[:], &hint
	}
	return spec
}

// deviceError gives an error of package devices its code.
func deviceError(err error) error {
	code := control.CodeInternal
	switch {
	case errors.Is(err, devices.ErrNotPlugged):
		code = control.CodeNotFound
	case errors.Is(err, devices.ErrInUse):
		code = control.CodeInUse
	case errors.Is(err, devices.ErrDetached):
		code = control.CodeConflict
	}
	return control.NewError(code, err)
}

// Detach is devices.Registry.Detach with an error for the orchestrator.
func (m *Manager) Detach(number int) error {
	if err := m.options.Devices.Detach(number); err != nil {
		return deviceError(err)
	}
	return nil
}

// forgetEnded drops all but the newest tasks that ended, and returns how many have not. m.mu is held.
func (m *Manager) forgetEnded() (active int) {
	ended := 0
	for _, t := range m.tasks {
		if t.hasEnded() {
			ended++
		}
	}
	active = len(m.tasks) - ended
	m.tasks = slices.DeleteFunc(m.tasks, func(t *task) bool {
		if !t.hasEnded() || ended <= keepEnded {
			return false
		}
		ended--
		return true
	})
	return active
}

// find returns the task of a name, or nil. m.mu is held.
func (m *Manager) find(id string) *task {
	for _, t := range m.tasks {
		if t.spec.ID == id {
			return t
		}
	}
	return nil
}

func (m *Manager) task(id string) (*task, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.find(id); t != nil {
		return t, nil
	}
	return nil, control.NewError(control.CodeNotFound, fmt.Errorf("no task %.80q: it was never posted, the delegate restarted, or newer tasks have ended since it did", id))
}

// List describes all tasks in the order of posting.
func (m *Manager) List() []control.TaskStatus {
	m.mu.Lock()
	tasks := slices.Clone(m.tasks)
	m.mu.Unlock()
	list := make([]control.TaskStatus, len(tasks))
	for i, t := range tasks {
		list[i] = t.status()
	}
	return list
}

// Status describes a task once its state is another than seen, or when ctx ends.
func (m *Manager) Status(ctx context.Context, id string, seen control.State) (control.TaskStatus, error) {
	t, err := m.task(id)
	if err != nil {
		return control.TaskStatus{}, err
	}
	return t.await(ctx, func(s control.State) bool { return s != seen }), nil
}

// Cancel cancels a task and describes it when it has ended, or when ctx ends.
func (m *Manager) Cancel(ctx context.Context, id string) (control.TaskStatus, error) {
	t, err := m.task(id)
	if err != nil {
		return control.TaskStatus{}, err
	}
	t.cancel(errCancelled)
	return t.await(ctx, control.State.Ended), nil
}

// PutKnown reads the extent digests against which a task reports. length is that of the body, or -1.
func (m *Manager) PutKnown(id string, body io.Reader, length int64) error {
	t, err := m.task(id)
	if err != nil {
		return err
	}
	if t.known == nil {
		return control.NewError(control.CodeConflict, fmt.Errorf("task %s announced no known digests", id))
	}
	return t.fill(t.known, body, length)
}

// PutBaseline reads the extent digests of a sink that is trusted.
func (m *Manager) PutBaseline(id string, sink int, body io.Reader, length int64) error {
	t, s, err := m.sink(id, sink)
	if err != nil {
		return err
	}
	if s.trusted != control.TrustManifest {
		return control.NewError(control.CodeConflict, fmt.Errorf("task %s announced no baseline for sink %d", id, sink))
	}
	return t.fill(s.baseline.table, body, length)
}

// Wanted lists extents whose block digests a sink's baseline needs; see baseline.list.
func (m *Manager) Wanted(ctx context.Context, id string, sink int, after int64) (control.WantedPage, error) {
	t, s, err := m.sink(id, sink)
	if err != nil {
		return control.WantedPage{}, err
	}
	if s.baseline == nil {
		return control.WantedPage{}, control.NewError(control.CodeConflict, fmt.Errorf("sink %d of task %s is trusted by no manifest", sink, id))
	}
	return s.baseline.list(ctx, after, t.ended), nil
}

// PutBlocks takes block digests of wanted extents.
func (m *Manager) PutBlocks(id string, sink int, records []manifest.Record) error {
	_, s, err := m.sink(id, sink)
	if err != nil {
		return err
	}
	if s.baseline == nil {
		return control.NewError(control.CodeConflict, fmt.Errorf("sink %d of task %s is trusted by no manifest", sink, id))
	}
	return s.baseline.put(records)
}

// Journal acknowledges records and returns those that follow; see journal.page.
func (m *Manager) Journal(ctx context.Context, id string, sink int, after int64, maxBytes int) (control.JournalPage, error) {
	_, s, err := m.sink(id, sink)
	if err != nil {
		return control.JournalPage{}, err
	}
	if s.journal == nil {
		return control.JournalPage{}, control.NewError(control.CodeConflict, fmt.Errorf("task %s keeps no journal of sink %d", id, sink))
	}
	return s.journal.page(ctx, after, maxBytes)
}

func (m *Manager) sink(id string, sink int) (*task, *sink, error) {
	t, err := m.task(id)
	if err != nil {
		return nil, nil, err
	}
	if sink < 0 || sink >= len(t.sinks) {
		return nil, nil, control.NewError(control.CodeNotFound, fmt.Errorf("task %s has %d sinks, no number %d", id, len(t.sinks), sink))
	}
	return t, t.sinks[sink], nil
}

// Allows tells whether a task that has not ended listens for a peer with this key.
func (m *Manager) Allows(peer netproto.Fingerprint) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.tasks, func(t *task) bool { return !t.hasEnded() && t.listensFor(peer) })
}

// Window is how many bytes a peer that dials may send ahead: the least that a task which listens for it allows, since its token is
// not known before it is told.
func (m *Manager) Window(peer netproto.Fingerprint) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	least := netproto.DefaultWindow
	for _, t := range m.tasks {
		if !t.hasEnded() && t.listensFor(peer) {
			least = min(least, window(t.spec.Tuning))
		}
	}
	return least
}

// Connect hands a data connection to the task that listens for it. It owns the connection, and returns when a task has it or it
// was refused; the error is for the log.
func (m *Manager) Connect(ctx context.Context, conn *netproto.Conn) error {
	return m.rendezvous.deliver(ctx, conn)
}
