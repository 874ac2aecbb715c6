package xapisim_test

import (
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestSuspendAndResume(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Running: true, Disks: []xapisim.DiskConfig{{Size: 1}}})
	c.awaitDrivers(vm)
	c.refuse("VM_NO_SUSPEND_SR", []string{vm}, "VM.suspend", vm)
	c.call("pool.set_suspend_image_SR", c.one("pool"), c.one("SR", "shared"))
	metrics := c.text("VM.get_guest_metrics", vm)
	c.refuse("VM_BAD_POWER_STATE", []string{vm, "suspended", "running"}, "VM.resume", vm, false, false)
	c.call("VM.suspend", vm)
	record := c.record("VM", vm)
	image := record["suspend_VDI"].(string)
	if record["power_state"] != "Suspended" || record["resident_on"] != nullRef || c.text("VDI.get_type", image) != "suspend" {
		t.Errorf("%v", record)
	}
	if vbd := c.list("VM.get_VBDs", vm)[0]; c.call("VBD.get_currently_attached", vbd) != true {
		t.Error("a suspended VM's disk is detached")
	}
	if got := c.list("VM.get_allowed_operations", vm); !slices.Contains(got, "resume") || slices.Contains(got, "start") {
		t.Errorf("allowed %v", got)
	}
	c.refuse("VM_BAD_POWER_STATE", []string{vm, "halted", "suspended"}, "VM.start", vm, false, false)
	c.call("VM.resume_on", vm, c.one("host"), true, false)
	record = c.record("VM", vm)
	if record["power_state"] != "Paused" || record["suspend_VDI"] != nullRef || record["guest_metrics"] != metrics {
		t.Errorf("%v", record)
	}
	c.refuse("HANDLE_INVALID", nil, "VDI.get_record", image)
	c.call("VM.unpause", vm)
	c.call("VM.suspend", vm)
	image = c.text("VM.get_suspend_VDI", vm)
	c.call("VM.hard_shutdown", vm)
	c.refuse("HANDLE_INVALID", nil, "VDI.get_record", image)
	if got := c.text("VM.get_power_state", vm); got != "Halted" {
		t.Errorf("%s", got)
	}
}

func TestReboot(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Running: true, Disks: []xapisim.DiskConfig{{Size: 1}}})
	c.awaitDrivers(vm)
	for _, reboot := range []string{"VM.clean_reboot", "VM.hard_reboot"} {
		_, token, _ := c.events([]string{"vm/" + vm}, "", 0)
		before := c.record("VM", vm)
		c.call(reboot, vm)
		after := c.record("VM", vm)
		if after["power_state"] != "Running" || after["domid"] == before["domid"] || after["resident_on"] != before["resident_on"] {
			t.Errorf("%s: %v", reboot, after)
		}
		if vbd := c.list("VM.get_VBDs", vm)[0]; c.call("VBD.get_currently_attached", vbd) != true {
			t.Errorf("%s detaches disks", reboot)
		}
		if events, _, _ := c.events([]string{"vm/" + vm}, token, 0); !slices.Contains(events, "vm mod "+vm) {
			t.Errorf("%s: %v", reboot, events)
		}
		eventually(t, "new guest metrics", func() bool {
			ref := c.text("VM.get_guest_metrics", vm)
			return ref != nullRef && ref != before["guest_metrics"]
		})
		c.awaitDrivers(vm)
	}
	names := []string{}
	for _, m := range c.call("message.get", "VM", c.text("VM.get_uuid", vm), "19700101T00:00:00Z").(map[string]any) {
		names = append(names, m.(map[string]any)["name"].(string))
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"VM_REBOOTED", "VM_REBOOTED", "VM_STARTED"}) {
		t.Errorf("messages %v", names)
	}
}

func TestTheGateOfOperations(t *testing.T) {
	pool := newPool(t, xapisim.Config{ConflictTimeout: time.Millisecond})
	c := connect(t, pool)
	old := c.vm(pool, xapisim.VMConfig{Name: "old", Running: true, NoDrivers: true})
	for _, operation := range []string{"clean_shutdown", "clean_reboot", "suspend"} {
		c.refuse("VM_LACKS_FEATURE", []string{old}, "VM."+operation, old)
	}
	dom0 := c.one("VM", "Control domain on host: pool-host0")
	c.refuse("OPERATION_NOT_ALLOWED", []string{"This operation is not allowed on a control domain"}, "VM.hard_shutdown", dom0)
	c.refuse("CANNOT_RESET_CONTROL_DOMAIN", []string{dom0}, "VM.power_state_reset", dom0)
	c.refuse("DOMAIN_EXISTS", []string{old}, "VM.power_state_reset", old)
	c.refuse("VM_BAD_POWER_STATE", []string{old, "halted", "running"}, "VM.assert_operation_valid", old, "start")
	reset := c.vm(pool, xapisim.VMConfig{Name: "reset", Disks: []xapisim.DiskConfig{{Size: 1}}})
	c.call("VDI.set_on_boot", c.text("VBD.get_VDI", c.list("VM.get_VBDs", reset)[0]), "reset")
	c.refuse("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION", []string{}, "VM.snapshot", reset, "x")
}

// A checkpoint is a suspended copy with its memory; the VM itself runs on, and a revert suspends it.
func TestCheckpoint(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Running: true, Disks: []xapisim.DiskConfig{{Size: 1}}})
	c.awaitDrivers(vm)
	c.refuse("VM_NO_SUSPEND_SR", []string{vm}, "VM.checkpoint", vm, "c")
	c.call("pool.set_suspend_image_SR", c.one("pool"), c.one("SR", "shared"))
	host := c.text("VM.get_resident_on", vm)
	made := c.record("VM", c.text("VM.checkpoint", vm, "c"))
	if info, _ := made["snapshot_info"].(map[string]any); made["power_state"] != "Suspended" || made["is_a_snapshot"] != true || info["power-state-at-snapshot"] != "Running" {
		t.Errorf("%v", made)
	}
	image := made["suspend_VDI"].(string)
	if c.text("VDI.get_type", image) != "suspend" || c.call("VBD.get_currently_attached", made["VBDs"].([]any)[0]) != true {
		t.Errorf("%v", made)
	}
	record := c.record("VM", vm)
	if record["power_state"] != "Running" || record["resident_on"] != host || record["suspend_VDI"] != nullRef || record["parent"] != record["snapshots"].([]any)[0] {
		t.Errorf("%v", record)
	}
	c.call("VM.revert", record["parent"])
	record = c.record("VM", vm)
	if saved := record["suspend_VDI"].(string); record["power_state"] != "Suspended" || saved == image || c.text("VDI.get_type", saved) != "suspend" {
		t.Errorf("%v", record)
	}
	c.call("VM.resume", vm, false, false)
	c.call("VDI.get_record", image)
	if err := pool.Restrict("Checkpoint"); err != nil {
		t.Fatal(err)
	}
	c.refuse("LICENCE_RESTRICTION", []string{"Checkpoint"}, "VM.checkpoint", vm, "c")
}
