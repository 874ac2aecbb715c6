package xapisim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var vmPowerCalls = map[string]handler{
	"VM.start":                vmStart,
	"VM.start_on":             vmStartOn,
	"VM.pause":                vmCall("pause", func(c *call, vm *object) error { return c.pause(vm, true) }),
	"VM.unpause":              vmCall("unpause", func(c *call, vm *object) error { return c.pause(vm, false) }),
	"VM.clean_shutdown":       vmCall("clean_shutdown", (*call).cleanShutdown),
	"VM.hard_shutdown":        vmCall("hard_shutdown", (*call).hardShutdown),
	"VM.shutdown":             vmShutdown,
	"VM.assert_can_boot_here": assertCanBootHere,
	"VM.get_possible_hosts":   possibleHosts,
}

func vmStart(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	return nil, c.onVM(vm, "start", func() error {
		if err := c.mayStart(vm); err != nil {
			return err
		}
		host := c.chooseHost(vm)
		if host == nil {
			return fail("NO_HOSTS_AVAILABLE") // without the cause, as xapi does
		}
		return c.boot(vm, host, c.boolean(1))
	})
}

func vmStartOn(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	host, err := c.object(1)
	if err != nil {
		return nil, err
	}
	return nil, c.onVM(vm, "start_on", func() error {
		if err := c.mayStart(vm); err != nil {
			return err
		}
		if err := c.canBootHere(vm, host); err != nil {
			return err
		}
		return c.boot(vm, host, c.boolean(2))
	})
}

// mayStart is what the licence says of a start.
func (p *Pool) mayStart(vm *object) error {
	if err := p.licensed("VM_start"); err != nil {
		return err
	}
	return p.pinned(vm)
}

// boot starts a halted VM on a host.
func (c *call) boot(vm, host *object, paused bool) error {
	if err := c.build(vm, host, paused); err != nil {
		if vm.text("power_state") == "Halted" {
			c.haltRecords(vm)
		}
		return err
	}
	c.vmMessage("VM_STARTED", vm, c.onHost("started", host))
	return nil
}

// build makes a VM's domain on a host. The VM is Running as soon as its domain is, long before its software is up. Guest
// metrics are new with each boot; a resumed guest keeps them. The devices of a failure are the caller's to detach.
func (c *call) build(vm, host *object, paused bool) error {
	if err := c.reach(host.ref); err != nil {
		return err
	}
	server := c.hostOf(host.ref)
	crashes := server.crashes
	resumed := vm.text("power_state") == "Suspended"
	if !resumed {
		c.dropMetrics(vm, "guest_metrics", "VM_guest_metrics")
	}
	machine, delegate, err := c.attachDisks(vm)
	if err != nil {
		return err
	}
	c.domainID++
	machine.DomainID = c.domainID
	c.db.set(vm, "resident_on", host.ref) // its memory is taken from now on
	var guest Guest
	delay := c.config.GuestDelay
	if resumed {
		delay = 0 // its agent has never stopped
	}
	err = c.unlocked(func() (err error) {
		guest, err = c.startGuest(vm.uuid(), machine, delegate, delay)
		return err
	})
	if err == nil && server.crashes != crashes {
		_ = guest.Kill() // its host crashed when it had just begun: it is gone with it
		return fail("CANNOT_CONTACT_HOST", host.ref)
	}
	if err != nil {
		if resumed {
			c.db.set(vm, "resident_on", nullRef)
		}
		return internal("xenopsd: " + err.Error())
	}
	c.db.set(vm, "domid", machine.DomainID)
	c.db.set(vm, "last_boot_CPU_flags", map[string]string{"vendor": host.table("cpu_info")["vendor"], "features": ""})
	if len(vm.table("bios_strings")) == 0 {
		c.db.set(vm, "bios_strings", genericBIOS)
	}
	c.db.set(vm, "memory_target", vm.integer("memory_dynamic_max"))
	if vm.table("platform")["device-model"] == "" {
		c.db.put(vm, "platform", "device-model", "qemu-upstream-"+map[string]string{"uefi": "uefi", "bios": "compat"}[machine.Firmware])
	}
	for _, vif := range c.db.refs(vm, "VIFs", "VIF") {
		c.db.set(vif, "currently_attached", true)
	}
	if metrics := c.db.find("VM_metrics", vm.text("metrics")); metrics != nil {
		if !resumed {
			c.db.set(metrics, "start_time", now())
		}
		c.db.set(metrics, "VCPUs_number", vm.integer("VCPUs_at_startup"))
		c.db.set(metrics, "VCPUs_utilisation", map[string]any{"0": 0.0})
		c.db.set(metrics, "memory_actual", vm.integer("memory_dynamic_max"))
		c.db.set(metrics, "hvm", vm.text("domain_type") == "hvm")
		c.db.set(metrics, "current_domain_type", vm.text("domain_type"))
	}
	c.db.set(vm, "power_state", "Running")
	c.newDomain(vm, guest)
	if paused {
		return c.setPaused(vm, true)
	}
	return nil
}

