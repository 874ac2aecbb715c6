package xapisim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// migrateCalls move running VMs between the hosts of a pool (xapi-facts §6.2; xen-api ocaml/xapi/xapi_vm_migrate.ml,
// pool_migrate, and ocaml/xapi/xapi_host.ml, compute_evacuation_plan_no_wlb).
var migrateCalls = map[string]handler{
	"VM.pool_migrate": poolMigrate,
	"host.evacuate": hostCall(func(c *call, h *object) (any, error) {
		plan, stuck := c.evacuation(h)
		for _, vm := range stuck {
			return nil, vm.err
		}
		for _, step := range plan {
			if err := c.migrate(step.vm, step.to); err != nil && !isCode(err, "VM_BAD_POWER_STATE") {
				return nil, err
			}
		}
		return nil, nil
	}),
	"host.get_vms_which_prevent_evacuation": hostCall(func(c *call, h *object) (any, error) {
		_, stuck := c.evacuation(h)
		out := map[string]any{}
		for _, vm := range stuck {
			e := asError(vm.err)
			out[vm.vm.ref] = append([]string{e.Code}, e.Params...)
		}
		return out, nil
	}),
	"host.assert_can_evacuate": hostCall(func(c *call, h *object) (any, error) {
		var texts []string
		_, stuck := c.evacuation(h)
		for _, vm := range stuck {
			e := asError(vm.err)
			texts = append(texts, strings.Join(append([]string{e.Code}, e.Params...), ","))
		}
		if texts != nil {
			return nil, fail("CANNOT_EVACUATE_HOST", strings.Join(texts, "|"))
		}
		return nil, nil
	}),
}

func poolMigrate(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	host, err := c.object(1)
	if err != nil {
		return nil, err
	}
	return nil, c.migrate(vm, host)
}

// migrate moves a running VM to a host that could start it, or to the one where it is. Its guest goes on as it was: here it
// does not run on a host but in a World, so that only the domain's number and the records change.
func (c *call) migrate(vm, host *object) error {
	return c.onVM(vm, "pool_migrate", func() error {
		if err := c.canBootHere(vm, host); err != nil {
			return err
		}
		if err := c.licensed("Xen_motion"); err != nil {
			return err
		}
		from := c.db.find("host", vm.text("resident_on"))
		if err := errors.Join(c.reach(from.ref), c.reach(host.ref)); err != nil {
			return err
		}
		c.domainID++
		c.db.set(vm, "domid", c.domainID)
		c.db.set(vm, "resident_on", host.ref)
		c.vmMessage("VM_MIGRATED", vm, fmt.Sprintf("migrated from host '%s' (uuid: %s) to host '%s' (uuid: %s)",
			from.text("name_label"), from.uuid(), host.text("name_label"), host.uuid()))
		return nil
	})
}

type (
	evacuee struct{ vm, to *object }
	stayer  struct {
		vm  *object
		err error
	}
)

// evacuation plans where the VMs of a host go, the biggest first, and tells why others must stay.
func (p *Pool) evacuation(h *object) (plan []evacuee, stuck []stayer) {
	vms := slices.DeleteFunc(p.db.refs(h, "resident_VMs", "VM"), func(vm *object) bool { return vm.boolean("is_control_domain") })
	slices.SortStableFunc(vms, func(a, b *object) int { return int((need(b) - need(a)) >> 20) })
	targets := slices.DeleteFunc(p.db.all("host"), func(other *object) bool { return other == h || !other.boolean("enabled") })
	free := map[*object]int64{}
	for _, target := range targets {
		free[target] = p.freeMemory(target)
	}
	for _, vm := range vms {
		to, err := p.refuge(vm, targets, free)
		if err != nil {
			stuck = append(stuck, stayer{vm, err})
			continue
		}
		free[to] -= need(vm)
		plan = append(plan, evacuee{vm, to})
	}
	return plan, stuck
}

func need(vm *object) int64 { return vm.integer("memory_static_max") + overhead(vm) }

// refuge finds a host with room for a VM. Every host must be able to take it, but for its memory.
func (p *Pool) refuge(vm *object, targets []*object, free map[*object]int64) (*object, error) {
	if len(targets) == 0 {
		return nil, fail("NO_HOSTS_AVAILABLE", vm.ref)
	}
	if err := p.gateVM(vm, "pool_migrate"); err != nil {
		return nil, err
	}
	var roomiest *object
	for _, target := range targets {
		if err := p.canBootHere(vm, target); err != nil && !isCode(err, "HOST_NOT_ENOUGH_FREE_MEMORY") {
			return nil, err
		}
		if roomiest == nil || free[target] > free[roomiest] {
			roomiest = target
		}
	}
	if free[roomiest] < need(vm) {
		return nil, fail("HOST_NOT_ENOUGH_FREE_MEMORY", vm.ref)
	}
	return roomiest, nil
}
