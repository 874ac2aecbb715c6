package xapisim_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// guest waits until a running VM shows that its guest has drivers.
func (c *client) awaitDrivers(vm string) {
	c.t.Helper()
	eventually(c.t, "the drivers of a guest", func() bool {
		hotplug, err := c.try("VM_guest_metrics.get_can_use_hotplug_vbd", c.text("VM.get_guest_metrics", vm))
		return err == nil && hotplug == "yes"
	})
}

func (c *client) vm(pool *xapisim.Pool, config xapisim.VMConfig) string {
	c.t.Helper()
	return addVM(c.t, pool, config)
}

func TestVMCreate(t *testing.T) {
	c := connect(t, newPool(t, xapisim.Config{}))
	vm := map[string]any{
		"user_version": 1, "is_a_template": false, "affinity": nullRef, "memory_static_max": 1 << 28, "memory_static_min": 1 << 28,
		"memory_dynamic_max": 1 << 28, "memory_dynamic_min": 1 << 28, "VCPUs_params": map[string]string{}, "VCPUs_max": 1,
		"VCPUs_at_startup": 1, "actions_after_shutdown": "destroy", "actions_after_reboot": "restart",
		"actions_after_crash": "destroy", "PV_bootloader": "", "PV_kernel": "", "PV_ramdisk": "", "PV_args": "",
		"PV_bootloader_args": "", "PV_legacy_args": "", "HVM_boot_policy": "BIOS order",
		"HVM_boot_params": map[string]string{"order": "c"}, "platform": map[string]string{}, "PCI_bus": "",
		"other_config": map[string]string{"a": "b"}, "recommendations": "",
	}
	for key := range vm { // each of these is mandatory (xapi-facts §5.2)
		short := maps.Clone(vm)
		delete(short, key)
		c.refuse("INTERNAL_ERROR", []string{`Server_helpers.Dispatcher_FieldNotFound("` + key + `")`}, "VM.create", short)
	}
	vm["blocked_operations"] = map[string]string{"start": "no"}
	record := c.record("VM", c.text("VM.create", vm))
	config, _ := record["other_config"].(map[string]any)
	if record["domain_type"] != "hvm" || config["mac_seed"] == nil || config["a"] != "b" || record["has_vendor_device"] != true ||
		len(record["blocked_operations"].(map[string]any)) != 0 || record["guest_metrics"] != nullRef || record["metrics"] == nullRef {
		t.Errorf("%v", record)
	}
}

func TestLifeCycle(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 4 * mib}, {Size: 2 * mib, SR: "local"}}})
	c.refuse("VM_BAD_POWER_STATE", []string{vm, "paused, suspended, running", "halted"}, "VM.hard_shutdown", vm)
	free := c.call("host.compute_free_memory", c.one("host"))
	c.call("VM.start", vm, false, false)
	record := c.record("VM", vm)
	if record["power_state"] != "Running" || record["resident_on"] != c.one("host") || record["domid"] == "-1" {
		t.Errorf("%v", record)
	}
	if c.call("host.compute_free_memory", c.one("host")) == free {
		t.Error("a running VM takes no memory")
	}
	for _, vbd := range c.list("VM.get_VBDs", vm) {
		want := map[string]string{"0": "xvda", "1": "xvdb"}[c.text("VBD.get_userdevice", vbd)]
		if c.call("VBD.get_currently_attached", vbd) != true || c.text("VBD.get_device", vbd) != want {
			t.Errorf("%v", c.record("VBD", vbd))
		}
	}
	c.refuse("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VM.start", vm, false, false)
	c.refuse("VM_BAD_POWER_STATE", []string{vm, "halted, suspended", "running"}, "VM.destroy", vm)
	c.refuse("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VM.clone", vm, "x")
	c.awaitDrivers(vm)
	if got := c.list("VM.get_allowed_operations", vm); !slices.Contains(got, "clean_shutdown") || slices.Contains(got, "start") {
		t.Errorf("allowed %v", got)
	}
	first := c.text("VM.get_guest_metrics", vm)
	c.call("VM.pause", vm)
	if got := c.text("VM.get_power_state", vm); got != "Paused" {
		t.Errorf("%s", got)
	}
	c.call("VM.unpause", vm)
	c.call("VM.clean_shutdown", vm)
	if record = c.record("VM", vm); record["power_state"] != "Halted" || record["guest_metrics"] != first || record["resident_on"] != nullRef {
		t.Errorf("%v", record)
	}
	c.call("VM.start", vm, true, false)
	if got := c.text("VM.get_power_state", vm); got != "Paused" {
		t.Errorf("%s", got)
	}
	eventually(t, "new guest metrics", func() bool {
		ref := c.text("VM.get_guest_metrics", vm)
		return ref != nullRef && ref != first
	})
	c.refuse("HANDLE_INVALID", nil, "VM_guest_metrics.get_record", first)
	c.call("VM.hard_shutdown", vm)
	disks := c.list("VDI.get_all")
	c.call("VM.destroy", vm)
	if got := c.list("VBD.get_all"); len(got) != 0 || len(c.list("VDI.get_all")) != len(disks) {
		t.Errorf("left: VBDs %v", got)
	}
}

