package delegate_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestSpawn spawns a real delegate from a template that carries what an earlier guest left behind.
func TestSpawn(t *testing.T) {
	t.Parallel()
	f := newFixture(t, processWorld(t), 3)
	f.call("VM.set_xenstore_data", nil, f.template.Ref, map[string]string{
		"vm-data": "", control.IdentityKey: "old:00:" + strings.Repeat("0", 64) + ":old", control.CauseKey: "old", "vm-data/other": "x",
		control.InputPrefix + "gateway": "192.0.2.1",
	})
	d := f.spawn()

	vm := f.vm(d.Ref)
	marker, ownership, err := replica.Read(f.spawner.Installation, d.UUID, vm.OtherConfig)
	if err != nil || ownership != replica.Ours || marker.Kind != replica.KindDelegate || marker.Run != f.spawner.Run || marker.Source != f.template.UUID {
		t.Errorf("marker %+v, %s, %v", marker, ownership, err)
	}
	if vm.UUID != d.UUID || vm.NameLabel != d.Name() || !strings.Contains(d.Name(), f.spawner.Run) {
		t.Errorf("VM %s %q, delegate %s %q", vm.UUID, vm.NameLabel, d.UUID, d.Name())
	}
	if vm.IsATemplate || vm.HARestartPriority != "" || vm.Affinity != f.spec().Host || vm.ResidentOn != f.spec().Host || !slices.Contains(vm.Tags, replica.TagLeaveAlone) {
		t.Errorf("VM %+v", vm)
	}
	for key := range vm.XenstoreData {
		if key == "vm-data/other" || key == control.CauseKey || key == control.InputPrefix+"gateway" {
			t.Errorf("the clone's %s was kept", key)
		}
	}
	status, err := d.Control().Status(t.Context())
	if err != nil || status.KeyID != f.spawner.Key.ID() || status.VM != d.UUID {
		t.Errorf("status %+v, %v", status, err)
	}
	if !strings.HasPrefix(d.Address, "127.") || !strings.HasSuffix(d.Address, ".10:7811") || d.ControlBytes() == 0 || d.Version != "test" || d.Side != "source" {
		t.Errorf("delegate %+v", d)
	}

	infos, err := delegate.List(t.Context(), f.pool)
	if err != nil || len(infos) != 1 {
		t.Fatal(infos, err)
	}
	info := infos[0]
	if info.UUID != d.UUID || info.Run != f.spawner.Run || info.Ownership != replica.Ours || info.PowerState != xapi.Running || info.Pool != "a" ||
		info.Host != "pool-host0" || info.Address+":7811" != strings.Replace(d.Address, ":", "/8:", 1) || info.Created.IsZero() {
		t.Errorf("listed as %+v", info)
	}
	if age := info.Age(info.Created.Add(time.Minute)); age != time.Minute || info.Age(time.Time{}) != 0 {
		t.Errorf("age %v", age)
	}

	for range 2 {
		if err := d.Retire(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.nothingLeft()
	}
	if n := f.sim.Calls("Async.VM.hard_shutdown"); n != 0 {
		t.Errorf("%d hard shutdowns of a delegate that obeys", n)
	}
	f.unwind()
}

// TestSpawnWaitsForItsOwnIdentity has the guest's tree show values of other starts first.
func TestSpawnWaitsForItsOwnIdentity(t *testing.T) {
	t.Parallel()
	f := newFixture(t, scripted(t, func(g *scriptedGuest, id *netproto.Identity) error {
		stale := g.identity(id.Fingerprint())
		stale.Nonce = strings.Repeat("ab", 16)
		g.publish(control.IdentityKey, stale.String())
		time.Sleep(100 * time.Millisecond)
		g.publish(control.IdentityKey, "nonsense")
		time.Sleep(100 * time.Millisecond)
		honest(t)(g)
		return nil
	}), 1)
	f.spawn()
}

func TestBootFails(t *testing.T) {
	t.Parallel()
	other, err := netproto.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	// lying serves a status that differs from the honest one.
	lying := func(change func(*control.Status)) func(*scriptedGuest, *netproto.Identity) error {
		return func(g *scriptedGuest, id *netproto.Identity) error {
			status := g.status()
			change(&status)
			g.publish(control.IdentityKey, g.identity(id.Fingerprint()).String())
			return g.serve(id, status)
		}
	}
	for name, c := range map[string]struct {
		script func(g *scriptedGuest, id *netproto.Identity) error
		want   error
		texts  []string
	}{
		"publishes nothing": {
			func(*scriptedGuest, *netproto.Identity) error { return nil },
			delegate.ErrNotReady, []string{"is Running", "published nothing", "console"},
		},
		"publishes the identity of another start": {
			func(g *scriptedGuest, id *netproto.Identity) error {
				stale := g.identity(id.Fingerprint())
				stale.Nonce = "abcdef0123456789"
				g.publish(control.IdentityKey, stale.String())
				return g.serve(id, g.status())
			}, delegate.ErrNotReady, []string{"another start", "abcdef0123456789"},
		},
		"publishes garbage": {
			func(g *scriptedGuest, _ *netproto.Identity) error {
				g.publish(control.IdentityKey, "a:b")
				return nil
			}, delegate.ErrNotReady, []string{`"a:b"`},
		},
		"powers off with a cause": {
			func(g *scriptedGuest, _ *netproto.Identity) error {
				g.powerOff("no disk of mine")
				return nil
			}, delegate.ErrNotReady, []string{"powered off", "no disk of mine"},
		},
		"dies": {
			func(g *scriptedGuest, _ *netproto.Identity) error { return g.Kill() },
			delegate.ErrNotReady, []string{"powered off", "no cause"},
		},
		"does not listen": {
			func(g *scriptedGuest, id *netproto.Identity) error {
				g.publish(control.IdentityKey, g.identity(id.Fingerprint()).String())
				return nil
			}, delegate.ErrNotReady, []string{"cannot be reached", "connection refused"},
		},
		"has another key": {
			func(g *scriptedGuest, id *netproto.Identity) error {
				g.publish(control.IdentityKey, g.identity(id.Fingerprint()).String())
				return g.serve(other, g.status())
			}, delegate.ErrIdentity, []string{string(other.Fingerprint())},
		},
		"read another configuration": {
			lying(func(s *control.Status) { s.ConfigurationHash = "beef" }), delegate.ErrIdentity, []string{"configuration hash", "beef"},
		},
		"is another VM":     {lying(func(s *control.Status) { s.VM = "beef" }), delegate.ErrIdentity, []string{"VM", "beef"}},
		"was given another": {lying(func(s *control.Status) { s.Nonce = "beef" }), delegate.ErrIdentity, []string{"nonce", "beef"}},
		"is another boot":   {lying(func(s *control.Status) { s.UniqueDomainID = "beef" }), delegate.ErrIdentity, []string{"domain", "beef"}},
		"is too new":        {lying(func(s *control.Status) { s.Protocol.Major++ }), delegate.ErrImage, []string{"protocol", "upgrade the orchestrator"}},
		"is too old":        {lying(func(s *control.Status) { s.Protocol.Major-- }), delegate.ErrImage, []string{"protocol", "upgrade the image"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, scripted(t, c.script), 1)
			if slices.Contains([]string{"publishes nothing", "publishes the identity of another start", "publishes garbage", "does not listen"}, name) {
				f.spawner.Timeout = 1500 * time.Millisecond
			}
			_, err := f.spawner.Spawn(t.Context(), f.spec())
			if !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			for _, text := range append(c.texts, "pool a") {
				if !strings.Contains(fmt.Sprint(err), text) {
					t.Errorf("%q does not name %q", err, text)
				}
			}
			f.nothingLeft()
			f.unwind()
		})
	}
}

