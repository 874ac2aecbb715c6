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
	s := openSites(t)
	s.engine.Dial, s.engine.SpawnTimeout = s.lan.DialContext, 5*time.Minute
	s.a = s.add("a", "10.77.0.40-10.77.0.49/24", delegateMTU, s.emulated("a"), nil)
	s.b = s.add("b", "10.77.0.50-10.77.0.59/24", delegateMTU, s.emulated("b"), nil)
	return s
}

// openSites makes the orchestrator and the network.
func openSites(t *testing.T) *sites {
	t.Helper()
	s := &sites{T: t, dir: folder(t), lan: network(t)}
	secrets, err := state.LoadOrCreateSecrets(filepath.Join(s.dir, "state"), filepath.Join(s.dir, "key"), func(string) string { return "" })
	s.must(err)
	s.store, err = state.Open(t.Context(), filepath.Join(s.dir, "state"), secrets)
	s.must(err)
	t.Cleanup(func() {
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	s.engine = &replication.Engine{Store: s.store, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	return s
}

// emulated is the world of a pool whose machines are on the network.
func (s *sites) emulated(name string) xapisim.World {
	return qemu.New(qemu.Options{Dir: filepath.Join(s.dir, "machines-"+name), Network: s.lan.Socket()})
}

func (s *sites) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// add makes a pool with one shared SR, storage-<name>, and makes it known to the orchestrator. Its delegates are machines of a world, and so
// are its other VMs when there is one for them: else they have the built-in guest, which boots nothing.
func (s *sites) add(name, addresses string, mtu int, world, guests xapisim.World) *site {
	s.Helper()
	simulated, err := xapisim.New(xapisim.Config{
		Name: name, Dir: filepath.Join(s.dir, name), Password: password, SRs: []xapisim.SRConfig{{Name: "storage-" + name, Shared: true}},
		World: world, Guests: guests,
	})
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
			Fingerprints: simulated.Fingerprints(), DelegateAddresses: addresses, DelegateMTU: mtu,
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
