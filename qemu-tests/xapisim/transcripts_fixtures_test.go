package xapisim_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// introduce puts objects into the pool that no answer has introduced, and those that they refer to. The fields of
// before, by class, are those that the objects must have had.
func (r *replay) introduce(objects map[string]string, before map[string]map[string]any) {
	var batch []xapisim.Fixture
	var add func(class, ref string)
	add = func(class, ref string) {
		if _, known := r.known[ref]; known || r.made[ref] || !opaque.MatchString(ref) || r.model.Classes[class] == nil {
			return
		}
		s, ok := r.first[ref]
		if r.bindMetrics(class, ref); r.known[ref] != "" {
			return
		}
		if !ok && class == "host" { // the last records are of another pool, whose host is not in them
			for have := range r.pool.Records("host") {
				r.bind(ref, have)
			}
			return
		}
		r.known[ref], r.taken[ref] = ref, true
		if !ok || s.class != class {
			s = seen{class, r.implied(class)}
		}
		if uuid := fmt.Sprint(s.fields["uuid"]); ok {
			r.known[uuid], r.taken[uuid] = uuid, true
		}
		fields := maps.Clone(s.fields)
		if _, asked := objects[ref]; asked || class == "VM" {
			if state := before[class]["power_state"]; state == "Halted" && fields["power_state"] != state {
				maps.Copy(fields, unstarted)
			}
			maps.Copy(fields, before[class])
		}
		for _, f := range r.model.Classes[class].Fields {
			for _, child := range refsIn(f.Type, fields[f.Name]) {
				if f.Type.Kind == datamodel.Ref || r.first[child.ref].fields != nil {
					add(child.class, child.ref)
				}
			}
		}
		batch = append(batch, xapisim.Fixture{Class: class, Ref: ref, Fields: fields})
	}
	for _, ref := range slices.Sorted(maps.Keys(objects)) {
		add(objects[ref], ref)
	}
	for n := range batch {
		fields := map[string]any{}
		for name, v := range batch[n].Fields {
			fields[name] = r.translate(v)
		}
		batch[n].Fields = fields
	}
	r.check(r.pool.Place(batch))
	for _, f := range batch {
		if f.Class == "VM" && f.Fields["power_state"] == "Running" && f.Fields["guest_metrics"] != nil && f.Fields["guest_metrics"] != nullRef && f.Fields["is_control_domain"] != true {
			eventually(r.t, "the agent of "+fmt.Sprint(f.Fields["name_label"]), func() bool {
				able, err := r.c.try("VM_guest_metrics.get_can_use_hotplug_vbd", r.c.text("VM.get_guest_metrics", f.Ref))
				return err == nil && able == "yes"
			})
		}
	}
}

// metricsOf are the fields that point to a VM's metrics, by class.
var metricsOf = map[string]string{"VM_metrics": "metrics", "VM_guest_metrics": "guest_metrics"}

// bindMetrics finds what the metrics of a known VM are in the pool, of which the record shows the VM later.
func (r *replay) bindMetrics(class, ref string) {
	field := metricsOf[class]
	if field == "" {
		return
	}
	for _, record := range r.records {
		if record.call == nil || record.call.method() != "VM.get_record" || len(record.call.params) != 2 {
			continue
		}
		if asMap(record.call.answer["result"])[field] != ref {
			continue
		}
		if vm := r.pool.Records("VM")[r.known[fmt.Sprint(record.call.params[1])]]; vm != nil {
			r.bind(ref, fmt.Sprint(vm[field]))
			return
		}
	}
}

// implied is what an object must be of which the record shows nothing but a call.
func (r *replay) implied(class string) map[string]any {
	switch class {
	case "VDI":
		for _, ref := range slices.Sorted(maps.Keys(r.first)) {
			s := r.first[ref]
			if pbds, _ := s.fields["PBDs"].([]any); s.class == "SR" && r.known[ref] != "" && s.fields["type"] == "ext" && len(pbds) > 0 {
				return map[string]any{"SR": ref, "virtual_size": json.Number("16777216"), "type": "user", "managed": true}
			}
		}
	case "VM":
		return map[string]any{"power_state": "Halted", "domain_type": "hvm", "memory_static_max": json.Number("268435456"), "VCPUs_max": json.Number("1"),
			"VCPUs_at_startup": json.Number("1")}
	}
	return map[string]any{}
}