func TestNoAddress(t *testing.T) {
	t.Parallel()
	f := newFixture(t, honest(t), 1)
	d := f.spawn()
	_, err := f.spawner.Spawn(t.Context(), f.spec())
	if !errors.Is(err, state.ErrNoAddress) || !strings.Contains(err.Error(), "larger range") {
		t.Errorf("got %v", err)
	}
	if n := f.sim.Calls("Async.VM.clone"); n != 1 {
		t.Errorf("%d clones were made", n)
	}
	if err := d.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.nothingLeft()
	f.unwind() // the address is free again
	f.spawn()
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(f *fixture)
		code  string
		texts []string
	}{
		"host in maintenance": {
			func(f *fixture) { f.call("host.disable", nil, f.spec().Host) }, "HOST_DISABLED", []string{"host pool-host0", "out of maintenance"},
		},
		"no host, for reasons": {
			func(f *fixture) {
				f.call("host.disable", nil, f.spec().Host)
				f.sim.Fault(xapisim.Rule{Method: "VM.start_on", Error: &xapisim.Error{Code: "NO_HOSTS_AVAILABLE"}})
			}, "NO_HOSTS_AVAILABLE", []string{"host pool-host0: HOST_DISABLED pool-host0 (take", "host pool-host1 would do"},
		},
		"no host has memory": {
			func(f *fixture) {
				f.call("VM.set_memory_limits", nil, f.template.Ref, 1<<40, 1<<40, 1<<40, 1<<40)
			}, "HOST_NOT_ENOUGH_FREE_MEMORY", []string{"free memory"},
		},
		"something else": {
			func(f *fixture) {
				f.sim.Fault(xapisim.Rule{Method: "VM.start_on", Error: &xapisim.Error{Code: "INTERNAL_ERROR", Params: []string{"xenopsd"}}})
			}, "INTERNAL_ERROR", []string{"host's log"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, honest(t), 1)
			c.spoil(f)
			_, err := f.spawner.Spawn(t.Context(), f.spec())
			if !xapi.IsCode(err, c.code) {
				t.Errorf("got %v", err)
			}
			for _, text := range c.texts {
				if !strings.Contains(fmt.Sprint(err), text) {
					t.Errorf("%q does not name %q", err, text)
				}
			}
			f.nothingLeft()
			f.unwind()
		})
	}
}

