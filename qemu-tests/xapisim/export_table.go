package xapisim

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/image/xva"
	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// exportTable gives the objects that an export holds their ids in the file, and makes their records: references to what is in
// the file become ids, and what means nothing elsewhere is emptied (xen-api ocaml/xapi/export.ml).
type exportTable struct {
	*Pool
	powerState bool              // the VM's power state is kept, and its suspend image comes along
	snapshots  bool              // a VM's snapshots come along, and stay snapshots
	ids        map[string]string // by reference
}

// exported are the classes of an export in their order, with the fields that are translated and those that are emptied.
// Fields besides these stay as they are, references too.
var exported = []struct {
	class      string
	translated []string
	emptied    []string
}{
	{
		class:      "VM",
		translated: []string{"VIFs", "VBDs", "VTPMs", "VGPUs", "resident_on", "affinity", "metrics", "guest_metrics"},
		emptied:    []string{"allowed_operations", "current_operations", "crash_dumps", "consoles", "blobs", "protection_policy"},
	},
	{class: "VM_guest_metrics"},
	{class: "VM_metrics"},
	{class: "VBD", translated: []string{"VM", "VDI"}, emptied: []string{"allowed_operations", "current_operations", "metrics"}},
	{class: "VIF", translated: []string{"VM", "network"}, emptied: []string{"allowed_operations", "current_operations", "metrics"}},
	{class: "network", translated: []string{"VIFs"}, emptied: []string{"allowed_operations", "current_operations", "PIFs"}},
	{class: "VDI", translated: []string{"SR", "VBDs"}, emptied: []string{"allowed_operations", "current_operations", "crash_dumps"}},
	{class: "SR", translated: []string{"VDIs"}, emptied: []string{"allowed_operations", "current_operations", "PBDs"}},
}

// add gives an id to a reference, whether anything is behind it or not: so the null reference gets one, too, where a VM has
// no metrics, and looks like a reference that leads nowhere.
func (t *exportTable) add(ref string) {
	if t.ids[ref] == "" {
		t.ids[ref] = "Ref:" + strconv.Itoa(t.exports)
		t.exports++
	}
}

func (t *exportTable) addVM(vm *object) {
	if vm == nil || t.ids[vm.ref] != "" {
		return
	}
	t.add(vm.ref)
	for _, vif := range t.db.refs(vm, "VIFs", "VIF") {
		t.add(vif.ref)
		t.add(vif.text("network"))
	}
	for _, vbd := range t.sortedVBDs(vm) {
		t.add(vbd.ref)
		t.addVDI(t.db.find("VDI", vbd.text("VDI")))
	}
	if t.snapshots {
		for _, snapshot := range t.db.refs(vm, "snapshots", "VM") {
			t.addVM(snapshot)
		}
	}
	if t.powerState && vm.text("power_state") == "Suspended" {
		t.addVDI(t.db.find("VDI", vm.text("suspend_VDI")))
	}
	for _, field := range []string{"metrics", "guest_metrics", "resident_on", "affinity"} {
		t.add(vm.text(field))
	}
	if t.snapshots {
		t.addVM(t.db.find("VM", vm.text("parent")))
	}
}

func (t *exportTable) addVDI(vdi *object) {
	if vdi != nil {
		t.add(vdi.ref)
		t.add(vdi.text("SR"))
	}
}

// disks are the VDIs of a VM whose content goes into the file, in the order of their ids: not what lies in a drive.
func (t *exportTable) disks(vm *object) []*object {
	refs := map[string]bool{vm.text("suspend_VDI"): t.powerState && vm.text("power_state") == "Suspended"}
	for _, vbd := range t.db.refs(vm, "VBDs", "VBD") {
		refs[vbd.text("VDI")] = refs[vbd.text("VDI")] || vbd.text("type") != "CD"
	}
	var out []*object
	for ref, wanted := range refs {
		if vdi := t.db.find("VDI", ref); wanted && vdi != nil && t.db.find("SR", vdi.text("SR")).text("content_type") != "iso" {
			out = append(out, vdi)
		}
	}
	slices.SortFunc(out, func(a, b *object) int { return cmp.Compare(t.ids[a.ref], t.ids[b.ref]) })
	return out
}

// objects makes the records.
func (t *exportTable) objects() []xva.Object {
	var out []xva.Object
	for _, of := range exported {
		for _, o := range t.db.all(of.class) {
			if t.ids[o.ref] == "" {
				continue
			}
			snapshot := map[string]any{}
			for _, f := range o.class.Fields {
				snapshot[f.Name] = exportValue(t.field(o, f.Name))
			}
			for _, field := range of.emptied {
				snapshot[field] = exportValue(o.class.Field(field).Type.Zero())
			}
			for _, field := range of.translated {
				snapshot[field] = t.translate(snapshot[field])
			}
			t.settle(o, snapshot)
			out = append(out, xva.Object{Class: of.class, ID: t.ids[o.ref], Snapshot: snapshot})
		}
	}
	return out
}

// settle writes what depends on what is asked for.
func (t *exportTable) settle(o *object, snapshot map[string]any) {
	if _, attachable := snapshot["currently_attached"]; attachable && !t.powerState {
		snapshot["currently_attached"] = false
	}
	if o.class.Name != "VM" {
		return
	}
	if t.powerState {
		snapshot["suspend_VDI"] = t.translate(snapshot["suspend_VDI"])
	} else {
		snapshot["power_state"], snapshot["suspend_VDI"] = "Halted", nullRef
	}
	if t.snapshots {
		snapshot["snapshot_of"], snapshot["parent"] = t.translate(snapshot["snapshot_of"]), t.translate(snapshot["parent"])
		return
	}
	for _, field := range []string{"is_a_snapshot", "snapshot_of", "snapshots", "snapshot_time", "transportable_snapshot_id", "parent"} {
		snapshot[field] = exportValue(o.class.Field(field).Type.Zero())
	}
}

// translate gives the id of a reference, or those of a set of them without what is not in the file.
func (t *exportTable) translate(v any) any {
	switch v := v.(type) {
	case string:
		return cmp.Or(t.ids[v], nullRef)
	case []string:
		out := []string{}
		for _, ref := range v {
			if id := t.ids[ref]; id != "" {
				out = append(out, id)
			}
		}
		return out
	default:
		return v
	}
}

// exportValue turns a value of the database into what an XVA takes.
func exportValue(v any) any {
	switch v := v.(type) {
	case nil:
		return ""
	case time.Time:
		return xva.DateTime(wireDate(v))
	case []any:
		out := make([]any, 0, len(v))
		for _, item := range v {
			out = append(out, exportValue(item))
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, item := range v {
			out[key] = exportValue(item)
		}
		return out
	default:
		return v
	}
}

func wireDate(t time.Time) string { return datamodel.FormatDate(t) }