// halted, running, empty, … are the states that calls imply of the objects which they are the first to name.
var (
	halted   = map[string]any{"power_state": "Halted", "resident_on": nullRef, "domid": json.Number("-1")}
	running  = map[string]any{"power_state": "Running"}
	detached = map[string]any{"currently_attached": false, "device": ""}
	empty    = map[string]any{"type": "CD", "mode": "RO", "empty": true, "VDI": nullRef}
)

// unstarted is what a VM has not, which the record shows only when it has been started.
var unstarted = map[string]any{
	"suspend_VDI": nullRef, "guest_metrics": nullRef, "last_booted_record": "", "last_boot_CPU_flags": map[string]any{},
	"bios_strings": map[string]any{}, "memory_target": json.Number("0"),
}

// stateBefore tells what a call that changes something implies of the objects that it is the first to name.
func stateBefore(call *recordedCall) map[string]map[string]any {
	code, _ := failure(call.answer)
	switch method := call.method(); {
	case call.reads():
		return nil
	case method == "VBD.plug":
		return map[string]map[string]any{"VBD": detached}
	case method == "VBD.insert", method == "VBD.eject" && code != "VBD_NOT_REMOVABLE_MEDIA":
		return map[string]map[string]any{"VBD": empty}
	case code == "HOST_NOT_ENOUGH_FREE_MEMORY" || code == "NO_HOSTS_AVAILABLE":
		return map[string]map[string]any{"VM": {"power_state": "Halted", "memory_static_max": json.Number("214748364800"), "VCPUs_max": json.Number("2")}}
	case code == "VM_LACKS_FEATURE":
		return map[string]map[string]any{"VM": running}
	default:
		return map[string]map[string]any{"VM": halted}
	}
}

// unrecorded are calls that must have been made, since what follows shows their effect, but are not in the record: by the
// number of the record before which they are made.
var unrecorded = map[int][][]any{
	162: {{"VM.set_blocked_operations", "OpaqueRef:4b4c2273-7b1b-debe-0642-02a2aa5dec8e", map[string]any{}}},
	166: {{"VBD.destroy", "OpaqueRef:4de807e7-cfa4-c9b2-8e3a-d32ebeaba54b"}},
	// The recorded hypervisor was simulated and mirrored no vm-data: the next start took it away.
	204: {{"VM.set_xenstore_data", "OpaqueRef:4b4c2273-7b1b-debe-0642-02a2aa5dec8e", map[string]any{}}},
	220: {{"VM.set_name_label", "OpaqueRef:25ed9596-1145-242b-ec04-337177d90ef5", "evt2"}},
	221: {{"VM.destroy", "OpaqueRef:25ed9596-1145-242b-ec04-337177d90ef5"}},
	338: {{"VM.start", "OpaqueRef:62901a47-467f-3dd7-5012-11991771ad64", false, false}},
	340: {{"VM.hard_shutdown", "OpaqueRef:62901a47-467f-3dd7-5012-11991771ad64"}},
	433: {{"PBD.unplug", "OpaqueRef:c7f19bc5-11d7-f27b-59f3-d5b56df075f0"}},
	446: {
		{"pool.set_suspend_image_SR", "OpaqueRef:e24c08e2-242d-34e1-2b06-193cfb1447af", "OpaqueRef:f2e643e3-7731-82ca-1491-d26f266f81e4"},
		{"VM.start", "OpaqueRef:3745a148-df81-d1c5-7bf9-d75d6780aa07", false, false},
	},
}

type reference struct{ class, ref string }

// refsIn finds the references in a value of a type.
func refsIn(t datamodel.Type, v any) []reference {
	var out []reference
	switch v := v.(type) {
	case string:
		if t.Kind == datamodel.Ref && opaque.MatchString(v) {
			out = append(out, reference{t.Name, v})
		}
	case []any:
		for _, item := range v {
			if t.Kind == datamodel.Set {
				out = append(out, refsIn(*t.Elem, item)...)
			}
		}
	case map[string]any:
		for key, item := range v {
			if t.Kind == datamodel.Map {
				out = append(out, refsIn(*t.Key, key)...)
				out = append(out, refsIn(*t.Elem, item)...)
			}
		}
	}
	return out
}
