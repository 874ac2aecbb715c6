package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/runner"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	stateDirVariable = "UNDERSTUDY_STATE_DIR"
	program          = "understudy"
)

// paths tells where state and key are kept when nobody says so: apart from each other, for a copy of the state must not hold the
// key that opens it.
func paths(flag string, root bool, getenv func(string) string) (stateDir, key string, err error) {
	if root {
		stateDir, key = "/var/lib/"+program, "/etc/"+program+"/key"
	} else {
		home := getenv("HOME")
		in := func(variable, fallback string) string {
			if dir := getenv(variable); filepath.IsAbs(dir) { // others are to be ignored (XDG base directory specification)
				return filepath.Join(dir, program)
			}
			return filepath.Join(home, fallback, program)
		}
		stateDir, key = in("XDG_STATE_HOME", ".local/state"), filepath.Join(in("XDG_CONFIG_HOME", ".config"), "key")
	}
	if dir := getenv(stateDirVariable); dir != "" {
		stateDir = dir
	}
	if flag != "" {
		stateDir = flag
	}
	if !filepath.IsAbs(key) {
		return "", "", errors.New("neither HOME nor the XDG directories are set: set HOME, or give --state-dir and UNDERSTUDY_KEY_FILE")
	}
	stateDir, err = filepath.Abs(stateDir)
	return stateDir, key, err
}

// open opens the state.
func (a *app) open(ctx context.Context) (*state.Store, error) {
	dir, key, err := paths(a.stateDir, os.Geteuid() == 0, os.Getenv)
	if err != nil {
		return nil, err
	}
	secrets, err := state.LoadOrCreateSecrets(dir, key, os.Getenv)
	if err != nil {
		return nil, err
	}
	return state.Open(ctx, dir, secrets)
}

// logoutTimeout bounds the end of a session with a pool that may not answer any more.
const logoutTimeout = 3 * time.Second

// session holds what a command works with: the state, and the pools it has logged in to. Its methods but Close may be called
// concurrently.
type session struct {
	store *state.Store

	mu      sync.Mutex
	pools   map[string]*delegate.Pool // by uuid
	clients []*xapi.Client
}

func (a *app) session(ctx context.Context) (*session, error) {
	store, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	return &session{store: store, pools: map[string]*delegate.Pool{}}, nil
}

// Close logs out everywhere and closes the state.
func (s *session) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), logoutTimeout)
	defer cancel()
	for _, client := range s.clients {
		_ = client.Close(ctx) // the pool ends idle sessions itself
	}
	return s.store.Close()
}

// pool logs in to a pool, by its name or uuid. A pool that is asked for twice is the same one. Its inventory is left to those who
// need one.
func (s *session) pool(ctx context.Context, nameOrUUID string) (*delegate.Pool, error) {
	known, err := s.store.Pool(ctx, nameOrUUID)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pools[known.UUID]; p != nil {
		return p, nil
	}
	client, err := xapi.Dial(ctx, config(known))
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", known.Name, err)
	}
	s.clients = append(s.clients, client)
	records, err := xapi.AllRecords[xapi.Pool](ctx, client, "pool")
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", known.Name, err)
	}
	for _, record := range records { // there is one
		if record.UUID != known.UUID {
			return nil, fmt.Errorf("pool %s: its addresses lead to pool %s now, it was added as %s: a host has moved; remove the pool and add it again",
				known.Name, record.UUID, known.UUID)
		}
	}
	p := &delegate.Pool{Name: known.Name, API: client, Store: s.store}
	s.pools[known.UUID] = p
	return p, nil
}

// connected is a pool that the session has logged in to, by its uuid; nil: it has not, or could not.
func (s *session) connected(uuid string) *delegate.Pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pools[uuid]
}

// runner carries out jobs with the session's pools.
func (a *app) runner(s *session) *runner.Runner {
	return &runner.Runner{Store: s.store, Connect: s.pool, Log: a.logger(a.stderr)}
}

// loginTimeout bounds the login to one of several pools, so that one that hangs does not keep the others waiting.
const loginTimeout = 30 * time.Second

// all logs in to the pools named, or to every pool known. Those that do not answer are in the error; the others are returned
// nevertheless.
func (s *session) all(ctx context.Context, names []string) (pools []*delegate.Pool, err error) {
	if len(names) == 0 {
		known, err := s.store.Pools(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range known {
			names = append(names, p.UUID)
		}
	}
	for _, name := range names {
		waiting, cancel := context.WithTimeout(ctx, loginTimeout)
		p, failure := s.pool(waiting, name)
		cancel()
		if failure != nil {
			err = errors.Join(err, failure)
			continue
		}
		pools = append(pools, p)
	}
	return pools, err
}

func config(p state.Pool) xapi.Config {
	return xapi.Config{Addresses: p.Addresses, Username: p.Username, Password: p.Password.Reveal(), Fingerprints: p.Fingerprints}
}