func TestGuestsWithoutDrivers(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "old", Running: true, NoDrivers: true})
	vbd := c.newVBD(vm, c.newVDI(c.one("SR", "shared"), 1), "5", "RW")
	c.refuse("VM_MISSING_PV_DRIVERS", []string{vm}, "VBD.plug", vbd)
	c.refuse("VM_LACKS_FEATURE", []string{vm}, "VM.clean_shutdown", vm)
	c.call("VM.shutdown", vm)
	if got := c.text("VM.get_power_state", vm); got != "Halted" {
		t.Errorf("%s", got)
	}
}

func TestBlockedOperations(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "replica"})
	c.call("VM.set_blocked_operations", vm, map[string]string{"start": "a replica", "destroy": "too"})
	c.refuse("OPERATION_BLOCKED", []string{vm, "a replica"}, "VM.start", vm, false, false)
	c.refuse("OPERATION_BLOCKED", []string{vm, "too"}, "VM.destroy", vm)
	if got := c.list("VM.get_allowed_operations", vm); slices.Contains(got, "start") || !slices.Contains(got, "start_on") {
		t.Errorf("allowed %v", got)
	}
	c.call("VM.start_on", vm, c.one("host"), false, false) // blocking start leaves start_on (xapi-observed)
	c.call("VM.hard_shutdown", vm)
	if got := c.record("VM", c.text("VM.clone", vm, "copy"))["blocked_operations"].(map[string]any); len(got) != 0 {
		t.Errorf("a clone inherits blocks: %v", got)
	}
	c.call("VM.remove_from_blocked_operations", vm, "destroy")
	c.call("VM.destroy", vm)
}

func TestTemplates(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "golden", Disks: []xapisim.DiskConfig{{Size: 1}}, OtherConfig: map[string]string{"mark": "1"}})
	c.call("VM.set_is_a_template", vm, true)
	c.refuse("VM_IS_TEMPLATE", []string{vm, "start"}, "VM.start", vm, false, false)
	c.refuse("VM_IS_TEMPLATE", []string{vm, "snapshot"}, "VM.snapshot", vm, "x")
	clone := c.text("VM.clone", vm, "delegate")
	record := c.record("VM", clone)
	config := record["other_config"].(map[string]any)
	if record["is_a_template"] != true || config["mark"] != "1" || config["base_template_name"] != "golden" {
		t.Errorf("%v", record)
	}
	if c.text("VM.get_metrics", vm) != nullRef {
		t.Error("a VM made a template keeps its metrics")
	}
	c.call("VM.provision", clone)
	c.call("VM.start", clone, false, false)
	c.refuse("VM_BAD_POWER_STATE", nil, "VM.provision", clone)
}