// attachDisks marks a VM's disks as attached and describes the machine. delegate tells that it boots from a disk of a
// delegate template.
func (c *call) attachDisks(vm *object) (machine Machine, delegate bool, err error) {
	machine = Machine{
		UUID: vm.uuid(), Name: vm.text("name_label"), UniqueDomainID: newUUID(),
		Memory: vm.integer("memory_static_max"), VCPUs: vm.integer("VCPUs_at_startup"), Firmware: "bios",
		Data: forGuest(vm.table("xenstore_data")),
	}
	if firmware, given := vm.table("HVM_boot_params")["firmware"]; given {
		if firmware != "bios" && firmware != "uefi" {
			return machine, false, fail("INVALID_VALUE", "HVM_boot_params[firmware]", firmware)
		}
		machine.Firmware = firmware
	}
	if err := soundPlatform(vm, machine.Firmware); err != nil {
		return machine, false, err
	}
	if err := storable(machine.Data); err != nil {
		return machine, false, err
	}
	for _, vbd := range c.sortedVBDs(vm) {
		vdi := c.db.find("VDI", vbd.text("VDI"))
		if vdi == nil && vbd.boolean("empty") { // an empty drive is attached, too
			c.db.set(vbd, "currently_attached", true)
			c.db.set(vbd, "device", deviceName(vbd.text("userdevice")))
		}
		if vdi == nil {
			continue
		}
		if err := c.canShare(vbd, vdi); err != nil {
			return machine, false, err
		}
		c.activate(vdi, vbd.text("mode"))
		c.db.set(vbd, "currently_attached", true)
		c.db.set(vbd, "device", deviceName(vbd.text("userdevice")))
		disk, err := c.attach(vbd, vdi)
		if err != nil {
			return machine, false, err
		}
		delegate = delegate || len(machine.Disks) == 0 && c.delegateDisks[vdi.ref]
		machine.Disks = append(machine.Disks, disk)
	}
	machine.VIFs = c.interfaces(vm)
	return machine, delegate, nil
}

// attach prepares a disk for a guest that is about to get it. Its VBD, or an operation, holds off whoever else might.
func (c *call) attach(vbd, vdi *object) (Disk, error) {
	if _, err := os.Stat(c.volumePath(vdi)); err != nil || vdi.boolean("missing") {
		return Disk{}, fail("SR_BACKEND_FAILURE_46", "", "The VDI is not available", "")
	}
	if vbd.text("mode") == "RW" {
		if err := c.secure(vdi); err != nil {
			return Disk{}, internal(err.Error())
		}
	}
	path, err := filepath.Abs(c.volumePath(vdi))
	if err != nil {
		return Disk{}, internal(err.Error())
	}
	return Disk{UserDevice: vbd.text("userdevice"), Path: path, ReadOnly: vbd.text("mode") == "RO"}, nil
}

