package delegate_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
)

// dynamic gives the pool's delegates no addresses but those that they ask for.
func (f *fixture) dynamic(kind string) (network string) {
	f.t.Helper()
	pool, err := f.store.Pool(f.t.Context(), "a")
	if err != nil {
		f.t.Fatal(err)
	}
	network, _, _ = strings.Cut(pool.DelegateAddresses, "10-")
	pool.DelegateAddresses = kind
	if err := f.store.UpdatePool(f.t.Context(), pool); err != nil {
		f.t.Fatal(err)
	}
	return network
}

// TestDHCP: a delegate that asks a DHCP server for its address is dialled at what it tells, and leases none.
func TestDHCP(t *testing.T) {
	t.Parallel()
	addresses := make(chan string, 1)
	f := newFixture(t, scripted(t, func(g *scriptedGuest, id *netproto.Identity) error {
		if got := g.in(control.InputAddress); got != control.AddressDHCP {
			t.Errorf("the guest was told the address %q", got)
		}
		own := <-addresses
		if err := g.serveAt(own, id, g.status()); err != nil {
			return err
		}
		g.publish("feature/hotplug/vbd", "1")
		g.publish("attr/vif/0/ipv6/0", "fe80::1") // nobody elsewhere can dial it
		g.publish(control.IdentityKey, g.identity(id.Fingerprint()).String())
		time.Sleep(50 * time.Millisecond) // its metrics lag behind
		g.publish("attr/vif/0/ipv4/0", own)
		return nil
	}), 1)
	own := f.dynamic(control.AddressDHCP) + "77"
	addresses <- own
	d := f.spawn()
	if d.Address != own+":7811" {
		t.Errorf("the delegate is at %s, not %s", d.Address, own)
	}
	if leases, err := f.store.Leases(t.Context(), f.pool.Inventory.UUID); err != nil || len(leases) != 0 {
		t.Errorf("leases %v, %v", leases, err)
	}
	infos, err := delegate.List(t.Context(), f.pool)
	if err != nil || len(infos) != 1 || infos[0].Address != own {
		t.Errorf("listed as %+v, %v", infos, err)
	}
}

// TestDHCPWithoutAddress: a delegate that tells its identity and no address is not waited for without end.
func TestDHCPWithoutAddress(t *testing.T) {
	t.Parallel()
	f := newFixture(t, scripted(t, func(g *scriptedGuest, id *netproto.Identity) error {
		g.publish("attr/vif/0/ipv6/0", "fe80::1")
		g.publish(control.IdentityKey, g.identity(id.Fingerprint()).String())
		return nil
	}), 1)
	f.dynamic(control.AddressDHCP6)
	f.spawner.Timeout = time.Second
	_, err := f.spawner.Spawn(t.Context(), f.spec())
	if !errors.Is(err, delegate.ErrNotReady) || !strings.Contains(err.Error(), "the pool knows no address of it") {
		t.Errorf("got %v", err)
	}
	f.nothingLeft()
}