func TestCloneAndSnapshotDevices(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 2 * mib}, {Size: 4 * mib}},
		Tags: []string{"t"}, OtherConfig: map[string]string{"understudy:uuid": "x"}})
	c.call("VM.set_xenstore_data", vm, map[string]string{"vm-data/a": "1"})
	disks := c.list("VDI.get_all")
	c.call("VM.start", vm, false, false)
	eventually(t, "the mirror of vm-data", func() bool { _, ok := c.record("VM", vm)["xenstore_data"].(map[string]any)["vm-data"]; return ok })
	snapshot := c.text("VM.snapshot", vm, "restore point")
	c.call("VM.hard_shutdown", vm)
	clone := c.text("VM.clone", vm, "clone")
	mac := func(vm string) string { return c.text("VIF.get_MAC", c.list("VM.get_VIFs", vm)[0]) }
	if mac(snapshot) != mac(vm) || mac(clone) == mac(vm) {
		t.Errorf("addresses: VM %s, snapshot %s, clone %s", mac(vm), mac(snapshot), mac(clone))
	}
	for _, copied := range []string{snapshot, clone} {
		record := c.record("VM", copied)
		if config := record["other_config"].(map[string]any); config["understudy:uuid"] != "x" {
			t.Errorf("markers %v", config)
		}
		if data := record["xenstore_data"].(map[string]any); data["vm-data/a"] != "1" {
			t.Errorf("vm-data %v", data)
		}
		if !slices.Equal(c.list("VM.get_tags", copied), []string{"t"}) || record["power_state"] != "Halted" {
			t.Errorf("%v", record)
		}
		for _, vbd := range c.list("VM.get_VBDs", copied) {
			vdi := c.text("VBD.get_VDI", vbd)
			if slices.Contains(disks, vdi) || c.call("VBD.get_currently_attached", vbd) != false ||
				c.call("VDI.get_is_a_snapshot", vdi) != (copied == snapshot) {
				t.Errorf("%v", c.record("VBD", vbd))
			}
		}
	}
	record := c.record("VM", snapshot)
	info := record["snapshot_info"].(map[string]any)
	if record["is_a_snapshot"] != true || record["is_a_template"] != true || record["snapshot_of"] != vm ||
		info["power-state-at-snapshot"] != "Running" || !strings.Contains(record["snapshot_metadata"].(string), "('name__label' 'vm')") {
		t.Errorf("%v", record)
	}
	if !slices.Equal(c.list("VM.get_snapshots", vm), []string{snapshot}) || c.text("VM.get_parent", vm) != snapshot {
		t.Error("the VM does not know its snapshot")
	}
	c.refuse("VM_IS_SNAPSHOT", []string{snapshot, "start"}, "VM.start", snapshot, false, false)
	ignored := c.text("VM.snapshot", vm, "without disks", disks)
	if got := c.list("VM.get_VBDs", ignored); len(got) != 0 {
		t.Errorf("ignored disks are in the snapshot: %v", got)
	}
}

func TestFailedSnapshotLeavesNoDisk(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "big", Shared: true}, {Name: "lvm", Type: "lvm", Capacity: 6 * mib}}})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 2 * mib, SR: "big"}, {Size: 4 * mib, SR: "lvm"}}})
	c.refuse("SR_BACKEND_FAILURE_44", nil, "VM.snapshot", vm, "x")
	if got := c.list("VDI.get_all"); len(got) != 2 || len(c.list("VM.get_snapshots", vm)) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestRevert(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm", Disks: []xapisim.DiskConfig{{Size: 2 * mib}}, OtherConfig: map[string]string{"state": "old"}})
	disk := func() string { return c.text("VBD.get_VDI", c.list("VM.get_VBDs", vm)[0]) }
	before := disk()
	c.write(pool, before, 100, "old content")
	snapshot, later := c.text("VM.snapshot", vm, "one"), ""
	c.write(pool, before, 100, "new content")
	c.call("VM.remove_from_other_config", vm, "state")
	c.call("VM.add_to_other_config", vm, "state", "new")
	later = c.text("VM.snapshot", vm, "two")
	if got := c.list("VM.get_children", snapshot); !slices.Equal(got, []string{later}) || !slices.Equal(c.list("VM.get_children", later), []string{vm}) {
		t.Errorf("the tree of snapshots: %v", got)
	}
	c.call("VM.start", vm, false, false)
	c.call("VM.revert", snapshot)
	after := disk()
	if after == before || string(read(t, c.path(pool, after))[100:111]) != "old content" {
		t.Error("the disk was not taken back to a new VDI")
	}
	c.refuse("HANDLE_INVALID", nil, "VDI.get_record", before)
	record := c.record("VM", vm)
	if record["other_config"].(map[string]any)["state"] != "old" || record["power_state"] != "Halted" || record["parent"] != snapshot {
		t.Errorf("%v", record)
	}
	for _, of := range []string{snapshot, later} {
		vdi := c.text("VBD.get_VDI", c.list("VM.get_VBDs", of)[0])
		if got := c.text("VDI.get_snapshot_of", vdi); got != after {
			t.Errorf("the snapshot's disk is one of %s, want %s", got, after)
		}
	}
	c.refuse("ONLY_REVERT_SNAPSHOT", nil, "VM.revert", vm)
}