func (p *Pool) startGuest(vm string, m Machine, delegate bool, delay time.Duration) (Guest, error) {
	if !delegate && p.config.Guests != nil {
		return p.config.Guests.Start(p.ctx, m)
	}
	if !delegate {
		return newIdleGuest(m.Data, !p.driverless[vm], delay), nil
	}
	if p.config.World == nil {
		return nil, errors.New("a delegate was started, but the simulated pool has no World to start it in: set Config.World")
	}
	return p.config.World.Start(p.ctx, m)
}

func (c *call) pause(vm *object, paused bool) error {
	if err := c.setPaused(vm, paused); err != nil {
		return err
	}
	what := map[bool]string{true: "paused", false: "unpaused"}[paused]
	c.vmMessage("VM_"+strings.ToUpper(what), vm, what)
	return nil
}

func (c *call) setPaused(vm *object, paused bool) error {
	d := c.domains[vm.ref]
	if d == nil {
		return internal("no domain of VM " + vm.uuid())
	}
	d.paused = paused
	if err := d.settle(); err != nil {
		return internal(err.Error())
	}
	c.db.set(vm, "power_state", map[bool]string{true: "Paused", false: "Running"}[paused])
	return nil
}

func (c *call) cleanShutdown(vm *object) error {
	d := c.domains[vm.ref]
	if d == nil {
		return internal("no domain of VM " + vm.uuid())
	}
	if err := c.askToEnd(d); err != nil {
		return err
	}
	c.vmMessage("VM_SHUTDOWN", vm, "shutdown")
	return nil
}

// askToEnd asks a guest to end and waits: first for its acknowledgement, then for its end (xapi-facts §7.7).
func (c *call) askToEnd(d *domain) error {
	err := c.unlocked(func() error {
		ctx, cancel := context.WithTimeout(c.ctx, c.config.ShutdownAckTimeout)
		defer cancel()
		return d.guest.Shutdown(ctx)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fail("VM_FAILED_SHUTDOWN_ACK", d.vm.ref)
	} else if err != nil && c.domains[d.vm.ref] == d {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.config.ShutdownTimeout)
	defer cancel()
	if err := c.waitEnd(ctx, d); errors.Is(err, context.DeadlineExceeded) {
		return fail("VM_SHUTDOWN_TIMEOUT", d.vm.ref, fmt.Sprint(int(c.config.ShutdownTimeout/time.Second)))
	} else if err != nil {
		return err
	}
	return nil
}

func (c *call) hardShutdown(vm *object) error {
	if vm.text("power_state") == "Suspended" {
		c.haltRecords(vm)
		return c.dropSuspended(vm)
	}
	d := c.domains[vm.ref]
	if d == nil {
		return nil // it ended by itself meanwhile
	}
	if err := c.kill(d); err != nil {
		return err
	}
	c.vmMessage("VM_SHUTDOWN", vm, "shutdown forcibly")
	return nil
}

// vmShutdown is a clean shutdown, and a hard one where that fails.
func vmShutdown(c *call) (any, error) {
	if _, err := vmCall("clean_shutdown", (*call).cleanShutdown)(c); err == nil || isCode(err, "VM_BAD_POWER_STATE") || isContext(err) {
		return nil, err
	}
	return vmCall("hard_shutdown", (*call).hardShutdown)(c)
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// genericBIOS is what a VM that was given no BIOS strings gets at its first start (transcripts).
var genericBIOS = map[string]string{
	"bios-vendor": "Xen", "bios-version": "", "system-manufacturer": "Xen", "system-product-name": "HVM domU", "system-version": "",
	"system-serial-number": "", "baseboard-manufacturer": "", "baseboard-product-name": "", "baseboard-version": "",
	"baseboard-serial-number": "", "baseboard-asset-tag": "", "baseboard-location-in-chassis": "", "enclosure-asset-tag": "",
	"hp-rombios": "", "oem-1": "Xen", "oem-2": "MS_VM_CERT/SHA1/bdbeb6e0a816d43fa6d3fe8aaef04c2bad9d3e3d",
}
