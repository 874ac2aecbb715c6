package datamodel_test

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

func embedded(t *testing.T) *datamodel.Model {
	t.Helper()
	m, err := datamodel.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEmbeddedClasses(t *testing.T) {
	m := embedded(t)
	for _, name := range []string{"session", "pool", "host", "host_metrics", "SR", "PBD", "VDI", "VBD", "VM", "VM_metrics",
		"VM_guest_metrics", "VIF", "network", "PIF", "task", "event", "console", "VTPM"} {
		if m.Classes[name] == nil {
			t.Errorf("no class %s", name)
		}
	}
	if got := m.Errors["MAP_DUPLICATE_KEY"]; len(got) != 4 {
		t.Errorf("MAP_DUPLICATE_KEY has the parameters %q", got)
	}
}

// The facts beside each case are those of xapi-facts §5.
func TestFields(t *testing.T) {
	m := embedded(t)
	epoch := time.Unix(0, 0).UTC()
	for _, c := range []struct {
		class, field, typ string
		qualifier         datamodel.Qualifier
		def               any
	}{
		{"VM", "name_label", "string", datamodel.ReadWrite, ""},
		{"VM", "power_state", "enum vm_power_state", datamodel.Constructor, "Halted"},
		{"VM", "has_vendor_device", "bool", datamodel.Constructor, true},
		{"VM", "HVM_shadow_multiplier", "float", datamodel.Constructor, 1.0},
		{"VM", "blocked_operations", "(enum vm_operations -> string) map", datamodel.Constructor, map[string]string{}},
		{"VM", "snapshot_time", "datetime", datamodel.Runtime, epoch},
		{"VM", "generation_id", "string", datamodel.Constructor, "0:0"},
		{"VM", "memory_static_max", "int", datamodel.Constructor, nil},
		{"VDI", "SR", "SR ref", datamodel.Constructor, nil},
		{"VDI", "snapshot_of", "VDI ref", datamodel.Runtime, datamodel.NullRef},
		{"VBD", "allowed_operations", "enum vbd_operations set", datamodel.Runtime, []string{}},
		{"host", "virtual_hardware_platform_versions", "int set", datamodel.Runtime, []any{int64(0)}},
		{"host", "license_server", "(string -> string) map", datamodel.ReadWrite, map[string]string{"address": "localhost", "port": "27000"}},
		{"VM_metrics", "VCPUs_utilisation", "(int -> float) map", datamodel.Runtime, map[string]any{}},
		{"network", "assigned_ips", "(VIF ref -> string) map", datamodel.Runtime, map[string]string{}},
	} {
		f := m.Classes[c.class].Field(c.field)
		if f == nil {
			t.Errorf("%s.%s is missing", c.class, c.field)
			continue
		}
		if f.Type.String() != c.typ || f.Qualifier != c.qualifier || !reflect.DeepEqual(f.Default, c.def) {
			t.Errorf("%s.%s: %s %s default %#v", c.class, c.field, f.Qualifier, f.Type, f.Default)
		}
	}
}

// The mandatory keys of constructors are those of xapi-facts §5.2.
func TestRequiredFields(t *testing.T) {
	m := embedded(t)
	for class, want := range map[string]string{
		"VBD": "VDI VM bootable empty mode other_config qos_algorithm_params qos_algorithm_type type userdevice",
		"VDI": "SR other_config read_only sharable type virtual_size",
		"PBD": "SR device_config host",
	} {
		var got []string
		for _, f := range m.Classes[class].Fields {
			if f.Required() {
				got = append(got, f.Name)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s requires %q", class, got)
		}
	}
}

func TestMessages(t *testing.T) {
	m := embedded(t)
	start := m.Classes["VM"].Messages["start"]
	if start.NoSession || start.Mandatory() != 3 || start.Result.Kind != datamodel.Void || !start.Async() || start.Implicit {
		t.Errorf("VM.start: %+v", start)
	}
	login := m.Classes["session"].Messages["login_with_password"]
	if !login.NoSession || login.Mandatory() != 2 || len(login.Params) != 4 || login.Async() {
		t.Errorf("session.login_with_password: %+v", login)
	}
	for call, async := range map[string]bool{"VM.get_record": false, "VM.create": true, "VDI.destroy": true, "task.cancel": false,
		"VM.set_name_label": false, "VM.set_blocked_operations": true, "event.from": false} {
		class, name, _ := strings.Cut(call, ".")
		if got := m.Classes[class].Messages[name].Async(); got != async {
			t.Errorf("%s asynchronous: %v", call, got)
		}
	}
	if !m.Classes["VBD"].Messages["get_metrics"].Lifecycle.Gone() {
		t.Error("VBD.get_metrics is a removed message")
	}
	if got := m.Classes["event"].Messages["from"].Result; got.Kind != datamodel.Other {
		t.Errorf("event.from gives %+v", got)
	}
}

// Every text of the model must come back from its parsed form, so that nothing of it is lost.
func TestTypeRoundTrip(t *testing.T) {
	texts := map[string]bool{}
	for _, c := range embedded(t).Classes {
		for _, f := range c.Fields {
			texts[f.Type.String()] = true
		}
		for _, msg := range c.Messages {
			texts[msg.Result.String()] = true
		}
	}
	for _, text := range slices.Sorted(maps.Keys(texts)) {
		got, err := datamodel.ParseType(text)
		if err != nil || got.String() != text {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
}

func TestParseRefusesBadModels(t *testing.T) {
	field := func(f string) string { return `{"classes":{"C":{"fields":[` + f + `]}}}` }
	for want, text := range map[string]string{
		"unexpected end":     `{`,
		"is no type":         field(`["a","strange","RW",null,{}]`),
		"unknown qualifier":  field(`["a","int","RO",null,{}]`),
		"default":            field(`["a","int","RW","x",{}]`),
		"members instead of": field(`["a","int"]`),
		"twice":              field(`["a","int","RW",null,{}],["a","int","RW",null,{}]`),
		"class C":            `{"classes":{"C":{"messages":{"m":{"result":"?"}}}}}`,
		"parameter":          `{"classes":{"C":{"messages":{"m":{"result":"void","params":[["x"]]}}}}}`,
	} {
		if _, err := datamodel.Parse(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestDates(t *testing.T) {
	want := time.Date(2025, 3, 19, 4, 16, 24, 0, time.UTC)
	for _, text := range []string{"20250319T04:16:24Z", "20250319T04:16:24", "2025-03-19T04:16:24Z", "2025-03-19T05:16:24+01:00"} {
		if got, err := datamodel.ParseDate(text); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := datamodel.ParseDate("yesterday"); err == nil {
		t.Error("'yesterday' was taken as a date")
	}
	if got := datamodel.FormatDate(time.Time{}); got != "19700101T00:00:00Z" {
		t.Errorf("unset is %s", got)
	}
}

func FuzzParseType(f *testing.F) {
	for _, text := range []string{"string", "VM ref set", "(string -> enum x) map", "an event batch", "VBD record option", "((a", " set"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := datamodel.ParseType(text)
		if err != nil {
			return
		}
		again, err := datamodel.ParseType(parsed.String())
		if err != nil || !reflect.DeepEqual(parsed, again) {
			t.Fatalf("%q: %+v, again %+v, %v", text, parsed, again, err)
		}
		parsed.Zero()
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"classes":{"C":{"fields":[["a","int set","RW","{0, 1}",{}]],"messages":{"m":{"result":"void","params":[["session_id","session ref",true]]}}}}}`))
	f.Add([]byte(`{"classes":{"C":{"fields":[["a","(string -> string) map","RW","{\"a\" -> \"b\"}",{}]]}}}`))
	f.Fuzz(func(_ *testing.T, text []byte) {
		_, _ = datamodel.Parse(strings.NewReader(string(text)))
	})
}