func TestHostsAreChosenByPBDAndMemory(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2, SRs: []xapisim.SRConfig{{Name: "shared", Shared: true}, {Name: "local", Host: 1}}})
	c := connect(t, pool)
	hosts := map[string]string{}
	for _, host := range c.list("host.get_all") {
		hosts[c.text("host.get_name_label", host)] = host
	}
	first, second := hosts["pool-host0"], hosts["pool-host1"]
	local := c.vm(pool, xapisim.VMConfig{Name: "local", Disks: []xapisim.DiskConfig{{Size: 1, SR: "local"}}})
	if got := c.list("VM.get_possible_hosts", local); !slices.Equal(got, []string{second}) {
		t.Errorf("possible hosts %v", got)
	}
	c.refuse("VM_REQUIRES_SR", []string{local, c.one("SR", "local")}, "VM.assert_can_boot_here", local, first)
	c.refuse("VM_REQUIRES_SR", nil, "VM.start_on", local, first, false, false)
	c.call("VM.start", local, false, false)
	if got := c.text("VM.get_resident_on", local); got != second {
		t.Errorf("runs on %s", got)
	}
	huge := c.vm(pool, xapisim.VMConfig{Name: "huge", Memory: 1 << 40})
	c.refuse("NO_HOSTS_AVAILABLE", []string{}, "VM.start", huge, false, false)
	c.refuse("HOST_NOT_ENOUGH_FREE_MEMORY", nil, "VM.start_on", huge, first, false, false)
	c.call("host.disable", first)
	c.refuse("HOST_DISABLED", []string{first}, "VM.start_on", huge, first, false, false)
	c.call("host.enable", first)
	c.refuse("VDI_IN_USE", nil, "PBD.unplug", c.list("host.get_PBDs", second)[slices.IndexFunc(c.list("host.get_PBDs", second), func(pbd string) bool {
		return c.text("PBD.get_SR", pbd) == c.one("SR", "local")
	})])
}

func TestMemoryAndCPULimits(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	vm := c.vm(pool, xapisim.VMConfig{Name: "vm"})
	c.call("VM.set_memory_limits", vm, 1<<28, 1<<30, 1<<29, 1<<29)
	c.refuse("MEMORY_CONSTRAINT_VIOLATION_ORDER", nil, "VM.set_memory_limits", vm, 1<<30, 1<<28, 1<<28, 1<<28)
	c.refuse("INVALID_VALUE", nil, "VM.set_VCPUs_at_startup", vm, 8)
	c.call("VM.set_VCPUs_max", vm, 8)
	c.call("VM.set_VCPUs_at_startup", vm, 8)
	c.call("VM.set_domain_type", vm, "pv")
	if got := c.text("VM.get_HVM_boot_policy", vm); got != "" {
		t.Errorf("boot policy %q", got)
	}
	c.refuse("INVALID_VALUE", []string{"domain_type", "unspecified"}, "VM.set_domain_type", vm, "unspecified")
	c.call("VM.set_NVRAM", vm, map[string]string{"EFI-variables": "x"})
	c.call("VM.start", vm, false, false)
	c.refuse("VM_BAD_POWER_STATE", []string{vm, "halted", "running"}, "VM.set_NVRAM", vm, map[string]string{})
}

// A call on a busy VM waits instead of failing; after ConflictTimeout it fails.
func TestConflictsWait(t *testing.T) {
	pool := newPool(t, xapisim.Config{ConflictTimeout: 50 * time.Millisecond, ShutdownAckTimeout: time.Minute,
		SRs: []xapisim.SRConfig{{Name: "raw", Type: "lvm", Garbage: true}}})
	c := connect(t, pool)
	sr := c.one("SR")
	task := c.text("Async.VDI.create", map[string]any{"SR": sr, "virtual_size": 1 << 39, "type": "user", // noise for hours
		"sharable": false, "read_only": false, "other_config": map[string]string{}})
	eventually(t, "the SR's operation", func() bool { return len(c.record("SR", sr)["current_operations"].(map[string]any)) == 1 })
	c.refuse("OTHER_OPERATION_IN_PROGRESS", []string{"SR", sr, "vdi_create", task}, "SR.scan", sr)
	c.call("task.cancel", task)
	eventually(t, "the SR to be free", func() bool { _, err := c.try("SR.scan", sr); return err == nil })
}