// TestImageRefused has templates that cannot become delegates: nothing is made of them.
func TestImageRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, honest(t), 1)
	vm, _ := f.addVM("no template", mib)
	f.load()
	template := f.pool.Inventory.VMs[xapi.Ref(f.template.Ref)]
	for name, spoil := range map[string]func(spec *delegate.Spec){
		"no template":  func(s *delegate.Spec) { s.Template = vm },
		"unknown":      func(s *delegate.Spec) { s.Template = "OpaqueRef:none" },
		"no disk":      func(*delegate.Spec) { f.change(func(vm *xapi.VM) { vm.VBDs = nil }) },
		"no interface": func(*delegate.Spec) { f.change(func(vm *xapi.VM) { vm.VIFs = nil }) },
	} {
		spec := f.spec()
		spoil(&spec)
		if _, err := f.spawner.Spawn(t.Context(), spec); !errors.Is(err, delegate.ErrImage) {
			t.Errorf("%s: %v", name, err)
		}
		f.pool.Inventory.VMs[xapi.Ref(f.template.Ref)] = template
	}
	spec := f.spec()
	spec.Host = "OpaqueRef:none"
	if _, err := f.spawner.Spawn(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "no host") {
		t.Errorf("unknown host: %v", err)
	}
	if n := f.sim.Calls("Async.VM.clone"); n != 0 {
		t.Errorf("%d clones were made", n)
	}
}

// change alters the template in the inventory.
func (f *fixture) change(alter func(*xapi.VM)) {
	vm := f.pool.Inventory.VMs[xapi.Ref(f.template.Ref)]
	alter(&vm)
	f.pool.Inventory.VMs[xapi.Ref(f.template.Ref)] = vm
}

// TestDelegateNetwork has a network that was named for the pool's delegates: the image is deployed to it, and when another one is named
// delegates go there and the template stays. One that is gone is told with its mend.
func TestDelegateNetwork(t *testing.T) {
	t.Parallel()
	f := deployFixture(t)
	name := func(uuid string) {
		pool, err := f.store.Pool(t.Context(), "a")
		if err == nil {
			pool.DelegateNetwork = uuid
			err = f.store.UpdatePool(t.Context(), pool)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	on := func(vm xapi.Ref) (network string) {
		var ref xapi.Ref
		f.call("VIF.get_network", &ref, f.vm(vm).VIFs[0])
		f.call("network.get_name_label", &network, ref)
		return network
	}
	uuids := map[string]string{}
	for _, network := range []string{"backup", "other"} {
		var ref xapi.Ref
		var uuid string
		f.call("network.create", &ref, map[string]any{
			"name_label": network, "name_description": "", "MTU": int64(1500), "other_config": map[string]string{}, "tags": []string{},
		})
		f.call("network.get_uuid", &uuid, ref)
		uuids[network] = uuid
	}
	f.load()
	name(uuids["backup"])
	if deployed := f.deploy(f.deploySpec(writeImage(t, "1.2.3", nil))); deployed.Network != "backup" {
		t.Errorf("deployed to network %q", deployed.Network)
	}
	template := f.pool.Inventory.DelegateTemplates()[0].Ref
	f.template.Ref, f.count = string(template), f.objects()

	name(uuids["other"])
	d, err := f.spawner.Spawn(t.Context(), f.spec())
	if err != nil {
		t.Fatal(err)
	}
	if on(d.Ref) != "other" || on(template) != "backup" {
		t.Errorf("the delegate is on network %q, its template on %q", on(d.Ref), on(template))
	}
	if err := d.Retire(t.Context()); err != nil {
		t.Fatal(err)
	}
	name("none")
	if _, err := f.spawner.Spawn(t.Context(), f.spec()); err == nil || !strings.Contains(err.Error(), "pool add a' again with --delegate-network") {
		t.Errorf("a network that is gone: %v", err)
	}
	f.nothingLeft()
}

// TestNetworkSettings has a pool with a gateway and an MTU: the delegate is told, and what it returns the hash of holds them.
func TestNetworkSettings(t *testing.T) {
	t.Parallel()
	f := newFixture(t, processWorld(t), 1)
	pool, err := f.store.Pool(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	gateway := strings.Split(pool.DelegateAddresses, "10-")[0] + "1"
	pool.DelegateGateway, pool.DelegateMTU = gateway, 1400
	if err := f.store.UpdatePool(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	data := f.vm(f.spawn().Ref).XenstoreData
	if got := data[control.InputPrefix+control.InputGateway] + " " + data[control.InputPrefix+control.InputMTU]; got != gateway+" 1400" {
		t.Errorf("the delegate was told %q", got)
	}
}
