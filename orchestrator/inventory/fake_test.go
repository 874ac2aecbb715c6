package inventory_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type record = map[string]any

// fakePool answers the calls of Load from tables. Events that are waiting in next are given, once, to the first
// event.from after the tables were read.
type fakePool struct {
	xapi.API
	mu       sync.Mutex
	tables   map[string]map[string]record // class → reference → record
	next     []xapi.Event
	counts   func() map[string]int64
	fail     map[string]error // method → error
	asked    []string
	token    string
	classes  []string
	timeout  time.Duration
	injected bool
}

func (f *fakePool) Call(_ context.Context, method string, result any, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, method)
	if err := f.fail[method]; err != nil {
		return err
	}
	class, name, _ := strings.Cut(method, ".")
	var answer any
	switch {
	case method == "pool.get_all":
		answer = []string{"pool"}
	case method == "event.inject":
		f.injected = true
		answer = fmt.Sprintf("after %v", args)
	case method == "host.compute_free_memory":
		answer = f.tables["host"][string(args[0].(xapi.Ref))]["free"]
	case name == "get_all_records" && !f.injected:
		return fmt.Errorf("%s before the token was taken", method)
	case name == "get_all_records":
		answer = map[string]record{}
		if table := f.tables[class]; table != nil {
			answer = table
		}
	default:
		return &xapi.Error{Code: "MESSAGE_METHOD_UNKNOWN", Params: []string{method}}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, result)
}

func (f *fakePool) Run(context.Context, string, *string, ...any) error {
	return &xapi.Error{Code: "OPERATION_NOT_ALLOWED"}
}

func (f *fakePool) Events(_ context.Context, classes []string, token string, timeout time.Duration) (xapi.EventBatch, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.classes, f.token, f.timeout = classes, token, timeout
	batch := xapi.EventBatch{Events: f.next}
	f.next = nil
	if f.counts != nil {
		batch.ValidRefCounts = f.counts()
	}
	return batch, nil
}

// smallPool has two hosts, a shared SR, one SR of each host, an ISO SR, and a VM with three disks and a CD drive.
func smallPool() *fakePool {
	vbd := func(vm, vdi, device, kind string, empty bool) record {
		return record{"uuid": "vbd" + device, "VM": vm, "VDI": vdi, "userdevice": device, "type": kind, "empty": empty}
	}
	vm := func(name string, more record) record {
		one := record{"uuid": "uuid-" + name, "name_label": name, "power_state": "Halted"}
		maps.Copy(one, more)
		return one
	}
	sr := func(name, kind, content string) record {
		return record{"uuid": "uuid-" + name, "name_label": name, "type": kind, "content_type": content, "physical_size": 100, "physical_utilisation": 30}
	}
	pbd := func(host, sr string, attached bool) record {
		return record{"host": host, "SR": sr, "currently_attached": attached}
	}
	return &fakePool{fail: map[string]error{}, tables: map[string]map[string]record{
		"pool":         {"pool": {"uuid": "uuid-pool", "name_label": "", "master": "h1"}},
		"host":         {"h1": {"uuid": "a", "name_label": "one", "enabled": true, "metrics": "m1", "free": 10}, "h2": {"uuid": "b", "name_label": "two", "enabled": true, "metrics": "m2", "free": 20}},
		"host_metrics": {"m1": {"live": true}, "m2": {"live": true}},
		"SR":           {"shared": sr("shared", "nfs", "user"), "local1": sr("Local storage", "ext", "user"), "local2": {"uuid": "uuid-other", "name_label": "Local storage", "type": "lvm"}, "iso": sr("isos", "iso", "iso")},
		"PBD":          {"p1": pbd("h1", "shared", true), "p2": pbd("h2", "shared", true), "p3": pbd("h1", "local1", true), "p4": pbd("h2", "local2", true), "p5": pbd("h2", "local1", false)},
		"VM": {
			"mail":     vm("mail", record{"VBDs": []string{"b10", "b2", "b0", "cd", "none"}}),
			"web1":     vm("web", nil),
			"web2":     {"uuid": "uuid-second-web", "name_label": "web"},
			"snapshot": vm("mail", record{"uuid": "uuid-snapshot", "is_a_snapshot": true, "is_a_template": true}),
			"tmpl":     vm("mail", record{"uuid": "uuid-template", "is_a_template": true}),
			"dom0":     vm("Control domain", record{"is_control_domain": true}),
			"image":    vm("delegate", record{"is_a_template": true, "VBDs": []string{"bi"}, "VIFs": []string{"vif"}, "other_config": record{"understudy:kind": "delegate-template", "understudy:version": "1.2", "understudy:self": "uuid-delegate"}}),
			"copy":     vm("delegate copy", record{"is_a_template": true, "VBDs": []string{"bi"}, "VIFs": []string{"vif"}, "other_config": record{"understudy:kind": "delegate-template", "understudy:self": "uuid-delegate"}}),
			"snapped":  vm("delegate snapshot", record{"is_a_template": true, "is_a_snapshot": true, "VBDs": []string{"bi"}, "VIFs": []string{"vif"}, "other_config": record{"understudy:kind": "delegate-template"}}),
			"running":  vm("a delegate", record{"VBDs": []string{"bi"}, "VIFs": []string{"vif"}, "other_config": record{"understudy:kind": "delegate-template"}}),
		},
		"VBD": {
			"b0": vbd("mail", "d0", "0", "Disk", false), "b2": vbd("mail", "d2", "2", "Disk", false), "b10": vbd("mail", "d10", "10", "Disk", false),
			"cd": vbd("mail", "diso", "3", "CD", false), "none": vbd("mail", "OpaqueRef:NULL", "4", "Disk", true), "bi": vbd("image", "di", "0", "Disk", false),
		},
		"VDI": {"d0": {"uuid": "u0", "SR": "shared"}, "d2": {"uuid": "u2", "SR": "shared"}, "d10": {"uuid": "u10", "SR": "local1"}, "diso": {"SR": "iso"}, "di": {"SR": "shared"}},
	}}
}

func event(class, operation, ref string, snapshot record) xapi.Event {
	one := xapi.Event{Class: class, Operation: operation, Ref: xapi.Ref(ref)}
	if snapshot != nil {
		one.Snapshot, _ = json.Marshal(snapshot)
	}
	return one
}
