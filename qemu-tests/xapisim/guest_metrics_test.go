package xapisim_test

import (
	"context"
	"maps"
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// scripted is a world of guests that publish what they are told to, and let no disk go.
type scripted struct {
	mu      sync.Mutex
	tree    map[string]string
	changed chan struct{}
	done    chan struct{}
	end     func()
}

func newScripted() *scripted {
	g := &scripted{changed: make(chan struct{}, 1), done: make(chan struct{})}
	g.end = sync.OnceFunc(func() { close(g.done) })
	return g
}

func (g *scripted) publish(tree map[string]string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tree = tree
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

func (g *scripted) Tree() (map[string]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.tree), nil
}

func (g *scripted) Start(context.Context, xapisim.Machine) (xapisim.Guest, error) { return g, nil }
func (g *scripted) Plug(context.Context, xapisim.Disk) error                      { return nil }
func (g *scripted) Unplug(context.Context, string) error                          { return xapisim.ErrDetachRejected }
func (g *scripted) SetData(map[string]string) error                               { return nil }
func (g *scripted) Changed() <-chan struct{}                                      { return g.changed }
func (g *scripted) Pause() error                                                  { return nil }
func (g *scripted) Unpause() error                                                { return nil }
func (g *scripted) Shutdown(context.Context) error                                { return nil } // and then goes on
func (g *scripted) Kill() error                                                   { g.end(); return nil }
func (g *scripted) Done() <-chan struct{}                                         { return g.done }

func TestWhatAGuestSays(t *testing.T) {
	guest := newScripted()
	pool := newPool(t, xapisim.Config{World: guest, ShutdownTimeout: 1})
	template, err := pool.AddDelegateTemplate("shared", "1")
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, pool)
	vm := c.text("VM.clone", template.Ref, "guest")
	c.call("VM.provision", vm)
	c.call("VM.start", vm, false, false)
	metrics := func(field string) map[string]any {
		record, err := c.try("VM_guest_metrics.get_"+field, c.text("VM.get_guest_metrics", vm))
		if err != nil {
			return nil // not there yet
		}
		got, _ := record.(map[string]any)
		return got
	}
	for _, test := range []struct {
		what  string
		tree  map[string]string
		field string
		want  map[string]any
	}{
		{"an agent of today", map[string]string{"attr/vif/0/ipv4/0": "192.0.2.1", "attr/vif/0/ipv4/1": "192.0.2.2", "attr/vif/1/ipv6/0": "2001:db8::1", "attr/eth7/ip": "198.51.100.1"},
			"networks", map[string]any{"0/ip": "192.0.2.1", "0/ipv4/0": "192.0.2.1", "0/ipv4/1": "192.0.2.2", "1/ipv6/0": "2001:db8::1"}},
		{"an index that is none", map[string]string{"attr/vif/0/ipv4/0": "192.0.2.1", "attr/vif/0/ipv4/x": "192.0.2.2", "attr/vif/1/ipv4/0": "192.0.2.3"},
			"networks", map[string]any{"1/ip": "192.0.2.3", "1/ipv4/0": "192.0.2.3"}},
		{"an agent of old", map[string]string{"attr/eth0/ip": "192.0.2.1", "attr/eno1/ipv6/2/addr": "2001:db8::1", "attr/wlan0/ip": "192.0.2.9"},
			"networks", map[string]any{"0/ip": "192.0.2.1", "0/ipv4/0": "192.0.2.1", "1/ipv6/2": "2001:db8::1"}},
		{"what stands below control and data", map[string]string{"control/own": "1", "control/a/b": "2", "control/feature-suspend": "1", "data/ts": "1", "data/cant_suspend_reason": "a device", "data/x": "y"},
			"other", map[string]any{"own": "1", "feature-suspend": "1", "data-ts": "1", "data-cant-suspend-reason": "a device"}},
		{"an operating system", map[string]string{"data/os_name": "n", "attr/os/spmajor": "1", "attr/os/spminor": "0"},
			"os_version", map[string]any{"name": "n", "spmajor": "1", "spminor": "0"}},
	} {
		guest.publish(test.tree)
		eventually(t, test.what, func() bool { return maps.Equal(metrics(test.field), test.want) })
	}
	// What it says decides on what can be done with it.
	drivers := map[string]string{"attr/PVAddons/MajorVersion": "8", "attr/PVAddons/MinorVersion": "4", "control/feature-suspend": "1", "control/feature-poweroff": "1"}
	say := func(key, value string) {
		tree := maps.Clone(drivers)
		tree[key], tree["data/os_name"] = value, key+value
		guest.publish(tree)
		eventually(t, key, func() bool { return metrics("os_version")["name"] == key+value })
	}
	vbd := c.newVBD(vm, c.newVDI(c.one("SR", "shared"), 1), "5", "RW")
	say("feature/hotplug/vbd", "0")
	c.refuse("OPERATION_NOT_ALLOWED", []string{"VM states it does not support VBD hotplug."}, "VBD.plug", vbd)
	say("data/cant_suspend_reason", "a device")
	c.refuse("VM_NON_SUSPENDABLE", []string{vm, "a device"}, "VM.suspend", vm)
	c.call("VBD.plug", vbd) // drivers are known, and nothing is said of disks
	c.refuse("DEVICE_DETACH_REJECTED", []string{"VBD", vbd, ""}, "VBD.unplug", vbd)
	if c.call("VBD.get_currently_attached", vbd) != true {
		t.Error("a disk that the guest holds is shown as detached")
	}
	c.refuse("VM_SHUTDOWN_TIMEOUT", []string{vm, "0"}, "VM.clean_shutdown", vm) // acknowledged, and no more
	c.call("VM.hard_shutdown", vm)
	if metrics("os_version") == nil {
		t.Error("a halted VM's guest metrics have gone")
	}
}
