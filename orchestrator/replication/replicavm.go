package replication

import (
	"context"
	"fmt"
	"strconv"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// carriedOver are the keys of other_config that describe the guest. All others say how somebody's tools treat the VM: start it
// with its host, back it up, pass a device through.
var carriedOver = []string{"base_template_name", "linux_template", "install-methods", "install-distro", "install-arch"}

// makeReplica makes the replica VM: the source's machine without its disks, start blocked, out of the reach of HA and of other
// backup tools. It inherits no vm-data, since that is the source's.
func (r *run) makeReplica(ctx context.Context) error {
	api := r.target.API
	marker := replica.Marker{Kind: replica.KindReplica, Source: r.vm.UUID, Installation: r.store.Installation().UUID, Run: r.id}
	ref, object, err := create(ctx, r.saga, creation{
		pool: r.target, class: classVM, kind: replica.KindReplica, origin: r.vm.UUID,
		call: func(ctx context.Context, name string, creating maker) (xapi.Ref, error) {
			return creating(ctx, "VM.create", r.replicaRecord(name, marker))
		},
	})
	if err != nil {
		return err
	}
	r.standbyRef, r.standbyUUID = ref, object.UUID
	r.made = append(r.made, object)
	marker.Self = object.UUID
	if err := r.mark(ctx, api, classVM, ref, marker); err != nil {
		return err
	}
	guarded, err := r.tenure.take(ctx, leased{replica: r.record.ID, pool: r.target, vm: ref}, r.report.event)
	if err != nil {
		return err
	}
	r.target, api = guarded, guarded.API
	if err := setField(ctx, api, classVM, ref, "blocked_operations", replica.BlockedOperations(manifest.State{})); err != nil {
		return err
	}
	for _, v := range r.mapVIFs() {
		if v.network.IsNull() {
			continue // the plan's findings tell
		}
		if err := r.makeVIF(ctx, v, r.wantedMAC(v)); err != nil {
			return err
		}
	}
	if err := r.store.SetTargetVM(ctx, r.record.ID, object.UUID); err != nil {
		return err
	}
	return setField(ctx, api, classVM, ref, "name_label", r.plan.Replica.Name)
}

// replicaRecord is the argument of VM.create (xapi-facts §5.2).
func (r *run) replicaRecord(name string, marker replica.Marker) map[string]any {
	vm := r.vm.VM
	otherConfig, tags := marker.OtherConfig(), replica.Tags(vm.Tags)
	otherConfig[replica.KeyCarriedTags] = replica.CarriedTags(tags)
	for _, key := range carriedOver {
		if value, ok := vm.OtherConfig[key]; ok {
			otherConfig[key] = value
		}
	}
	record := map[string]any{
		"name_label": name, "name_description": r.description(), "user_version": vm.UserVersion,
		"is_a_template": false, "affinity": xapi.NullRef, "tags": tags,
		"memory_static_max": vm.MemoryStaticMax, "memory_static_min": vm.MemoryStaticMin,
		"memory_dynamic_max": vm.MemoryDynamicMax, "memory_dynamic_min": vm.MemoryDynamicMin,
		"VCPUs_params": filled(vm.VCPUsParams), "VCPUs_max": vm.VCPUsMax, "VCPUs_at_startup": vm.VCPUsAtStartup,
		"actions_after_shutdown": vm.ActionsAfterShutdown, "actions_after_reboot": vm.ActionsAfterReboot,
		"actions_after_crash": vm.ActionsAfterCrash,
		"PV_bootloader":       vm.PVBootloader, "PV_bootloader_args": vm.PVBootloaderArgs, "PV_kernel": vm.PVKernel,
		"PV_ramdisk": vm.PVRamdisk, "PV_args": vm.PVArgs, "PV_legacy_args": vm.PVLegacyArgs,
		"HVM_boot_policy": vm.HVMBootPolicy, "HVM_boot_params": filled(vm.HVMBootParams), "platform": filled(vm.Platform),
		"PCI_bus": "", "other_config": otherConfig, "recommendations": vm.Recommendations, "xenstore_data": map[string]string{},
		"has_vendor_device": vm.HasVendorDevice, "NVRAM": filled(vm.NVRAM), "generation_id": vm.GenerationID,
		"hardware_platform_version": vm.HardwarePlatformVersion,
	}
	if vm.DomainType != "" { // hosts before 7.5 have none
		record["domain_type"] = vm.DomainType
	}
	if vm.HVMShadowMultiplier != 0 {
		record["HVM_shadow_multiplier"] = xapi.Float(vm.HVMShadowMultiplier)
	}
	return record
}

// filled is the map, never nil: the API knows no null.
func filled(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// attach joins a disk with the replica VM, at the position of the source's disk.
func (r *run) attach(ctx context.Context, d *diskRun, source inventory.Disk) error {
	_, err := xapi.MakeVBD(ctx, r.target.API, map[string]any{
		"VM": r.standbyRef, "VDI": d.vdi, "userdevice": strconv.Itoa(source.Number), "bootable": source.VBD.Bootable,
		"mode": xapi.ModeRW, "type": xapi.TypeDisk, "empty": false, "unpluggable": true,
		"other_config":       map[string]string{"owner": ""}, // the disk goes with the VM (xapi-facts §6.3)
		"qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	})
	if err != nil {
		return fmt.Errorf("disk %s of the replica: %w", d.plan.Disk, err)
	}
	return nil
}
