package xapisim_test

import (
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestOlderReleases(t *testing.T) {
	if _, err := xapisim.New(xapisim.Config{Dir: t.TempDir(), Release: "tampa"}); err == nil || !strings.Contains(err.Error(), "no release") {
		t.Errorf("%v", err)
	}
	for _, test := range []struct {
		release, version   string
		fields, unknown    []string // of VM, which the release has and lacks
		calls, unknownCall string
	}{
		{"ely", "7.1.0", []string{"blocked_operations", "has_vendor_device"}, []string{"NVRAM", "domain_type", "VUSBs"}, "VM.get_allowed_operations", "VDI.enable_cbt"},
		{"stockholm", "8.2.0", []string{"NVRAM", "domain_type", "VUSBs"}, []string{"pending_guidances"}, "VDI.enable_cbt", "VM.get_pending_guidances"},
	} {
		pool := newPool(t, xapisim.Config{Release: test.release})
		c := connect(t, pool)
		vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 1}}})
		vdi := c.text("VBD.get_VDI", c.list("VM.get_VBDs", vm)[0])
		record := c.record("VM", vm)
		for _, field := range test.fields {
			if _, ok := record[field]; !ok {
				t.Errorf("%s lacks VM.%s", test.release, field)
			}
		}
		for _, field := range test.unknown {
			if _, ok := record[field]; ok {
				t.Errorf("%s has VM.%s", test.release, field)
			}
		}
		arguments := map[bool]string{true: vdi, false: vm}
		c.call(test.calls, arguments[strings.HasPrefix(test.calls, "VDI.")])
		c.refuse("MESSAGE_METHOD_UNKNOWN", []string{test.unknownCall}, test.unknownCall, arguments[strings.HasPrefix(test.unknownCall, "VDI.")])
		c.refuse("MESSAGE_PARAMETER_COUNT_MISMATCH", []string{"VM.snapshot", "2", "3"}, "VM.snapshot", vm, "x", []string{})
		c.call("VM.snapshot", vm, "x")
		if got := c.record("host", c.one("host"))["software_version"].(map[string]any)["product_version"]; got != test.version {
			t.Errorf("%s calls itself %v", test.release, got)
		}
	}
}
