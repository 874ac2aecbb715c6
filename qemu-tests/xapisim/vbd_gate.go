package xapisim

import "strings"

// vbdGate is the check before an operation on a VBD, in the order of xapi (ocaml/xapi/xapi_vbd_helpers.ml,
// valid_operations). allowed_operations are what passes it; the sharing rule is left to the calls, as in xapi.
func (p *Pool) vbdGate(vbd *object, operation string) error {
	vm := p.db.find("VM", vbd.text("VM"))
	if vm == nil {
		return fail("HANDLE_INVALID", "VM", vbd.text("VM"))
	}
	if err := busy(vbd); err != nil {
		return err
	}
	cd := vbd.text("type") == "CD"
	state := vm.text("power_state")
	switch operation {
	case "unplug", "unplug_force":
		if !vbd.boolean("unpluggable") {
			return fail("VBD_NOT_UNPLUGGABLE", vbd.ref)
		}
	case "insert", "eject":
		switch {
		case !cd:
			return fail("VBD_NOT_REMOVABLE_MEDIA", vbd.ref)
		case operation == "eject" && vbd.boolean("empty"):
			return fail("VBD_IS_EMPTY", vbd.ref)
		case operation == "insert" && !vbd.boolean("empty"):
			return fail("VBD_NOT_EMPTY", vbd.ref)
		case state == "Suspended":
			return fail("VM_BAD_POWER_STATE", vm.ref, "halted, running", "suspended")
		}
	case "pause", "unpause":
		if state != "Running" && state != "Paused" {
			return running(vm)
		}
	}
	if operation == "plug" || strings.HasPrefix(operation, "unplug") {
		if err := p.hotplugGate(vbd, vm, operation); err != nil {
			return err
		}
	}
	return p.mediumGate(vbd, operation)
}

// hotplugGate is the part of the gate that asks whether the guest can take or give back a disk now.
func (p *Pool) hotplugGate(vbd, vm *object, operation string) error {
	if err := reachable(vm, vbd, operation == "plug"); err != nil {
		return err
	}
	if operation != "unplug_force" {
		if err := leaving(vm); err != nil {
			return err
		}
	}
	if err := p.hotpluggable(vm, "vbd"); err != nil {
		return err
	}
	if vm.text("domain_type") == "hvm" && vbd.text("type") == "CD" {
		return fail("OPERATION_NOT_ALLOWED", "HVM CDROMs cannot be hotplugged/unplugged, only inserted or ejected")
	}
	return nil
}

// reachable refuses a plug or an unplug of a device whose VM does not run, or which is in the wanted state already.
func reachable(vm, device *object, plug bool) error {
	if err := running(vm); err != nil {
		return err
	}
	switch attached := device.boolean("currently_attached"); {
	case attached && plug:
		return fail("DEVICE_ALREADY_ATTACHED", device.ref)
	case !attached && !plug:
		return fail("DEVICE_ALREADY_DETACHED", device.ref)
	}
	return nil
}

// leaving refuses hot-plugging while the VM is going down.
func leaving(vm *object) error {
	for _, going := range operationsOf(vm) {
		switch going {
		case "clean_shutdown", "hard_shutdown", "suspend", "pause":
			return fail("OPERATION_NOT_ALLOWED", "Current operation on VM:"+vm.ref+" is "+going)
		}
	}
	return nil
}

// mediumGate is the part of the gate that looks at the disk.
func (p *Pool) mediumGate(vbd *object, operation string) error {
	vdi := p.db.find("VDI", vbd.text("VDI"))
	if vbd.boolean("empty") || vdi == nil {
		return nil
	}
	if !vdi.boolean("managed") {
		return fail("VDI_NOT_MANAGED", vbd.ref)
	}
	if operation != "attach" && operation != "plug" && operation != "insert" {
		return nil
	}
	return busy(vdi, "copy", "mirror")
}

// vbdOperations are those of the data model, in the order in which xapi lists them.
var vbdOperations = []string{"attach", "eject", "unplug", "unplug_force", "insert", "plug", "pause", "unpause"}

func vbdAllowed(p *Pool, vbd *object) any {
	out := []string{}
	for _, operation := range vbdOperations {
		if err := p.vbdGate(vbd, operation); err == nil {
			out = append(out, operation)
		}
	}
	return out
}
