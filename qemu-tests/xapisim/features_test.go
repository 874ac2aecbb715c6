package xapisim_test

import (
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestALicenceRestrictsFeatures(t *testing.T) {
	pool := newPool(t, xapisim.Config{Restricted: []string{"VM_start", "HA"}})
	c := connect(t, pool)
	flags := c.record("pool", c.one("pool"))["restrictions"].(map[string]any)
	for flag, want := range map[string]string{
		"restrict_vm_start": "true", "enable_xha": "false", "restrict_cbt": "false", "regular_nag_dialog": "false",
	} {
		if flags[flag] != want {
			t.Errorf("%s is %v, want %s", flag, flags[flag], want)
		}
	}
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm"})
	c.refuse("LICENCE_RESTRICTION", []string{"VM_start"}, "VM.start", vm, false, false)
	c.refuse("LICENCE_RESTRICTION", []string{"VM_start"}, "VM.start_on", vm, c.one("host"), false, false)
	if err := pool.Restrict("CBT"); err != nil {
		t.Fatal(err)
	}
	c.call("VM.start", vm, false, false)
	if err := pool.Restrict("frob"); err == nil {
		t.Error("an unknown feature can be restricted")
	}
}
