package xapisim

var vmSuspendCalls = map[string]handler{
	"VM.suspend":    vmCall("suspend", (*call).suspend),
	"VM.resume":     func(c *call) (any, error) { return vmResume(c, "resume") },
	"VM.resume_on":  func(c *call) (any, error) { return vmResume(c, "resume_on") },
	"VM.checkpoint": vmCheckpoint,
}

// suspendSR is the SR that a VM's memory is saved to: its own, the pool's, or that of its host, the first that the host
// can reach (choose_suspend_sr in xen-api ocaml/xapi/helpers.ml).
func (p *Pool) suspendSR(vm *object) *object {
	host := vm.text("resident_on")
	candidates := []string{vm.text("suspend_SR"), p.db.all("pool")[0].text("suspend_image_SR")}
	if row := p.db.find("host", host); row != nil {
		candidates = append(candidates, row.text("suspend_image_sr"))
	}
	for _, ref := range candidates {
		if sr := p.db.find("SR", ref); sr != nil && p.plugged(sr, host) {
			return sr
		}
	}
	return nil
}

func (c *call) suspend(vm *object) error {
	if err := c.saveMemory(vm); err != nil {
		return err
	}
	c.vmMessage("VM_SUSPENDED", vm, "suspended")
	return nil
}

// saveMemory ends a domain and keeps its memory in a VDI. The built-in guest has no memory worth the name; the machine of a
// World has, and cannot be saved. A suspended VM's devices stay attached in the records (xapi_vm_lifecycle.ml).
func (c *call) saveMemory(vm *object) error {
	d := c.domains[vm.ref]
	if d == nil {
		return internal("no domain of VM " + vm.uuid())
	}
	if _, builtIn := d.guest.(*idleGuest); !builtIn {
		return fail("VM_NON_SUSPENDABLE", vm.ref, "the simulated pool cannot save a machine of its World")
	}
	sr := c.suspendSR(vm)
	if sr == nil {
		return fail("VM_NO_SUSPEND_SR", vm.ref)
	}
	size, err := roundSize(vm.integer("memory_static_max") + overhead(vm))
	if err != nil {
		return err
	}
	image, err := c.createVDI(sr, size, map[string]any{
		"name_label": "Suspend image", "name_description": "Suspend image", "type": "suspend",
	})
	if err != nil {
		return err
	}
	d.quiet = true
	if err := c.kill(d); err != nil {
		d.quiet = false
		_ = c.destroyVDI(image) // the first error is the one to tell
		return err
	}
	for field, value := range map[string]any{
		"suspend_VDI": image.ref, "domid": int64(-1), "resident_on": nullRef, "power_state": "Suspended",
	} {
		c.db.set(vm, field, value)
	}
	return nil
}

// suspendRecords writes that a copy, or a VM that was taken back to one, is suspended: its devices count as attached.
func (p *Pool) suspendRecords(vm *object) {
	p.db.set(vm, "power_state", "Suspended")
	for _, vbd := range p.db.refs(vm, "VBDs", "VBD") {
		p.db.set(vbd, "currently_attached", true)
	}
	for _, vif := range p.db.refs(vm, "VIFs", "VIF") {
		p.db.set(vif, "currently_attached", true)
	}
}

// vmCheckpoint is a snapshot with memory: a running VM is suspended for it and goes on where it was, on the same host
// (checkpoint in ocaml/xapi/xapi_vm_snapshot.ml). Of a halted or paused one it is a snapshot of the disks.
func vmCheckpoint(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	var made *object
	err = c.onVM(vm, "checkpoint", func() error {
		if err := c.licensed("Checkpoint"); err != nil {
			return err
		}
		host := c.db.find("host", vm.text("resident_on"))
		running, info := vm.text("power_state") == "Running", map[string]string{}
		if running {
			info = snapshotInfo(vm)
			if err := c.saveMemory(vm); err != nil {
				return err
			}
		}
		var failed error
		if made, failed = c.copyVM(vm, c.text(1), nil, "checkpoint", c.snapshotVDI); failed == nil {
			c.db.set(made, "snapshot_info", info)
			c.db.set(vm, "parent", made.ref)
		}
		if running {
			if err := c.build(vm, host, false); err != nil {
				return err
			}
			if err := c.dropSuspended(vm); err != nil {
				return err
			}
		}
		return failed
	})
	if err != nil {
		return nil, err
	}
	c.vmMessage("VM_CHECKPOINTED", vm, "checkpointed, snapshot name: "+c.text(1))
	return made.ref, nil
}

func vmResume(c *call, operation string) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	var host *object
	paused := c.boolean(1)
	if operation == "resume_on" {
		if host, err = c.object(1); err != nil {
			return nil, err
		}
		paused = c.boolean(2)
	}
	return nil, c.onVM(vm, operation, func() error {
		if host == nil {
			if host = c.chooseHost(vm); host == nil {
				return fail("NO_HOSTS_AVAILABLE")
			}
		} else if err := c.canBootHere(vm, host); err != nil {
			return err
		}
		if err := c.build(vm, host, paused); err != nil {
			return err
		}
		c.vmMessage("VM_RESUMED", vm, c.onHost("resumed", host))
		return c.dropSuspended(vm)
	})
}

// dropSuspended destroys what is kept of a suspended VM's memory.
func (c *call) dropSuspended(vm *object) error {
	image := c.db.find("VDI", vm.text("suspend_VDI"))
	c.db.set(vm, "suspend_VDI", nullRef)
	if image == nil {
		return nil
	}
	return c.destroyVDI(image)
}
