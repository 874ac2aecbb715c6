package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/worlds"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const password = "a simulated pool's"

// site is a simulated pool with one host, the session with it, and a watch on that.
type site struct {
	*xapisim.Pool
	client   *xapi.Client
	watch    *watch
	delegate *delegate.Pool
}

func newSite(ctx context.Context, name, work, abd, addresses string, store *state.Store) (*site, error) {
	simulated, err := xapisim.New(xapisim.Config{
		Name: name, Dir: filepath.Join(work, name), Hosts: 1, Password: password, SRs: []xapisim.SRConfig{{Name: "storage"}},
		World: worlds.NewProcess(abd, filepath.Join(work, name, "guests")),
	})
	if err != nil {
		return nil, err
	}
	s := &site{Pool: simulated}
	if err := s.join(ctx, name, addresses, store); err != nil {
		s.close()
		return nil, fmt.Errorf("pool %s: %w", name, err)
	}
	return s, nil
}

func (s *site) join(ctx context.Context, name, addresses string, store *state.Store) (err error) {
	if _, err = s.AddDelegateTemplate("storage", "development"); err != nil {
		return err
	}
	s.client, err = xapi.Dial(ctx, xapi.Config{Addresses: s.Addresses(), Username: "root", Password: password, Fingerprints: s.Fingerprints()})
	if err != nil {
		return err
	}
	pools, err := xapi.AllRecords[xapi.Pool](ctx, s.client, "pool")
	if err != nil {
		return err
	}
	for _, pool := range pools {
		err = store.AddPool(ctx, state.Pool{
			UUID: pool.UUID, Name: name, Addresses: s.Addresses(), Username: "root", Password: password,
			Fingerprints: s.Fingerprints(), DelegateAddresses: addresses,
		})
	}
	s.watch = &watch{API: s.client}
	s.delegate = &delegate.Pool{Name: name, API: s.watch, Store: store}
	return err
}

func (s *site) close() {
	if s.client != nil {
		_ = s.client.Close(context.Background()) // the pool ends with the next line
	}
	s.Pool.Close()
}

// watch counts the calls to a pool and the time in which at least one of them was under way. Waiting for events is none: it is
// for the delegates' sake.
type watch struct {
	xapi.API

	mu    sync.Mutex
	calls int
	open  int
	since time.Time // of the first of those that are open
	busy  time.Duration
}

func (w *watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls++; w.open == 0 {
		w.since = time.Now()
	}
	w.open++
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open--; w.open == 0 {
		w.busy += time.Since(w.since)
	}
}

// taken returns what was counted since it was last asked.
func (w *watch) taken() (calls int, busy time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls, busy = w.calls, w.busy
	w.calls, w.busy = 0, 0
	return calls, busy
}

func (w *watch) Call(ctx context.Context, method string, result any, args ...any) error {
	w.begin()
	defer w.end()
	return w.API.Call(ctx, method, result, args...)
}

func (w *watch) Run(ctx context.Context, method string, result *string, args ...any) error {
	w.begin()
	defer w.end()
	return w.API.Run(ctx, method, result, args...)
}

// buildDelegate builds what the pools' delegates run.
func buildDelegate(ctx context.Context, work string) (string, error) {
	abd := filepath.Join(work, "abd")
	build := exec.CommandContext(ctx, "go", "build", "-o", abd, "github.com/understudy-dr/understudy/cmd/abd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the delegate: %w\n%s", err, out)
	}
	return abd, nil
}
