package xapisim

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
)

var vbdCalls = map[string]handler{
	"VBD.create":  vbdCreate,
	"VBD.destroy": vbdDestroy,
	"VBD.plug":    vbdPlug,
	"VBD.unplug":  func(c *call) (any, error) { return vbdUnplug(c, "unplug") },
	// The back end is torn down without the guest's consent (xapi-facts §6.4). The guest is told, and what it says of it
	// does not matter.
	"VBD.unplug_force": func(c *call) (any, error) { return vbdUnplug(c, "unplug_force") },
	"VBD.set_mode": func(c *call) (any, error) {
		vbd, vm, err := c.vbdAndVM()
		if err != nil {
			return nil, err
		}
		if state := vm.text("power_state"); state != "Halted" {
			return nil, fail("VM_BAD_POWER_STATE", vm.ref, "halted", strings.ToLower(state))
		}
		c.db.set(vbd, "mode", c.text(1))
		return nil, nil
	},
}

func vbdCreate(c *call) (any, error) {
	values := c.record(0)
	vm, err := c.db.get("VM", asText(values["VM"]))
	if err != nil {
		return nil, err
	}
	empty, _ := values["empty"].(bool)
	cd, mode := values["type"] == "CD", asText(values["mode"])
	var vdi *object
	if !empty {
		if vdi, err = c.db.get("VDI", asText(values["VDI"])); err != nil {
			return nil, err
		}
	}
	switch {
	case empty && !cd:
		return nil, fail("VBD_NOT_REMOVABLE_MEDIA", "in constructor")
	case vdi != nil && vdi.text("type") == "cbt_metadata":
		return nil, fail("VDI_INCOMPATIBLE_TYPE", vdi.ref, "cbt_metadata")
	case cd && mode != "RO":
		return nil, fail("VBD_CDS_MUST_BE_READONLY")
	case vdi != nil && mode == "RW" && vdi.boolean("read_only"):
		return nil, fail("VDI_READONLY", vdi.ref)
	}
	free := c.freeNumbers(vm, "VBDs", "VBD", "userdevice", 255)
	device := asText(values["userdevice"])
	if device == "autodetect" && len(free) > 0 {
		device = free[0]
	}
	if n, err := strconv.ParseUint(device, 10, 8); err != nil || n > 254 {
		return nil, fail("INVALID_DEVICE", device)
	}
	if !slices.Contains(free, device) {
		return nil, fail("DEVICE_ALREADY_EXISTS", device)
	}
	values["userdevice"], values["device"], values["currently_attached"] = device, "", false
	if empty {
		values["VDI"] = nullRef
	}
	return c.db.insert("VBD", values).ref, nil
}

// freeNumbers lists the positions of a VM that no device takes.
func (p *Pool) freeNumbers(vm *object, field, class, number string, limit int) []string {
	taken := map[string]bool{}
	for _, device := range p.db.refs(vm, field, class) {
		taken[device.text(number)] = true
	}
	out := []string{}
	for n := range limit {
		if text := strconv.Itoa(n); !taken[text] {
			out = append(out, text)
		}
	}
	return out
}

// sortedVBDs gives a VM's VBDs by position.
func (p *Pool) sortedVBDs(vm *object) []*object {
	vbds := p.db.refs(vm, "VBDs", "VBD")
	slices.SortFunc(vbds, func(a, b *object) int {
		x, _ := strconv.Atoi(a.text("userdevice"))
		y, _ := strconv.Atoi(b.text("userdevice"))
		return x - y
	})
	return vbds
}

// deviceName is the Linux name of a position: xvda, …, xvdz, xvdaa, … (xapi-facts §8.1).
func deviceName(userdevice string) string {
	n, err := strconv.Atoi(userdevice)
	if err != nil {
		return ""
	}
	letters := ""
	for n++; n > 0; n = (n - 1) / 26 {
		letters = string(rune('a'+(n-1)%26)) + letters
	}
	return "xvd" + letters
}

func vbdDestroy(c *call) (any, error) {
	vbd, vm, err := c.vbdAndVM()
	if err != nil {
		return nil, err
	}
	if vbd.boolean("currently_attached") {
		return nil, fail("OPERATION_NOT_ALLOWED", "VBD '"+vbd.uuid()+"' still attached to '"+vm.uuid()+"'")
	}
	if err := c.admit(func() error { return busy(vbd) }); err != nil {
		return nil, err
	}
	c.db.remove(vbd)
	return nil, nil
}

func (c *call) vbdAndVM() (vbd, vm *object, err error) {
	if vbd, err = c.object(0); err != nil {
		return nil, nil, err
	}
	vm, err = c.db.get("VM", vbd.text("VM"))
	return vbd, vm, err
}

// canShare is the sharing rule: one writer, or any number of readers (xapi-facts §6.4).
func (p *Pool) canShare(vbd, vdi *object) error {
	if vbd.text("mode") == "RW" && vdi.boolean("read_only") {
		return fail("VDI_READONLY", vdi.ref)
	}
	if vdi.boolean("sharable") {
		return nil
	}
	for _, other := range p.attachments(vdi) {
		if holder := p.db.find("VM", other.text("VM")); holder == nil || holder.text("power_state") == "Suspended" {
			continue // it does not count; what dom0 holds the storage driver refuses
		}
		if other != vbd && (other.text("mode") == "RW" || vbd.text("mode") == "RW") {
			return fail("VDI_IN_USE", vdi.ref)
		}
	}
	return nil
}

