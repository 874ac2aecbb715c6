package xva

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
)

// required are the fields that an importer does not fill in. With any of them missing the import fails; found by leaving
// out each in turn (xapi-observed; xapi-facts §10.2).
var required = map[string][]string{
	"VM": {
		"uuid", "user_version", "is_a_template", "is_control_domain", "affinity", "resident_on", "metrics", "guest_metrics", "domid",
		"domarch", "memory_static_max", "memory_static_min", "memory_dynamic_max", "memory_dynamic_min", "VCPUs_params", "VCPUs_max",
		"VCPUs_at_startup", "actions_after_shutdown", "actions_after_reboot", "actions_after_crash", "PV_bootloader", "PV_kernel",
		"PV_ramdisk", "PV_args", "PV_bootloader_args", "PV_legacy_args", "HVM_boot_policy", "HVM_boot_params", "platform", "PCI_bus",
		"other_config", "recommendations",
	},
	"VDI": {
		"uuid", "SR", "virtual_size", "physical_utilisation", "type", "sharable", "read_only", "managed", "missing", "parent",
		"storage_lock", "other_config",
	},
	"VBD": {
		"uuid", "VM", "VDI", "userdevice", "bootable", "mode", "type", "empty", "storage_lock", "other_config", "status_code",
		"status_detail", "runtime_properties", "qos_algorithm_type", "qos_algorithm_params", "qos_supported_algorithms",
	},
	"VIF": {
		"uuid", "device", "network", "VM", "MAC", "MTU", "other_config", "qos_algorithm_type", "qos_algorithm_params",
		"qos_supported_algorithms", "status_code", "status_detail", "runtime_properties",
	},
	"SR": {
		"uuid", "type", "content_type", "shared", "physical_size", "physical_utilisation", "virtual_allocation", "other_config",
	},
	"network": {"uuid", "other_config"},
}

const never = DateTime("19700101T00:00:00Z")

// Version tells what wrote an XVA.
type Version struct {
	Hostname, Date, ProductVersion, ProductBrand, BuildNumber string
	Major, Minor                                              int64 // of xapi; an importer refuses what is newer than itself
}

// applianceVersion is that of 8.2, the oldest release in use.
var applianceVersion = Version{ProductVersion: "8.2.1", Major: 1, Minor: 20}

// checksumsInline is the least export_vsn of which a checksum follows every chunk.
const checksumsInline = 2

// document is the content of ova.xml.
func document(v Version, objects []Object) ([]byte, error) {
	list := []any{}
	for _, o := range objects {
		list = append(list, map[string]any{"class": o.Class, "id": o.ID, "snapshot": o.Snapshot})
	}
	var out bytes.Buffer
	err := encodeValue(&out, map[string]any{
		"version": map[string]any{
			"hostname": v.Hostname, "date": v.Date, "product_brand": v.ProductBrand, "build_number": v.BuildNumber,
			"product_version": v.ProductVersion, "xapi_major": v.Major, "xapi_minor": v.Minor, "export_vsn": int64(checksumsInline),
		},
		"objects": list,
	})
	return out.Bytes(), err
}

func (a Appliance) objects() []Object {
	return []Object{{"VM", idVM, a.vm()}, {"VBD", idVBD, a.vbd()}, {"SR", idSR, a.sr()}, {"VDI", idVDI, a.vdi()}}
}

