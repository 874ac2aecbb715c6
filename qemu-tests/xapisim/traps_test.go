package xapisim_test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// Nobody checks these when they are set; the start of the VM does.
func TestWhatShowsAtAStart(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	for what, test := range map[string]struct {
		set    []any // a call and its arguments after the VM
		code   string
		params []string
	}{
		"firmware":             {[]any{"VM.set_HVM_boot_params", map[string]string{"firmware": "openboot"}}, "INVALID_VALUE", []string{"HVM_boot_params[firmware]", "openboot"}},
		"device model":         {[]any{"VM.set_platform", map[string]string{"device-model": "qemu-upstream-uefi"}}, "INVALID_VALUE", []string{"platform:device-model", "BIOS boot is not supported with qemu-upstream-uefi"}},
		"cores, no number":     {[]any{"VM.set_platform", map[string]string{"cores-per-socket": "two"}}, "INVALID_VALUE", []string{"platform:cores-per-socket", "two"}},
		"cores, no divisor":    {[]any{"VM.set_platform", map[string]string{"cores-per-socket": "2"}}, "VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE", []string{"3", "2"}},
		"illegal key":          {[]any{"VM.set_xenstore_data", map[string]string{"vm-data/a.b": "1"}}, "INTERNAL_ERROR", nil},
		"long value":           {[]any{"VM.set_xenstore_data", map[string]string{"vm-data/a": strings.Repeat("x", 4096)}}, "INTERNAL_ERROR", nil},
		"a key that is lost":   {[]any{"VM.set_xenstore_data", map[string]string{"a.b": "1"}}, "", nil},
		"cores that are right": {[]any{"VM.set_platform", map[string]string{"cores-per-socket": "3"}}, "", nil},
	} {
		vm := c.vm(pool, xapisim.VMConfig{Name: what, VCPUs: 3, Disks: []xapisim.DiskConfig{{Size: 1}}})
		c.call(test.set[0].(string), vm, test.set[1])
		if test.code == "" {
			c.call("VM.start", vm, false, false)
			continue
		}
		c.refuse(test.code, test.params, "VM.start", vm, false, false)
		if record := c.record("VM", vm); record["power_state"] != "Halted" || record["resident_on"] != nullRef {
			t.Errorf("%s: %v", what, record)
		}
	}
}

func TestADiskIsGone(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 1}}})
	other := c.vm(pool, xapisim.VMConfig{Name: "other", Running: true})
	c.awaitDrivers(other)
	vdi := c.text("VBD.get_VDI", c.list("VM.get_VBDs", vm)[0])
	plugged := c.newVBD(other, vdi, "4", "RW")
	if err := os.Remove(c.path(pool, vdi)); err != nil {
		t.Fatal(err)
	}
	gone := []string{"", "The VDI is not available", ""}
	c.refuse("SR_BACKEND_FAILURE_46", gone, "VM.start", vm, false, false)
	c.refuse("SR_BACKEND_FAILURE_46", gone, "VBD.plug", plugged)
	if c.call("VBD.get_currently_attached", plugged) != false || c.text("VM.get_power_state", vm) != "Halted" {
		t.Error("what is not there was attached")
	}
	c.call("SR.update", c.one("SR", "shared"))
	if c.call("VDI.get_missing", vdi) != true {
		t.Error("the record does not say that the volume is missing")
	}
}

// The usual cause of NO_HOSTS_AVAILABLE, which does not tell it.
func TestNoHostHasTheSR(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 1}}})
	sr, host := c.one("SR", "shared"), c.one("host")
	c.call("PBD.unplug", c.list("SR.get_PBDs", sr)[0])
	c.refuse("NO_HOSTS_AVAILABLE", []string{}, "VM.start", vm, false, false)
	c.refuse("VM_REQUIRES_SR", []string{vm, sr}, "VM.start_on", vm, host, false, false)
	c.call("PBD.plug", c.list("SR.get_PBDs", sr)[0])
	elsewhere := c.text("network.create", map[string]any{"name_label": "n", "other_config": map[string]string{}, "MTU": 0})
	c.call("VIF.move", c.list("VM.get_VIFs", vm)[0], elsewhere) // an internal network: it can be had everywhere
	c.call("VM.start", vm, false, false)
}