func running(vm *object) error {
	if state := vm.text("power_state"); state != "Running" {
		return fail("VM_BAD_POWER_STATE", vm.ref, "running", strings.ToLower(state))
	}
	return nil
}

// hotpluggable wants evidence of PV drivers in an HVM guest (xapi-facts §7.5). device is "vbd" or "vif".
func (p *Pool) hotpluggable(vm *object, device string) error {
	if vm.text("domain_type") != "hvm" {
		return nil
	}
	metrics := p.db.find("VM_guest_metrics", vm.text("guest_metrics"))
	if metrics == nil {
		return fail("VM_MISSING_PV_DRIVERS", vm.ref)
	}
	version := metrics.table("PV_drivers_version")
	switch state := metrics.text("can_use_hotplug_" + device); {
	case state == "no":
		return fail("OPERATION_NOT_ALLOWED", "VM states it does not support "+strings.ToUpper(device)+" hotplug.")
	case state == "yes", metrics.boolean("PV_drivers_detected"), version["major"] != "" && version["minor"] != "":
		return nil
	}
	return fail("VM_MISSING_PV_DRIVERS", vm.ref)
}

// gatePlug is the check before a plug, in xapi's order (xapi-facts §6.4).
func (c *call) gatePlug(vbd, vm *object) error {
	if err := errors.Join(alive(vbd), alive(vm)); err != nil {
		return err
	}
	if err := c.vbdGate(vbd, "plug"); err != nil {
		return err
	}
	vdi, err := c.db.get("VDI", vbd.text("VDI"))
	if err != nil {
		return err
	}
	if err := c.canShare(vbd, vdi); err != nil {
		return err
	}
	if vm.text("domain_type") == "hvm" && vbd.text("type") != "CD" && vbd.text("mode") == "RO" {
		return fail("DISK_VBD_MUST_BE_READWRITE_FOR_HVM", vbd.ref)
	}
	if sr := c.db.find("SR", vdi.text("SR")); sr == nil || !c.plugged(sr, vm.text("resident_on")) {
		return fail("SR_NO_PBDS", vdi.text("SR"))
	}
	return nil
}

func vbdPlug(c *call) (any, error) {
	vbd, vm, err := c.vbdAndVM()
	if err != nil {
		return nil, err
	}
	if err := c.admit(func() error { return c.gatePlug(vbd, vm) }); err != nil {
		return nil, err
	}
	vdi := c.db.find("VDI", vbd.text("VDI"))
	c.activate(vdi, vbd.text("mode"))
	defer c.begin(vbd, "plug")()
	endVDI := c.begin(vdi, "blocked")
	disk, err := c.attach(vbd, vdi)
	if err == nil {
		err = c.hotplug(vm, func(d *domain) error { return d.guest.Plug(c.ctx, disk) })
	}
	endVDI()
	if err != nil {
		c.deactivate(vdi)
		if refused, ok := errors.AsType[*Error](err); ok {
			return nil, refused
		}
		return nil, internal("xenopsd: " + err.Error())
	}
	if c.domains[vm.ref] == nil && !vm.boolean("is_control_domain") {
		return nil, fail("VM_BAD_POWER_STATE", vm.ref, "running", "halted")
	}
	c.db.set(vbd, "device", deviceName(vbd.text("userdevice")))
	c.db.set(vbd, "currently_attached", true)
	return nil, nil
}

// hotplug runs a plug or an unplug of a VM, one at a time, with Pool.mu released.
func (c *call) hotplug(vm *object, run func(*domain) error) error {
	d := c.domains[vm.ref]
	switch {
	case vm.boolean("is_control_domain"):
		return nil // it has no front end: the storage driver attaches the disk, and that is all
	case d == nil:
		return errors.New("the domain has ended")
	}
	return c.unlocked(func() error {
		select {
		case d.hotplug <- struct{}{}:
			defer func() { <-d.hotplug }()
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
		return run(d)
	})
}

// farewell is how long a guest has to hear that a disk goes by force.
const farewell = 200 * time.Millisecond

func vbdUnplug(c *call, operation string) (any, error) {
	vbd, vm, err := c.vbdAndVM()
	if err != nil {
		return nil, err
	}
	err = c.admit(func() error {
		if err := errors.Join(alive(vbd), alive(vm)); err != nil {
			return err
		}
		return c.vbdGate(vbd, operation)
	})
	if err != nil {
		return nil, err
	}
	force, patience := operation == "unplug_force", c.config.HotplugTimeout
	if force {
		patience = min(patience, farewell)
	}
	defer c.begin(vbd, operation)()
	err = c.hotplug(vm, func(d *domain) error {
		ctx, cancel := context.WithTimeout(c.ctx, patience)
		defer cancel()
		return d.guest.Unplug(ctx, vbd.text("userdevice"))
	})
	switch {
	case c.ctx.Err() != nil:
		return nil, c.ctx.Err()
	case force:
		// gone, whatever the guest says
	case errors.Is(err, ErrDetachRejected):
		return nil, fail("DEVICE_DETACH_REJECTED", "VBD", vbd.ref, "")
	case errors.Is(err, context.DeadlineExceeded):
		return nil, internal("xenopsd: timed out waiting for the frontend of VBD " + vbd.uuid() + " to close")
	case isContext(err):
		return nil, err
	case err != nil:
		return nil, internal("xenopsd: " + err.Error())
	}
	c.detached(vbd)
	if vdi := c.db.find("VDI", vbd.text("VDI")); vdi != nil {
		return nil, c.refreshSizes(c.db.find("SR", vdi.text("SR")))
	}
	return nil, nil
}
