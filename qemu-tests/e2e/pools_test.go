//go:build e2e

package e2e_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/lan"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const password = "a simulated pool's"

// delegateMTU is less than the network's, as in a tunnel.
const delegateMTU = 1400

// sites are two pools whose delegates share a network, and an orchestrator.
type sites struct {
	*testing.T
	dir    string
	lan    *lan.LAN
	store  *state.Store
	guests func(xapisim.World) xapisim.World
	engine *replication.Engine
	a, b   *site
}

// site is a pool.
type site struct {
	*xapisim.Pool
	delegates *delegate.Pool
}

func newSites(t *testing.T) *sites {
	t.Helper()
	return newSitesWith(t, nil)
}

// newSitesWith has VMs of the pools that are no delegates boot in what guests makes of their world; nil: they have the built-in guest, which
// boots nothing.
func newSitesWith(t *testing.T, guests func(xapisim.World) xapisim.World) *sites {
	t.Helper()
	s := &sites{T: t, dir: folder(t), lan: network(t), guests: guests}
	secrets, err := state.LoadOrCreateSecrets(filepath.Join(s.dir, "state"), filepath.Join(s.dir, "key"), func(string) string { return "" })
	s.must(err)
	s.store, err = state.Open(t.Context(), filepath.Join(s.dir, "state"), secrets)
	s.must(err)
	t.Cleanup(func() {
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	s.engine = &replication.Engine{
		Store: s.store, Dial: s.lan.DialContext, SpawnTimeout: 5 * time.Minute, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	s.a, s.b = s.add("a", "10.77.0.40-10.77.0.49/24"), s.add("b", "10.77.0.50-10.77.0.59/24")
	return s
}

func (s *sites) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// add makes a pool with one shared SR, storage-<name>, and makes it known to the orchestrator.
func (s *sites) add(name, addresses string) *site {
	s.Helper()
	config := xapisim.Config{
		Name: name, Dir: filepath.Join(s.dir, name), Password: password, SRs: []xapisim.SRConfig{{Name: "storage-" + name, Shared: true}},
		World: qemu.New(qemu.Options{Dir: filepath.Join(s.dir, "machines-"+name), Network: s.lan.Socket()}),
	}
	if s.guests != nil {
		config.Guests = s.guests(config.World)
	}
	simulated, err := xapisim.New(config)
	s.must(err)
	s.Cleanup(simulated.Close)
	client, err := xapi.Dial(s.Context(), xapi.Config{
		Addresses: simulated.Addresses(), Username: "root", Password: password, Fingerprints: simulated.Fingerprints(),
	})
	s.must(err)
	s.Cleanup(func() {
		if err := client.Close(context.WithoutCancel(s.Context())); err != nil {
			s.Error(err)
		}
	})
	pools, err := xapi.AllRecords[xapi.Pool](s.Context(), client, "pool")
	s.must(err)
	for _, pool := range pools { // there is one
		s.must(s.store.AddPool(s.Context(), state.Pool{
			UUID: pool.UUID, Name: name, Addresses: simulated.Addresses(), Username: "root", Password: password,
			Fingerprints: simulated.Fingerprints(), DelegateAddresses: addresses, DelegateMTU: delegateMTU,
		}))
	}
	return &site{Pool: simulated, delegates: &delegate.Pool{Name: name, API: client, Store: s.store}}
}

// deploy puts the image into a pool, as an administrator does.
func (s *sites) deploy(p *site) delegate.Deployed {
	s.Helper()
	deployed, err := delegate.Deploy(s.Context(), delegate.DeploySpec{
		Pool: p.delegates, SR: "storage-" + p.delegates.Name, Image: filepath.Join(image, "abd.xva"),
	})
	s.must(err)
	return deployed
}
