package xapisim_test

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// byNumber gives the references of a pool's hosts, by number.
func byNumber(t *testing.T, c *client, pool *xapisim.Pool) []string {
	t.Helper()
	out := make([]string, len(pool.Addresses()))
	for _, ref := range c.list("host.get_all") {
		for n, address := range pool.Addresses() {
			if ip(t, address) == c.text("host.get_address", ref) {
				out[n] = ref
			}
		}
	}
	return out
}

func bootTime(c *client, host string) any {
	return c.record("host", host)["other_config"].(map[string]any)["boot_time"]
}

func TestAHostReboots(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2})
	c := connect(t, pool)
	host := byNumber(t, c, pool)[1]
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm"})
	c.call("VM.start_on", vm, host, false, false)
	c.refuse("HOST_NOT_DISABLED", []string{}, "host.reboot", host)
	c.call("host.disable", host)
	c.refuse("HOST_DISABLED", []string{host}, "VM.assert_can_boot_here", vm, host)
	before := bootTime(c, host)
	c.call("host.reboot", host)
	if _, err := c.try("host.enable", host); err == nil {
		t.Error("a host that is about to reboot can be enabled")
	}
	eventually(t, "the reboot", func() bool { return bootTime(c, host) != before })
	if c.call("host.get_enabled", host) != true || c.text("VM.get_power_state", vm) != "Halted" {
		t.Errorf("%v, the VM is %s", c.record("host", host), c.text("VM.get_power_state", vm))
	}
	c.call("host.disable", host, false)
	do(t, pool.CrashHost(1))
	do(t, pool.BootHost(1))
	if c.call("host.get_enabled", host) != false {
		t.Error("a host that was disabled until it is enabled is enabled")
	}
	c.refuse("XENAPI_MISSING_PLUGIN", []string{"nope"}, "host.call_plugin", host, "nope", "fn", map[string]string{})
}

func TestADeadHostIsGivenUp(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2, HostDeadDelay: time.Hour})
	c := connect(t, pool)
	hosts := byNumber(t, c, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 1}}})
	c.call("VM.start_on", vm, hosts[1], false, false)
	c.awaitDrivers(vm)
	c.refuse("HOST_IS_LIVE", []string{hosts[1]}, "host.declare_dead", hosts[1])
	c.refuse("HOST_IS_LIVE", []string{hosts[1]}, "VM.power_state_reset", vm)
	do(t, pool.CrashHost(1))
	c.refuse("CANNOT_CONTACT_HOST", []string{hosts[1]}, "VM.clean_shutdown", vm)
	c.refuse("CANNOT_CONTACT_HOST", []string{hosts[1]}, "host.disable", hosts[1])
	c.refuse("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VM.start_on", vm, hosts[0], false, false)
	c.call("host.declare_dead", hosts[1])
	c.call("VM.start", vm, false, false)
	if got := c.text("VM.get_resident_on", vm); got != hosts[0] {
		t.Errorf("the VM runs on %s", got)
	}
	do(t, pool.BootHost(1)) // must not touch a VM that runs elsewhere by now
	if got := c.text("VM.get_power_state", vm); got != "Running" {
		t.Errorf("%s", got)
	}
}

func TestWhereAVMCanBoot(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2, HostMemory: 4 << 30})
	c := connect(t, pool)
	hosts := byNumber(t, c, pool)
	for name, test := range map[string]struct {
		config xapisim.VMConfig
		set    func(vm string)
		code   string
		params func(vm string) []string
	}{
		"memory": {config: xapisim.VMConfig{Memory: 8 << 30}, code: "HOST_NOT_ENOUGH_FREE_MEMORY"},
		"cpus": {config: xapisim.VMConfig{VCPUs: 9}, code: "HOST_NOT_ENOUGH_PCPUS",
			params: func(string) []string { return []string{"9", "8"} }},
		"hardware": {set: func(vm string) { c.call("VM.set_hardware_platform_version", vm, 7) },
			code:   "VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION",
			params: func(vm string) []string { return []string{hosts[0], "[0; 1; 2]", vm, "7"} }},
	} {
		test.config.Name = name
		vm := c.vm(pool, test.config)
		if test.set != nil {
			test.set(vm)
		}
		var params []string
		if test.params != nil {
			params = test.params(vm)
		}
		c.refuse(test.code, params, "VM.assert_can_boot_here", vm, hosts[0])
		c.refuse(test.code, params, "VM.start_on", vm, hosts[0], false, false)
		c.refuse("NO_HOSTS_AVAILABLE", []string{}, "VM.start", vm, false, false)
		if got := c.list("VM.get_possible_hosts", vm); len(got) != 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
	homely := c.vm(pool, xapisim.VMConfig{Name: "homely"})
	c.call("VM.set_affinity", homely, hosts[1])
	c.call("VM.start", homely, false, false)
	if got := c.text("VM.get_resident_on", homely); got != hosts[1] {
		t.Errorf("the affinity counts for nothing: %s", got)
	}
	do(t, pool.Restrict("DMC"))
	elastic := c.vm(pool, xapisim.VMConfig{Name: "elastic", Memory: 1 << 29})
	c.call("VM.set_memory_dynamic_min", elastic, 1<<29)
	c.call("VM.set_memory_limits", elastic, 1<<28, 1<<29, 1<<28, 1<<29)
	c.refuse("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", []string{}, "VM.start", elastic, false, false)
}
