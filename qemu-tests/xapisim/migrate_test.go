package xapisim_test

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestMigration moves VMs between hosts, and is refused where nothing can be moved.
func TestMigration(t *testing.T) {
	pool := newPool(t, xapisim.Config{
		Hosts: 2, SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}, {Name: "home"}},
		GuestDelay: time.Millisecond, GuestMetricsDelay: time.Millisecond,
	})
	c := connect(t, pool)
	hosts := c.list("host.get_all")
	add := func(name, sr string) string {
		vm := addVM(t, pool, xapisim.VMConfig{Name: name, Disks: []xapisim.DiskConfig{{Size: mib, SR: sr}}})
		return vm
	}
	mover, homely := add("mover", "shared"), add("homely", "home")
	none := map[string]any{}
	c.refuse("VM_BAD_POWER_STATE", []string{mover, "running", "halted"}, "VM.pool_migrate", mover, hosts[1], none)
	for _, vm := range []string{mover, homely} {
		c.call("VM.start", vm, false, false)
		awaitAgent(c, vm)
	}
	home := c.text("VM.get_resident_on", homely)
	away := hosts[0]
	if away == home {
		away = hosts[1]
	}
	local := c.text("SR.get_by_uuid", c.text("SR.get_uuid", c.list("SR.get_by_name_label", "home")[0]))
	missing := []string{homely, local}
	c.refuse("VM_REQUIRES_SR", missing, "VM.pool_migrate", homely, away, none)
	c.call("VM.pool_migrate", mover, home, none)

	c.refuse("VM_REQUIRES_SR", missing, "host.evacuate", home)
	c.refuse("CANNOT_EVACUATE_HOST", []string{"VM_REQUIRES_SR," + homely + "," + local}, "host.assert_can_evacuate", home)
	if stuck := c.call("host.get_vms_which_prevent_evacuation", home).(map[string]any); len(stuck) != 1 || stuck[homely] == nil {
		t.Errorf("%v prevent the evacuation, want the VM with a local disk", stuck)
	}
	c.call("VM.hard_shutdown", homely)
	before := c.record("VM", mover)
	c.call("host.disable", home)
	c.call("host.evacuate", home)
	after := c.record("VM", mover)
	if after["resident_on"] != away || after["domid"] == before["domid"] || after["power_state"] != "Running" {
		t.Errorf("after the evacuation %v runs as domain %v on %v, want another domain on %v", after["power_state"], after["domid"], after["resident_on"], away)
	}
	c.refuse("NO_HOSTS_AVAILABLE", []string{mover}, "host.evacuate", away)
	c.refuse("HOST_DISABLED", []string{home}, "VM.pool_migrate", mover, home, none)
	if err := pool.Restrict("Xen_motion"); err != nil {
		t.Fatal(err)
	}
	c.refuse("LICENCE_RESTRICTION", []string{"Xen_motion"}, "VM.pool_migrate", mover, away, none)
	c.call("VM.hard_shutdown", mover)
}