// uuid is one that depends on the appliance alone. An importer draws its own.
func (a Appliance) uuid(id string) string {
	b := sha256.Sum256([]byte("understudy appliance\x00" + a.Name + "\x00" + a.Version + "\x00" + id))
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80 // version 8, by own rule (RFC 9562 §5.8)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// The records are full ones, with the runtime fields and those that have defaults: older releases fill in less.

func (a Appliance) vm() map[string]any {
	otherConfig := map[string]string{KeyKind: KindDelegateTemplate, KeyVersion: a.Version}
	maps.Copy(otherConfig, a.OtherConfig)
	return map[string]any{
		"uuid": a.uuid(idVM), "name_label": a.Name, "name_description": a.Description, "user_version": int64(1),
		"is_a_template": true, "is_default_template": false, "is_control_domain": false, "is_a_snapshot": false,
		"snapshot_of": nullRef, "snapshots": []string{}, "snapshot_time": never, "transportable_snapshot_id": "",
		"snapshot_info": map[string]string{}, "snapshot_metadata": "", "parent": nullRef, "children": []string{},
		"power_state": "Halted", "allowed_operations": []string{}, "current_operations": map[string]string{},
		"blocked_operations": map[string]string{}, "suspend_VDI": nullRef, "suspend_SR": nullRef, "resident_on": nullRef,
		"affinity": nullRef, "metrics": nullRef, "guest_metrics": nullRef, "domid": int64(-1), "domarch": "",
		"memory_overhead": int64(0), "memory_target": int64(0), "memory_static_max": a.Memory, "memory_dynamic_max": a.Memory,
		"memory_dynamic_min": a.Memory, "memory_static_min": a.Memory, "VCPUs_params": map[string]string{},
		"VCPUs_max": int64(a.VCPUs), "VCPUs_at_startup": int64(a.VCPUs), "actions_after_shutdown": "destroy",
		// A delegate never asks for a reboot: a kernel that panicked does, and so does a virtual watchdog. Started again by the pool it
		// would come up as another delegate, behind its orchestrator's back.
		"actions_after_reboot": "destroy", "actions_after_crash": "destroy", "consoles": []string{}, "VIFs": []string{},
		"VBDs": []string{idVBD}, "crash_dumps": []string{}, "VTPMs": []string{}, "PV_bootloader": "", "PV_kernel": "",
		"PV_ramdisk": "", "PV_args": "", "PV_bootloader_args": "", "PV_legacy_args": "", "HVM_boot_policy": "BIOS order",
		"HVM_boot_params": map[string]string{"order": "c", "firmware": a.Firmware}, "HVM_shadow_multiplier": 1.0,
		// device-model is left to the importer, whose name for the right one depends on the release (xapi-facts §9).
		"platform": map[string]string{
			"acpi": "1", "apic": "true", "pae": "true", "nx": "true", "hpet": "true", "viridian": "false", "vga": "std",
			"videoram": "8", "timeoffset": "0",
		},
		"PCI_bus": "", "other_config": otherConfig, "last_boot_CPU_flags": map[string]string{}, "last_booted_record": "",
		"recommendations": "", "xenstore_data": map[string]string{}, "ha_always_run": false, "ha_restart_priority": "",
		"blobs": map[string]string{}, "tags": append([]string{}, a.Tags...), "appliance": nullRef, "start_delay": int64(0),
		"shutdown_delay": int64(0), "order": int64(0), "VGPUs": []string{}, "attached_PCIs": []string{}, "version": int64(0),
		"generation_id": "", "hardware_platform_version": int64(0), "has_vendor_device": false, "requires_reboot": false,
		"reference_label": "", "domain_type": "hvm", "NVRAM": map[string]string{},
	}
}

func (a Appliance) vbd() map[string]any {
	return map[string]any{
		"uuid": a.uuid(idVBD), "VM": idVM, "VDI": idVDI, "device": "", "userdevice": "0", "bootable": true, "mode": "RW", "type": "Disk",
		"allowed_operations": []string{}, "current_operations": map[string]string{}, "unpluggable": true, "storage_lock": false,
		"empty": false, "other_config": map[string]string{"owner": ""}, "currently_attached": false, "status_code": int64(0),
		"status_detail": "", "runtime_properties": map[string]string{}, "qos_algorithm_type": "",
		"qos_algorithm_params": map[string]string{}, "qos_supported_algorithms": []string{}, "metrics": nullRef,
	}
}

func (a Appliance) vdi() map[string]any {
	return map[string]any{
		"uuid": a.uuid(idVDI), "name_label": a.Disk.Name, "name_description": a.Disk.Description, "SR": idSR,
		"allowed_operations": []string{}, "current_operations": map[string]string{}, "VBDs": []string{idVBD},
		"crash_dumps": []string{}, "virtual_size": a.Disk.Size, "physical_utilisation": int64(0), "type": "user", "sharable": false,
		"read_only": false, "other_config": map[string]string{}, "storage_lock": false, "location": a.uuid(idVDI), "managed": true,
		"missing": false, "parent": nullRef, "xenstore_data": map[string]string{}, "sm_config": map[string]string{},
		"is_a_snapshot": false, "snapshot_of": nullRef, "snapshots": []string{}, "snapshot_time": never, "tags": []string{},
		"allow_caching": false, "on_boot": "persist", "metadata_of_pool": nullRef, "metadata_latest": false,
	}
}

// sr is only there for the VDI to refer to: where the disk goes is the importer's choice.
func (a Appliance) sr() map[string]any {
	return map[string]any{
		"uuid": a.uuid(idSR), "name_label": "", "name_description": "", "allowed_operations": []string{},
		"current_operations": map[string]string{}, "VDIs": []string{idVDI}, "PBDs": []string{}, "virtual_allocation": int64(0),
		"physical_utilisation": int64(0), "physical_size": int64(0), "type": "ext", "content_type": "user", "shared": false,
		"other_config": map[string]string{}, "tags": []string{}, "sm_config": map[string]string{}, "blobs": map[string]string{},
		"local_cache_enabled": false,
	}
}