func TestWhatAVBDMayBe(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}, {Name: "discs", Type: "iso"}}})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm"})
	sr := c.one("SR", "shared")
	readOnly := c.text("VDI.create", map[string]any{
		"SR": sr, "virtual_size": 1, "type": "user", "sharable": false, "read_only": true, "other_config": map[string]string{},
	})
	vdi := c.newVDI(sr, 2*mib)
	c.call("VDI.enable_cbt", vdi)
	metadata := c.text("VDI.snapshot", vdi)
	c.call("VDI.data_destroy", metadata)
	disc := vbd(vm, vdi, "3", "RW")
	disc["type"] = "CD"
	for _, test := range []struct {
		vbd    map[string]any
		code   string
		params []string
	}{
		{vbd(vm, readOnly, "0", "RW"), "VDI_READONLY", []string{readOnly}},
		{vbd(vm, metadata, "0", "RO"), "VDI_INCOMPATIBLE_TYPE", []string{metadata, "cbt_metadata"}},
		{disc, "VBD_CDS_MUST_BE_READONLY", []string{}},
		{vbd(vm, vdi, "255", "RW"), "INVALID_DEVICE", []string{"255"}},
	} {
		c.refuse(test.code, test.params, "VBD.create", test.vbd)
	}
	// A disk that is there at boot may be read-only, and read by several; only hot-plugging one is refused.
	first, second := c.newVBD(vm, vdi, "0", "RO"), c.vm(pool, xapisim.VMConfig{Name: "second"})
	c.newVBD(second, vdi, "0", "RO")
	c.call("VM.start", vm, false, false)
	c.call("VM.start", second, false, false)
	c.refuse("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VBD.set_mode", first, "RW")
	c.refuse("VDI_IN_USE", []string{vdi, "update"}, "VDI.update", vdi)
	c.refuse("OPERATION_NOT_ALLOWED", []string{"Cannot copy a VM's disks to an ISO SR"}, "VM.copy",
		c.vm(pool, xapisim.VMConfig{Name: "third"}), "x", c.one("SR", "discs"))
	c.awaitDrivers(vm)
	c.write(pool, vdi, 0, "content")
	c.call("VDI.snapshot", vdi)
	for _, base := range c.unmanaged(sr) {
		plug := c.newVBD(vm, base, "9", "RO")
		c.refuse("VDI_NOT_MANAGED", []string{plug}, "VBD.plug", plug)
	}
	shared := c.text("VDI.create", map[string]any{
		"SR": sr, "virtual_size": 1, "type": "user", "sharable": true, "read_only": false, "other_config": map[string]string{},
	})
	c.refuse("VDI_IS_SHARABLE", []string{shared}, "VDI.snapshot", shared)
}

// While hosts are upgraded one by one, VMs start and stop, but are not snapshotted, and nothing is imported.
func TestAPoolThatIsBeingUpgraded(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 1}}})
	vdi := c.text("VBD.get_VDI", c.list("VM.get_VBDs", vm)[0])
	c.call("pool.add_to_other_config", c.one("pool"), "rolling_upgrade_in_progress", "true")
	c.refuse("NOT_SUPPORTED_DURING_UPGRADE", []string{}, "VM.snapshot", vm, "x")
	c.refuse("NOT_SUPPORTED_DURING_UPGRADE", []string{}, "VDI.enable_cbt", vdi)
	if got := c.list("VM.get_allowed_operations", vm); slices.Contains(got, "snapshot") || !slices.Contains(got, "start") {
		t.Errorf("allowed %v", got)
	}
	c.call("VDI.destroy", c.text("VDI.clone", vdi))
	c.call("VM.destroy", c.text("VM.clone", vm, "clone"))
	c.call("VM.start", vm, false, false)
	c.call("pool.remove_from_other_config", c.one("pool"), "rolling_upgrade_in_progress")
	c.call("VM.snapshot", vm, "x")
}

// A chain that is too long stops a revert as it stops a snapshot, by the error of the driver.
func TestRevertPassesAChainThatIsTooLongOn(t *testing.T) {
	pool := newPool(t, xapisim.Config{CoalesceDelay: -1})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 1}}})
	snapshot := c.text("VM.snapshot", vm, "snapshot")
	vdi := c.text("VBD.get_VDI", c.list("VM.get_VBDs", snapshot)[0])
	for n := range 29 {
		c.write(pool, vdi, 0, strconv.Itoa(n))
		c.call("VDI.clone", vdi)
	}
	c.write(pool, vdi, 0, "full")
	c.refuse("SR_BACKEND_FAILURE_109", nil, "VM.revert", snapshot)
	if got := c.list("VM.get_VBDs", vm); len(got) != 1 {
		t.Errorf("a refused revert left VBDs %v", got)
	}
}
