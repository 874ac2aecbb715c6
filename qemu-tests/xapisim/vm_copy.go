package xapisim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

func vmClone(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	var made *object
	err = c.onVM(vm, "clone", func() (err error) {
		made, err = c.copyVM(vm, c.text(1), nil, "clone", c.cloneVDI)
		return err
	})
	if err != nil {
		return nil, err
	}
	return made.ref, nil
}

// vmCopy copies a VM with its disks in full, to one SR or, when it is null, each in its own.
func vmCopy(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	var sr *object
	if c.text(2) != nullRef {
		if sr, err = c.object(2); err != nil {
			return nil, err
		}
	}
	var made *object
	err = c.onVM(vm, "copy", func() (err error) {
		if sr != nil && sr.text("content_type") == "iso" {
			return fail("OPERATION_NOT_ALLOWED", "Cannot copy a VM's disks to an ISO SR")
		}
		made, err = c.copyVM(vm, c.text(1), nil, "copy", func(vdi *object) (*object, error) {
			if sr == nil {
				return c.copyInFull(vdi, c.db.find("SR", vdi.text("SR")))
			}
			return c.copyInFull(vdi, sr)
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return made.ref, nil
}

func vmSnapshot(c *call) (any, error) {
	vm, err := c.object(0)
	if err != nil {
		return nil, err
	}
	var made *object
	err = c.onVM(vm, "snapshot", func() (err error) {
		if made, err = c.copyVM(vm, c.text(1), c.list(2), "snapshot", func(vdi *object) (*object, error) {
			made, err := c.snapshotVDI(vdi)
			if err == nil {
				err = c.tear(vm)
			}
			return made, err
		}); err != nil {
			return err
		}
		c.db.set(vm, "parent", made.ref)
		c.vmMessage("VM_SNAPSHOTTED", vm, "snapshotted, snapshot name: "+c.text(1))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return made.ref, nil
}

// inherited are the fields of a VM that its clones and snapshots take over: all that a constructor or a setter can give,
// marker keys, tags and vm-data among them (xapi-facts §6.3, §13.1, trap 2).
func inherited(vm *object) map[string]any {
	out := map[string]any{}
	for _, f := range vm.class.Fields {
		if f.Qualifier != datamodel.Runtime {
			out[f.Name] = vm.values[f.Name]
		}
	}
	out["bios_strings"] = vm.values["bios_strings"]
	out["last_boot_CPU_flags"] = vm.values["last_boot_CPU_flags"]
	out["blocked_operations"] = map[string]string{}
	out["power_state"] = "Halted"
	return out
}

// copyState is the power state of a copy: a suspended VM's clones and checkpoints are suspended, too.
func copyState(vm *object, operation string) string {
	if vm.text("power_state") == "Suspended" && operation != "snapshot" {
		return "Suspended"
	}
	return "Halted"
}

// copyDisk is a way to make a copy of a VDI.
type copyDisk func(vdi *object) (*object, error)

func (c *call) cloneVDI(vdi *object) (*object, error)    { return c.copyVDI(vdi, "clone") }
func (c *call) snapshotVDI(vdi *object) (*object, error) { return c.copyVDI(vdi, "snapshot") }

// copyVM makes a clone, a copy, a snapshot or a checkpoint of a VM: first its disks, one after the other and each atomic by
// itself, then the record and the devices (ocaml/xapi/xapi_vm_clone.ml). A failure removes the disks already made.
func (c *call) copyVM(vm *object, name string, ignore []string, operation string, copyDisk copyDisk) (*object, error) {
	snapshot := operation == "snapshot" || operation == "checkpoint"
	disks, err := c.copyDisks(vm, ignore, copyDisk)
	if err != nil {
		return nil, err
	}
	image := nullRef
	if saved := c.db.find("VDI", vm.text("suspend_VDI")); saved != nil && operation != "snapshot" {
		made, err := copyDisk(saved)
		if err != nil {
			c.destroyCopies(disks)
			return nil, err
		}
		image = made.ref
	}
	values := inherited(vm)
	maps.Copy(values, map[string]any{
		"name_label": name, "memory_target": vm.integer("memory_target"), "suspend_VDI": image, "suspend_SR": nullRef,
		"appliance": nullRef, "start_delay": int64(0), "shutdown_delay": int64(0), "order": int64(0), "version": int64(0),
	})
	values["generation_id"] = freshGeneration(vm.text("generation_id"))
	config := maps.Clone(vm.table("other_config"))
	delete(config, "default_template")
	if vm.boolean("is_a_template") && config["base_template_name"] == "" {
		config["base_template_name"] = vm.text("name_label")
	}
	if snapshot {
		maps.Copy(values, map[string]any{
			"is_a_snapshot": true, "is_a_template": true, "snapshot_of": vm.ref, "snapshot_time": now(), "parent": vm.text("parent"),
			"snapshot_info": snapshotInfo(vm), "snapshot_metadata": c.metadata(vm),
		})
	} else {
		delete(config, "mac_seed") // a new one is drawn, and with it new addresses
	}
	values["other_config"] = config
	made := c.newVM(values)
	c.copyMetrics(vm, made)
	if snapshot {
		c.snapshotOrigins[made.ref] = inherited(vm)
		c.snapshotOrigins[made.ref]["uuid"] = vm.uuid()
		c.snapshotOrigins[made.ref]["blocked_operations"] = vm.table("blocked_operations")
		c.snapshotOrigins[made.ref]["memory_target"] = vm.integer("memory_target")
	}
	c.copyDevices(vm, made, disks, ignore, snapshot)
	if copyState(vm, operation) == "Suspended" {
		c.suspendRecords(made)
	}
	return made, nil
}

func snapshotInfo(vm *object) map[string]string {
	return map[string]string{"power-state-at-snapshot": vm.text("power_state"), "disk-snapshot-type": "crash_consistent"}
}

// freshGeneration is the generation id of a copy: a new one, unless the original has none (fresh_genid in
// ocaml/xapi/xapi_vm_helpers.ml).
func freshGeneration(of string) string {
	if of == "" {
		return ""
	}
	return fmt.Sprintf("%d:%d", rand.Int64(), rand.Int64())
}

// copyMetrics gives a copy the metrics of its original: the time of a start that was not its own among them, and what the
// agent of the original said.
func (c *call) copyMetrics(from, to *object) {
	own := c.db.find("VM_metrics", to.text("metrics"))
	for field, value := range valuesOf(c.db.find("VM_metrics", from.text("metrics"))) {
		c.db.set(own, field, value)
	}
	if said := c.db.find("VM_guest_metrics", from.text("guest_metrics")); said != nil {
		c.db.set(to, "guest_metrics", c.db.insert("VM_guest_metrics", valuesOf(said)).ref)
	}
}

// valuesOf are an object's fields but for its uuid.
func valuesOf(o *object) map[string]any {
	if o == nil {
		return nil
	}
	values := maps.Clone(o.values)
	delete(values, "uuid")
	return values
}

// copyDisks gives the copies by the reference of their originals.
func (c *call) copyDisks(vm *object, ignore []string, copyDisk copyDisk) (map[string]*object, error) {
	disks := map[string]*object{}
	for _, vbd := range c.sortedVBDs(vm) {
		vdi := c.db.find("VDI", vbd.text("VDI"))
		if vdi == nil || vbd.text("type") == "CD" || slices.Contains(ignore, vdi.ref) {
			continue
		}
		made, err := copyDisk(vdi)
		if made != nil {
			disks[vdi.ref] = made
		}
		if err != nil {
			c.destroyCopies(disks)
			return nil, err
		}
	}
	return disks, nil
}

func (c *call) destroyCopies(disks map[string]*object) {
	if died(c.ctx) {
		return
	}
	for _, copied := range disks {
		_ = c.destroyVDI(copied) // the first error is the one to tell; what is left shows in the SR
	}
}

func (c *call) copyDevices(from, to *object, disks map[string]*object, ignore []string, keepMAC bool) {
	for _, vbd := range c.sortedVBDs(from) {
		if slices.Contains(ignore, vbd.text("VDI")) {
			continue
		}
		values := settable(vbd)
		if made := disks[vbd.text("VDI")]; made != nil {
			values["VDI"] = made.ref
		}
		if config := maps.Clone(vbd.table("other_config")); vbd.text("type") == "Disk" { // its disk goes with the copy
			if config == nil {
				config = map[string]string{}
			}
			config["owner"] = ""
			values["other_config"] = config
		}
		values["VM"] = to.ref // the name that its device last had is kept, though it is not attached (transcripts)
		c.db.insert("VBD", values)
	}
	for _, vif := range c.db.refs(from, "VIFs", "VIF") {
		values := settable(vif)
		values["VM"] = to.ref // an address that is kept counts as given
		if !keepMAC {
			values["MAC"] = macOf(to.table("other_config")["mac_seed"], deviceNumber(vif.text("device")))
			values["MAC_autogenerated"] = true
		}
		c.db.insert("VIF", values)
	}
	for _, vtpm := range c.db.refs(from, "VTPMs", "VTPM") {
		values := settable(vtpm)
		delete(values, "currently_attached")
		values["VM"] = to.ref
		c.db.insert("VTPM", values)
	}
}

// settable are the fields of a device that its copy takes over; a copy is not attached.
func settable(o *object) map[string]any {
	out := map[string]any{}
	for _, f := range o.class.Fields {
		if f.Qualifier != datamodel.Runtime {
			out[f.Name] = o.values[f.Name]
		}
	}
	out["currently_attached"] = false
	return out
}

// vmRevert takes a VM back to a snapshot: its devices and disks go, the snapshot's disks are cloned into new VDIs, and
// the fields are those of the moment of the snapshot, other_config included (xapi-facts §13.1).
func vmRevert(c *call) (any, error) {
	snapshot, err := c.object(0)
	if err != nil {
		return nil, err
	}
	err = c.onVM(snapshot, "revert", func() error {
		vm := c.originOf(snapshot)
		if vm == nil {
			return fail("VM_REVERT_FAILED", snapshot.ref, snapshot.text("snapshot_of"))
		}
		if reason, blocked := vm.table("blocked_operations")["revert"]; blocked {
			return fail("OPERATION_BLOCKED", vm.ref, reason)
		}
		if d := c.domains[vm.ref]; d != nil {
			if err := c.kill(d); err != nil {
				return err
			}
		}
		if err := c.revertTo(vm, snapshot); err != nil {
			return err
		}
		c.vmMessage("VM_SNAPSHOT_REVERTED", vm, "reverted to snapshot: "+snapshot.text("name_label")+" (uuid "+snapshot.uuid()+")")
		return nil
	})
	return nil, err
}

// originOf is the VM that a snapshot was made of. One that is gone is made again, with its old uuid.
func (c *call) originOf(snapshot *object) *object {
	if vm := c.db.find("VM", snapshot.text("snapshot_of")); vm != nil {
		return vm
	}
	origin := c.snapshotOrigins[snapshot.ref]
	if origin == nil {
		return nil
	}
	vm := c.newVM(maps.Clone(origin))
	gone := snapshot.text("snapshot_of")
	for _, sibling := range c.db.all("VM") {
		if sibling.text("snapshot_of") == gone {
			c.db.set(sibling, "snapshot_of", vm.ref)
		}
	}
	return vm
}

func (c *call) revertTo(vm, snapshot *object) error {
	if err := c.admit(func() error { return busy(vm) }); err != nil {
		return err
	}
	defer c.begin(vm, "revert")()
	disks, err := c.copyDisks(snapshot, nil, c.cloneVDI)
	if isCode(err, "SR_BACKEND_FAILURE_44") || isCode(err, "SR_BACKEND_FAILURE_109") || isContext(err) {
		return err
	} else if err != nil {
		return fail("VM_REVERT_FAILED", snapshot.ref, vm.ref)
	}
	for _, vbd := range c.db.refs(vm, "VBDs", "VBD") {
		old := c.db.find("VDI", vbd.text("VDI"))
		c.db.remove(vbd)
		if old == nil || vbd.text("type") == "CD" {
			continue
		}
		for of, made := range disks { // the siblings now belong to the disk that takes the place of the old one
			if origin := c.db.find("VDI", of); origin != nil && origin.text("snapshot_of") == old.ref {
				for _, sibling := range c.db.refs(old, "snapshots", "VDI") {
					c.db.set(sibling, "snapshot_of", made.ref)
				}
			}
		}
		if err := c.destroyVDI(old); err != nil {
			return err
		}
	}
	for _, vif := range c.db.refs(vm, "VIFs", "VIF") {
		c.db.remove(vif)
	}
	for field, value := range c.snapshotOrigins[snapshot.ref] {
		if !slices.Contains(keptByRevert, field) {
			c.db.set(vm, field, value)
		}
	}
	c.db.set(vm, "parent", snapshot.ref)
	c.copyDevices(snapshot, vm, disks, nil, true)
	c.dropMetrics(vm, "guest_metrics", "VM_guest_metrics")
	c.dropMetrics(vm, "metrics", "VM_metrics")
	c.db.set(vm, "metrics", c.newMetrics())
	c.copyMetrics(snapshot, vm)
	return c.revertMemory(vm, snapshot)
}

// keptByRevert are fields of a VM that a revert leaves as they are (do_not_copy in ocaml/xapi/xapi_vm_snapshot.ml).
var keptByRevert = []string{"uuid", "suspend_VDI", "power_state", "parent", "tags", "affinity"}

// revertMemory gives a VM that was reverted to a checkpoint a copy of its memory: it is suspended then.
func (c *call) revertMemory(vm, snapshot *object) error {
	if err := c.dropSuspended(vm); err != nil {
		return err
	}
	saved := c.db.find("VDI", snapshot.text("suspend_VDI"))
	if saved == nil || snapshot.text("power_state") != "Suspended" {
		c.db.set(vm, "power_state", "Halted")
		return nil
	}
	made, err := c.cloneVDI(saved)
	if err != nil {
		return fail("VM_REVERT_FAILED", snapshot.ref, vm.ref)
	}
	c.db.set(vm, "suspend_VDI", made.ref)
	c.suspendRecords(vm)
	return nil
}
