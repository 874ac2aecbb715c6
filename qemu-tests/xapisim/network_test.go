package xapisim_test

import (
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestNetworks(t *testing.T) {
	pool := newPool(t, xapisim.Config{Restricted: []string{"VIF_locking", "VTPM"}})
	c := connect(t, pool)
	wired := c.one("network")
	made := c.text("network.create", map[string]any{"name_label": "n", "other_config": map[string]string{}, "MTU": 0})
	if record := c.record("network", made); record["bridge"] != "xapi0" || record["MTU"].(interface{ String() string }).String() != "1500" {
		t.Errorf("%v", record)
	}
	c.call("network.add_purpose", made, "nbd")
	c.refuse("NETWORK_INCOMPATIBLE_PURPOSES", []string{"insecure_nbd", "nbd"}, "network.add_purpose", wired, "insecure_nbd")
	c.call("network.remove_purpose", made, "nbd")
	c.call("network.add_purpose", wired, "insecure_nbd")
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Running: true})
	vif := c.list("VM.get_VIFs", vm)[0]
	c.refuse("LICENCE_RESTRICTION", []string{"VIF_locking"}, "VIF.set_ipv4_allowed", vif, []string{"192.0.2.1"})
	c.refuse("LICENCE_RESTRICTION", []string{"VTPM"}, "VTPM.create", vm, false)
	do(t, pool.Restrict())
	c.call("VIF.set_ipv4_allowed", vif, []string{"192.0.2.1"})
	c.call("VIF.move", vif, made)
	c.refuse("NETWORK_CONTAINS_VIF", []string{vif}, "network.destroy", made)
	c.refuse("NETWORK_CONTAINS_PIF", nil, "network.destroy", wired)
	c.refuse("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VTPM.create", vm, false)
	c.call("VM.hard_shutdown", vm)
	c.call("network.destroy", made)
	vtpm := c.text("VTPM.create", vm, false)
	if got := c.list("VM.get_VTPMs", vm); !slices.Equal(got, []string{vtpm}) {
		t.Errorf("%v", got)
	}
	c.refuse("VTPM_MAX_AMOUNT_REACHED", []string{"1"}, "VTPM.create", vm, false)
	c.call("VTPM.destroy", vtpm)
}
