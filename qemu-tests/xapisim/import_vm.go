package xapisim

import (
	"maps"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/image/xva"
)

// acceptable refuses what comes from a newer xapi, and a restored VM whose MAC addresses another one has: that has the same
// seed for them (xen-api ocaml/xapi/importexport.ml, assert_compatible; import.ml, assert_can_restore_backup).
func (i *importation) acceptable() error {
	own, other := i.version(), i.reader.Version()
	if other.Major > own.Major || other.Major == own.Major && other.Minor > own.Minor {
		return fail("IMPORT_INCOMPATIBLE_VERSION")
	}
	if !i.restore {
		return nil
	}
	for _, o := range i.reader.Objects() {
		seed := o.Table("other_config")["mac_seed"]
		if o.Class != "VM" || seed == "" {
			continue
		}
		for _, vm := range i.db.all("VM") {
			if vm.table("other_config")["mac_seed"] == seed && i.lineOf(o) != vmLine(i.Pool, vm) {
				return fail("DUPLICATE_MAC_SEED", seed)
			}
		}
	}
	return nil
}

// vmLine is the uuid of the VM that a VM, or a snapshot, is of: those of one line may have one seed.
func vmLine(p *Pool, vm *object) string {
	if of := p.db.find("VM", vm.text("snapshot_of")); vm.boolean("is_a_snapshot") && of != nil {
		return of.uuid()
	}
	return vm.uuid()
}

// lineOf is the same of a VM in the file.
func (i *importation) lineOf(o xva.Object) string {
	if o.Snapshot["is_a_snapshot"] == true {
		for _, of := range i.reader.Objects() {
			if of.Class == "VM" && of.ID == o.Text("snapshot_of") {
				return of.Text("uuid")
			}
		}
	}
	return o.Text("uuid")
}

// createMetrics takes over a VM's metrics with new uuids; all their fields are runtime ones.
func (i *importation) createMetrics(o xva.Object, _ map[string]any) (*object, error) {
	values := map[string]any{}
	for _, f := range i.db.model.Classes[o.Class].Fields {
		given, ok := o.Snapshot[f.Name]
		if !ok || f.Name == "uuid" {
			continue
		}
		value, err := i.decoder.value(f.Type, jsonLike(given))
		if err != nil {
			return nil, wrapped(err)
		}
		values[f.Name] = value
	}
	return i.db.insert(o.Class, values), nil
}

// createVM gives the VM a new identity, unless it is restored; references into the exporting pool lead nowhere here.
func (i *importation) createVM(o xva.Object, values map[string]any) (*object, error) {
	if err := i.makeRoom(o); err != nil {
		return nil, err
	}
	otherConfig := map[string]string{}
	maps.Copy(otherConfig, values["other_config"].(map[string]string)) // a constructor always gives one
	if otherConfig["import_task"] = i.task; !i.restore {
		otherConfig["mac_seed"] = newUUID()
	}
	values["other_config"] = otherConfig
	for _, field := range []string{"affinity", "suspend_VDI", "suspend_SR", "appliance"} {
		values[field] = nullRef
	}
	delete(values, "blocked_operations")
	i.keepUUID(o, values)
	values["version"] = int64(0)
	if i.restore {
		version, _ := strconv.ParseInt(o.Text("version"), 10, 64)
		values["version"] = version + 1
	}
	if values["power_state"] = "Halted"; values["is_a_template"] != true { // a template is not started: it keeps its own
		values["generation_id"] = freshGeneration(asText(values["generation_id"]))
	}
	vm := i.newVM(values)
	for field, class := range map[string]string{"metrics": "VM_metrics", "guest_metrics": "VM_guest_metrics"} {
		if made := i.made[o.Text(field)]; made != nil {
			i.dropMetrics(vm, field, class)
			i.db.set(vm, field, made.ref)
		}
	}
	if suspend := i.made[o.Text("suspend_VDI")]; suspend != nil && o.Text("power_state") == "Suspended" {
		i.db.set(vm, "suspend_VDI", suspend.ref)
		i.db.set(vm, "power_state", "Suspended")
	}
	if vm.text("domain_type") == "hvm" && vm.table("platform")["device-model"] == "" {
		model := "qemu-upstream-compat"
		if vm.table("HVM_boot_params")["firmware"] == "uefi" {
			model = "qemu-upstream-uefi"
		}
		i.db.put(vm, "platform", "device-model", model)
	}
	return vm, nil
}

// makeRoom removes the VM that a restored one takes the place of: a halted one, of an older version. Its disks stay.
func (i *importation) makeRoom(o xva.Object) error {
	if !i.restore {
		return nil
	}
	for _, vm := range i.db.all("VM") {
		if vm.uuid() != o.Text("uuid") {
			continue
		}
		if state := vm.text("power_state"); state != "Halted" {
			return fail("VM_BAD_POWER_STATE", vm.ref, "halted", strings.ToLower(state))
		}
		version, _ := strconv.ParseInt(o.Text("version"), 10, 64)
		if existing := vm.integer("version"); existing >= version && !i.force {
			return fail("VM_TO_IMPORT_IS_NOT_NEWER_VERSION", vm.ref, strconv.FormatInt(existing, 10), strconv.FormatInt(version, 10))
		}
		return i.destroyVM(vm)
	}
	return nil
}

// keepUUID gives an object the uuid of the file when it is restored, else a new one.
func (i *importation) keepUUID(o xva.Object, values map[string]any) {
	if delete(values, "uuid"); i.restore {
		values["uuid"] = o.Text("uuid")
	}
}

// vmOf is the VM that a device of the file belongs to.
func (i *importation) vmOf(o xva.Object) (*object, error) {
	if vm := i.made[o.Text("VM")]; vm != nil {
		return vm, nil
	}
	return nil, fail("IMPORT_ERROR_FAILED_TO_FIND_OBJECT", o.Text("VM"))
}

// linkVMs makes snapshots of the VMs that are some, once the VMs that they are of are there.
func (i *importation) linkVMs() error {
	for _, o := range i.reader.Objects() {
		vm := i.made[o.ID]
		if o.Class != "VM" {
			continue
		}
		if parent := i.made[o.Text("parent")]; parent != nil {
			i.db.set(vm, "parent", parent.ref)
		}
		if o.Snapshot["is_a_snapshot"] != true {
			continue
		}
		i.db.set(vm, "is_a_snapshot", true)
		if id := o.Text("snapshot_of"); id != nullRef && id != "" {
			of := i.made[id]
			if of == nil {
				return fail("IMPORT_ERROR_FAILED_TO_FIND_OBJECT", id)
			}
			i.db.set(vm, "snapshot_of", of.ref)
		}
		for _, field := range []string{"snapshot_time", "snapshot_info"} {
			if value, err := i.decoder.value(vm.class.Field(field).Type, jsonLike(o.Snapshot[field])); err == nil { // else it was not given
				i.db.set(vm, field, value)
			}
		}
	}
	return nil
}
