package xapisim

var vmRebootCalls = map[string]handler{
	"VM.clean_reboot": vmCall("clean_reboot", func(c *call, vm *object) error { return c.reboot(vm, (*call).askToEnd, "cleanly") }),
	"VM.hard_reboot": vmCall("hard_reboot", func(c *call, vm *object) error {
		return c.reboot(vm, func(c *call, d *domain) error { return c.kill(d) }, "forcibly")
	}),
	"VM.power_state_reset": func(c *call) (any, error) {
		vm, err := c.object(0)
		if err != nil {
			return nil, err
		}
		return nil, c.resetPowerState(vm)
	},
	"VM.assert_operation_valid": func(c *call) (any, error) {
		vm, err := c.object(0)
		if err != nil {
			return nil, err
		}
		return nil, c.gateVM(vm, c.text(1))
	},
}

// reboot ends a VM's domain and builds another on the same host. The records say Running all the time; only domid, the
// start time and the guest metrics are new.
func (c *call) reboot(vm *object, end func(*call, *domain) error, how string) error {
	d := c.domains[vm.ref]
	host := c.db.find("host", vm.text("resident_on"))
	if d == nil || host == nil {
		return internal("no domain of VM " + vm.uuid())
	}
	d.quiet = true
	if err := end(c, d); err != nil {
		d.quiet = false
		return err
	}
	if vm.text("power_state") == "Halted" { // it had ended before it was asked, or its host has
		return fail("VM_BAD_POWER_STATE", vm.ref, "running", "halted")
	}
	if err := c.build(vm, host, vm.text("power_state") == "Paused"); err != nil {
		c.haltRecords(vm)
		return err
	}
	c.vmMessage("VM_REBOOTED", vm, "rebooted "+how)
	return nil
}

// resetPowerState makes the records say Halted, for a VM whose host is gone. One that may still run is refused
// (xen-api ocaml/xapi/xapi_vm.ml).
func (c *call) resetPowerState(vm *object) error {
	if vm.boolean("is_control_domain") {
		return fail("CANNOT_RESET_CONTROL_DOMAIN", vm.ref)
	}
	if state := vm.text("power_state"); state == "Running" || state == "Paused" {
		host := c.hostOf(vm.text("resident_on"))
		switch {
		case host == c.coordinator && c.domains[vm.ref] != nil:
			return fail("DOMAIN_EXISTS", vm.ref)
		case host != nil && host != c.coordinator && host.state != hostDown:
			return fail("HOST_IS_LIVE", host.ref)
		}
	}
	c.haltRecords(vm)
	return nil
}
