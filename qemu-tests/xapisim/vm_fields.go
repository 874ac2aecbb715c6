package xapisim

import (
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// plainSetters are the messages of the data model that are no generated accessors but act like them (xapi-facts §5.1).
var plainSetters = map[string]bool{
	"VM.set_other_config": true, "VM.add_to_other_config": true, "VM.remove_from_other_config": true,
	"VM.set_platform": true, "VM.add_to_platform": true, "VM.remove_from_platform": true,
	"VM.set_blocked_operations": true, "VM.add_to_blocked_operations": true, "VM.remove_from_blocked_operations": true,
	"VM.set_actions_after_crash": true, "VM.set_ha_restart_priority": true, "VM.set_order": true,
	"VM.set_start_delay": true, "VM.set_shutdown_delay": true, "VM.set_suspend_VDI": true, "VM.set_appliance": true,
	"VM.set_HVM_shadow_multiplier": true,
	"VDI.set_name_label":           true, "VDI.set_name_description": true, "VDI.set_allow_caching": true,
	"SR.set_name_label": true, "SR.set_name_description": true, "SR.set_shared": true,
	"network.set_default_locking_mode": true,
}

// vmFieldCalls are setters of VM fields that have conditions.
var vmFieldCalls = map[string]handler{
	"VM.set_domain_type":          setDomainType,
	"VM.set_HVM_boot_policy":      setBootPolicy,
	"VM.set_NVRAM":                gated("changing_NVRAM", "NVRAM", setter),
	"VM.add_to_NVRAM":             gated("changing_NVRAM", "NVRAM", adder),
	"VM.remove_from_NVRAM":        gated("changing_NVRAM", "NVRAM", remover),
	"VM.set_has_vendor_device":    gated("changing_VCPUs", "has_vendor_device", setter),
	"VM.set_VCPUs_max":            vmCall("changing_VCPUs", func(c *call, vm *object) error { return c.setVCPUs(vm, "VCPUs_max") }),
	"VM.set_VCPUs_at_startup":     vmCall("changing_VCPUs", func(c *call, vm *object) error { return c.setVCPUs(vm, "VCPUs_at_startup") }),
	"VM.set_memory_limits":        memorySetter("changing_memory_limits", "memory_static_min", "memory_static_max", "memory_dynamic_min", "memory_dynamic_max"),
	"VM.set_memory_static_range":  memorySetter("changing_static_range", "memory_static_min", "memory_static_max"),
	"VM.set_memory_dynamic_range": memorySetter("changing_dynamic_range", "memory_dynamic_min", "memory_dynamic_max"),
	"VM.set_memory_static_min":    memorySetter("changing_static_range", "memory_static_min"),
	"VM.set_memory_static_max":    memorySetter("changing_static_range", "memory_static_max"),
	"VM.set_memory_dynamic_min":   memorySetter("changing_dynamic_range", "memory_dynamic_min"),
	"VM.set_memory_dynamic_max":   memorySetter("changing_dynamic_range", "memory_dynamic_max"),
	"VM.set_memory":               vmCall("changing_memory_limits", func(c *call, vm *object) error { return c.setMemory(vm, c.integer(1)) }),
	"VM.set_xenstore_data":        setXenStoreData,
}

// setXenStoreData replaces the map and, while the VM runs, rewrites the guest's vm-data tree (xapi-facts §7.2).
func setXenStoreData(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	c.db.set(vm, "xenstore_data", c.table(1))
	d := c.domains[vm.ref]
	if d == nil {
		return nil, nil
	}
	d.frozen = true
	return nil, d.guest.SetData(forGuest(c.table(1)))
}

func setDomainType(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	if c.text(1) == "unspecified" {
		return nil, fail("INVALID_VALUE", "domain_type", "unspecified")
	}
	policy := ""
	if c.text(1) == "hvm" {
		policy = "BIOS order"
	}
	c.db.set(vm, "domain_type", c.text(1))
	c.db.set(vm, "HVM_boot_policy", policy)
	return nil, nil
}

func setBootPolicy(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	domainType := "hvm"
	if c.text(1) == "" {
		domainType = "pv"
	}
	c.db.set(vm, "domain_type", domainType)
	c.db.set(vm, "HVM_boot_policy", c.text(1))
	return nil, nil
}

func (c *call) setVCPUs(vm *object, field string) error {
	values := map[string]int64{"VCPUs_max": vm.integer("VCPUs_max"), "VCPUs_at_startup": vm.integer("VCPUs_at_startup")}
	values[field] = c.integer(1)
	if values["VCPUs_at_startup"] < 1 || values["VCPUs_at_startup"] > values["VCPUs_max"] {
		return fail("INVALID_VALUE", "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max", fmt.Sprint(c.integer(1)))
	}
	c.db.set(vm, field, c.integer(1))
	return nil
}

// memorySetter sets limits in the order of the arguments and keeps their order static_min ≤ dynamic_min ≤ dynamic_max ≤
// static_max (xapi-facts §6.3).
func memorySetter(operation string, fields ...string) handler {
	return vmCall(operation, func(c *call, vm *object) error {
		limits := map[string]int64{}
		for _, field := range []string{"memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max"} {
			limits[field] = vm.integer(field)
		}
		for n, field := range fields {
			limits[field] = c.integer(n + 1)
		}
		if limits["memory_static_min"] > limits["memory_dynamic_min"] || limits["memory_dynamic_min"] > limits["memory_dynamic_max"] ||
			limits["memory_dynamic_max"] > limits["memory_static_max"] {
			return fail("MEMORY_CONSTRAINT_VIOLATION_ORDER")
		}
		for field, value := range limits {
			c.db.set(vm, field, value)
		}
		return nil
	})
}

func (c *call) setMemory(vm *object, value int64) error {
	for _, field := range []string{"memory_static_max", "memory_dynamic_max", "memory_dynamic_min"} {
		c.db.set(vm, field, value)
	}
	c.db.set(vm, "memory_static_min", min(value, vm.integer("memory_static_min")))
	return nil
}

// gated puts an accessor of a VM field behind the gate of an operation.
func gated(operation, field string, access func(*datamodel.Field) handler) handler {
	return vmCall(operation, func(c *call, vm *object) error {
		_, err := access(vm.class.Field(field))(c)
		return err
	})
}

// forGuest is the part of xenstore_data that is written for the guest: all other keys are dropped (xapi-facts §7.1).
func forGuest(data map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range data {
		if strings.HasPrefix(key, "vm-data/") {
			out[key] = value
		}
	}
	return out
}
