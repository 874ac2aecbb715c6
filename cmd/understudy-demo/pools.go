package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const (
	module   = "github.com/understudy-dr/understudy"
	password = "a simulated pool's"
)

// moduleRoot finds the source tree that this program belongs to, from the working directory upwards.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}} {{.Dir}}").Output()
	path, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if err != nil || path != module {
		return "", fmt.Errorf("the demo takes the delegate from its source tree: run it inside the source tree of %s, with go in PATH", module)
	}
	return dir, nil
}

// site is a simulated pool and the orchestrator's session with it.
type site struct {
	*xapisim.Pool
	client   *xapi.Client
	delegate *delegate.Pool
}

// newSite starts a pool with two hosts and a shared SR, makes it known to the orchestrator and deploys the delegate's image.
func newSite(ctx context.Context, name, work string, w world, store *state.Store) (*site, error) {
	sr := storageOf(name)
	simulated, err := xapisim.New(xapisim.Config{
		Name: name, Dir: filepath.Join(work, name), Hosts: 2, Password: password,
		SRs:   []xapisim.SRConfig{{Name: sr, Shared: true}},
		World: w.guests(filepath.Join(work, name, "guests")),
	})
	if err != nil {
		return nil, err
	}
	s := &site{Pool: simulated}
	err = s.join(ctx, name, w.addresses(name), store)
	if err == nil {
		err = w.deploy(ctx, s, sr)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("pool %s: %w", name, err)
	}
	return s, nil
}

func (s *site) join(ctx context.Context, name, addresses string, store *state.Store) (err error) {
	s.client, err = xapi.Dial(ctx, xapi.Config{
		Addresses: s.Addresses(), Username: "root", Password: password, Fingerprints: s.Fingerprints(),
	})
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
	s.delegate = &delegate.Pool{Name: name, API: s.client, Store: store}
	return err
}

// Close ends the session and everything that runs in the pool.
func (s *site) Close() {
	if s.client != nil {
		_ = s.client.Close(context.Background()) // the pool ends with the next line
	}
	s.Pool.Close()
}

// storageOf names the SR of a pool.
func storageOf(pool string) string { return "storage-" + pool }

func stateDir(work string) string { return filepath.Join(work, "state") }
func keyFile(work string) string  { return filepath.Join(work, "key") }

// openState makes the orchestrator's state for this demo, its key beside it.
func openState(ctx context.Context, work string) (*state.Store, error) {
	dir := stateDir(work)
	secrets, err := state.LoadOrCreateSecrets(dir, keyFile(work), func(string) string { return "" })
	if err != nil {
		return nil, err
	}
	return state.Open(ctx, dir, secrets)
}

// noneLeft makes sure that no delegate is left in the pools.
func noneLeft(ctx context.Context, sites ...*site) error {
	var pools []*delegate.Pool
	for _, s := range sites {
		pools = append(pools, s.delegate)
	}
	left, err := delegate.List(ctx, pools...)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range left {
		errs = append(errs, fmt.Errorf("delegate %s is left in pool %s", d.Name, d.Pool))
	}
	return errors.Join(errs...)
}
