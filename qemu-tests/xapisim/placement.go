package xapisim

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// canBootHere checks a host for a VM, in xapi's order (xapi-facts §6.3, assert_can_boot_here in xen-api
// ocaml/xapi/xapi_vm_helpers.ml). CPU features, IOMMU, GPUs and SR-IOV are not simulated.
func (p *Pool) canBootHere(vm, host *object) error {
	for _, check := range []func(vm, host *object) error{
		checkParameters, p.checkLive, p.checkHardware, p.checkSRs, p.checkNetworks, checkHVM, p.checkMemory, checkCPUs,
	} {
		if err := check(vm, host); err != nil {
			return err
		}
	}
	return nil
}

func checkParameters(vm, _ *object) error {
	most, first := vm.integer("VCPUs_max"), vm.integer("VCPUs_at_startup")
	switch multiplier, _ := vm.values["HVM_shadow_multiplier"].(float64); {
	case most < 1:
		return fail("INVALID_VALUE", "VCPUs_max", strconv.FormatInt(most, 10))
	case first < 1:
		return fail("INVALID_VALUE", "VCPUs-at-startup", strconv.FormatInt(first, 10))
	case first > most:
		return fail("VALUE_NOT_SUPPORTED", "VCPUs-at-startup", strconv.FormatInt(first, 10), "value greater than VCPUs-max")
	case vm.integer("memory_static_min") > vm.integer("memory_static_max"):
		return fail("MEMORY_CONSTRAINT_VIOLATION")
	case multiplier < 1:
		return fail("INVALID_VALUE", "HVM_shadow_multiplier", fmt.Sprintf("%g.", multiplier))
	}
	return nil
}

func (p *Pool) checkLive(_, host *object) error {
	if metrics := p.db.find("host_metrics", host.text("metrics")); metrics == nil || !metrics.boolean("live") {
		return fail("HOST_NOT_LIVE")
	}
	if !host.boolean("enabled") {
		return fail("HOST_DISABLED", host.ref)
	}
	return nil
}

func (p *Pool) checkHardware(vm, host *object) error {
	var offered []string
	items, _ := host.values["virtual_hardware_platform_versions"].([]any)
	for _, item := range items {
		offered = append(offered, fmt.Sprint(item))
	}
	wanted := strconv.FormatInt(vm.integer("hardware_platform_version"), 10)
	if !slices.Contains(offered, wanted) {
		return fail("VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION",
			host.ref, "["+strings.Join(offered, "; ")+"]", vm.ref, wanted)
	}
	return nil
}

func (p *Pool) checkSRs(vm, host *object) error {
	for _, vbd := range p.db.refs(vm, "VBDs", "VBD") {
		if vdi := p.db.find("VDI", vbd.text("VDI")); vdi != nil {
			if sr := p.db.find("SR", vdi.text("SR")); sr == nil || !p.plugged(sr, host.ref) {
				return fail("VM_REQUIRES_SR", vm.ref, vdi.text("SR"))
			}
		}
	}
	return nil
}

func (p *Pool) checkNetworks(vm, host *object) error {
	for _, vif := range p.db.refs(vm, "VIFs", "VIF") {
		network := p.db.find("network", vif.text("network"))
		if network == nil || !p.networkOn(network, host) {
			return fail("VM_REQUIRES_NETWORK", vm.ref, vif.text("network"))
		}
	}
	return nil
}

func checkHVM(vm, host *object) error {
	offered := slices.ContainsFunc(host.list("capabilities"), func(c string) bool { return strings.HasPrefix(c, "hvm-") })
	if vm.text("domain_type") != "pv" && !offered {
		return fail("VM_HVM_REQUIRED", vm.ref)
	}
	return nil
}

// checkMemory wants room for the least that the VM may be given, or for all of it where no such limit is set.
func (p *Pool) checkMemory(vm, host *object) error {
	least := cmp.Or(vm.integer("memory_dynamic_min"), vm.integer("memory_static_max"))
	need, free := least+overhead(vm), p.freeMemory(host)
	if need > free {
		return fail("HOST_NOT_ENOUGH_FREE_MEMORY", strconv.FormatInt(need, 10), strconv.FormatInt(free, 10))
	}
	return nil
}

func checkCPUs(vm, host *object) error {
	most := vm.integer("VCPUs_max")
	count, err := strconv.ParseInt(host.table("cpu_info")["cpu_count"], 10, 64)
	if err == nil && most > count && vm.table("platform")["vcpu-unrestricted"] != "true" {
		return fail("HOST_NOT_ENOUGH_PCPUS", strconv.FormatInt(most, 10), strconv.FormatInt(count, 10))
	}
	return nil
}

// networkOn tells whether a network can be attached on a host: through a PIF there, or because it is internal.
func (p *Pool) networkOn(network, host *object) bool {
	pifs := p.db.refs(network, "PIFs", "PIF")
	return len(pifs) == 0 || slices.ContainsFunc(pifs, func(pif *object) bool { return pif.text("host") == host.ref })
}

// pinned refuses memory that may vary where the licence lacks dynamic memory control (xapi-facts §6.3).
func (p *Pool) pinned(vm *object) error {
	most := vm.integer("memory_static_max")
	if p.licensed("DMC") != nil && (vm.integer("memory_dynamic_min") != most || vm.integer("memory_dynamic_max") != most) {
		return fail("MEMORY_CONSTRAINT_VIOLATION_MAXPIN")
	}
	return nil
}

// chooseHost prefers the VM's affinity, then the host with the most free memory; nil when none will do.
func (p *Pool) chooseHost(vm *object) *object {
	hosts := slices.DeleteFunc(p.db.all("host"), func(h *object) bool { return p.canBootHere(vm, h) != nil })
	slices.SortStableFunc(hosts, func(a, b *object) int {
		switch affinity := vm.text("affinity"); affinity {
		case a.ref:
			return -1
		case b.ref:
			return 1
		}
		return int((p.freeMemory(b) - p.freeMemory(a)) >> 20)
	})
	if len(hosts) == 0 {
		return nil
	}
	return hosts[0]
}

func assertCanBootHere(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	host, err := c.object(1)
	if err != nil {
		return nil, err
	}
	return nil, c.canBootHere(vm, host)
}

func possibleHosts(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	return references(slices.DeleteFunc(c.db.all("host"), func(h *object) bool { return c.canBootHere(vm, h) != nil })), nil
}
