package xapisim

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// features are what a licence can restrict: the name that LICENCE_RESTRICTION tells, and the flag in pool.restrictions and
// host.license_params (xen-api ocaml/xapi-types/features.ml, transcripts). A flag that says "restrict_…" or the like is
// true when the feature is missing; the one that says "enable_…" when it is there.
var features = map[string]string{
	"VLAN": "restrict_vlan", "QoS": "restrict_qos", "Shared_storage": "restrict_pool_attached_storage",
	"Netapp": "restrict_netapp", "Equalogic": "restrict_equalogic", "Pooling": "restrict_pooling", "HA": "enable_xha",
	"Marathon": "restrict_marathon", "Email": "restrict_email_alerting", "Performance": "restrict_historical_performance",
	"WLB": "restrict_wlb", "RBAC": "restrict_rbac", "DMC": "restrict_dmc", "Checkpoint": "restrict_checkpoint",
	"CPU_masking": "restrict_cpu_masking", "Connection": "restrict_connection", "No_platform_filter": "platform_filter",
	"No_nag_dialog": "regular_nag_dialog", "VMPR": "restrict_vmpr", "VMSS": "restrict_vmss",
	"IntelliCache": "restrict_intellicache", "GPU": "restrict_gpu", "DR": "restrict_dr", "VIF_locking": "restrict_vif_locking",
	"Storage_motion": "restrict_storage_xen_motion", "VGPU": "restrict_vgpu",
	"Integrated_GPU": "restrict_integrated_gpu_passthrough", "VSS": "restrict_vss",
	"Guest_agent_auto_update":    "restrict_guest_agent_auto_update",
	"PCI_device_for_auto_update": "restrict_pci_device_for_auto_update", "Xen_motion": "restrict_xen_motion",
	"Guest_ip_setting": "restrict_guest_ip_setting", "AD": "restrict_ad", "Nested_virt": "restrict_nested_virt",
	"Live_patching": "restrict_live_patching", "Live_set_vcpus": "restrict_set_vcpus_number_live",
	"PVS_proxy": "restrict_pvs_proxy", "IGMP_snooping": "restrict_igmp_snooping", "RPU": "restrict_rpu",
	"Pool_size": "restrict_pool_size", "CBT": "restrict_cbt", "USB_passthrough": "restrict_usb_passthrough",
	"Network_sriov": "restrict_network_sriov", "Corosync": "restrict_corosync", "Cluster_address": "restrict_cluster_address",
	"Zstd_export": "restrict_zstd_export", "Pool_secret_rotation": "restrict_pool_secret_rotation",
	"Certificate_verification": "restrict_certificate_verification", "Updates": "restrict_updates",
	"Internal_repo_access": "restrict_internal_repo_access", "VTPM": "restrict_vtpm", "VM_groups": "restrict_vm_groups",
	"VM_start": "restrict_vm_start", "VM_appliance_start": "restrict_vm_appliance_start",
}

func positive(flag string) bool { return strings.HasPrefix(flag, "enable_") }

// Features lists the names of all licence features.
func Features() []string { return slices.Sorted(maps.Keys(features)) }

// Restrict takes another licence: one that lacks these features, by name ("CBT", "Checkpoint", "VM_start"), and has all
// others.
func (p *Pool) Restrict(missing ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.restrict(missing)
}

func (p *Pool) restrict(missing []string) error {
	for _, name := range missing {
		if features[name] == "" {
			return fmt.Errorf("xapisim: no licence feature %q: take a name from xen-api's features.ml, such as CBT", name)
		}
	}
	flags := map[string]string{}
	for name, flag := range features {
		flags[flag] = strconv.FormatBool(slices.Contains(missing, name) != positive(flag))
	}
	for _, pool := range p.db.all("pool") {
		p.db.set(pool, "restrictions", flags)
	}
	for _, h := range p.db.all("host") {
		p.db.set(h, "license_params", flags)
	}
	return nil
}

// licensed refuses what the pool's licence lacks (xapi-facts §6.8). Every gate on a licence goes through it.
func (p *Pool) licensed(feature string) error {
	flag := features[feature]
	for _, pool := range p.db.all("pool") {
		if value := pool.table("restrictions")[flag]; value != "" && (value == "true") != positive(flag) {
			return fail("LICENCE_RESTRICTION", feature)
		}
	}
	return nil
}
