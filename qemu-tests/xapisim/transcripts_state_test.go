package xapisim_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// replay makes recorded calls in a pool whose state follows the record.
type replay struct {
	t       *testing.T
	pool    *xapisim.Pool
	c       *client
	model   *datamodel.Model
	records []recorded

	known     map[string]string // recorded references, uuids, … → the simulator's
	taken     map[string]bool   // those of the simulator that stand for a recorded one
	first     map[string]seen   // by recorded reference
	made      map[string]bool   // references that a replayed call will introduce
	destroyed map[string]bool   // references that a replayed call has destroyed
}

// seen is an object as its first record shows it.
type seen struct {
	class  string
	fields map[string]any
}

// firstRecords finds the first record of each object: in get_record, in get_all_records, in an event.
func firstRecords(model *datamodel.Model, records []recorded) map[string]seen {
	out := map[string]seen{}
	note := func(class, ref string, v any) {
		fields, ok := v.(map[string]any)
		if _, known := out[ref]; ok && !known && model.Classes[class] != nil {
			out[ref] = seen{class, fields}
		}
	}
	for _, r := range records {
		if r.call == nil {
			continue
		}
		switch result := r.call.answer["result"].(type) {
		case map[string]any:
			switch {
			case r.call.name == "get_record" && len(r.call.params) == 2:
				note(r.call.class, fmt.Sprint(r.call.params[1]), result)
			case strings.HasPrefix(r.call.name, "get_all_records"):
				for ref, row := range result {
					note(r.call.class, ref, row)
				}
			case r.call.method() == "event.from":
				for _, e := range eventsOf(result) {
					note(classOf(model, fmt.Sprint(e["class"])), fmt.Sprint(e["ref"]), e["snapshot"])
				}
			}
		}
	}
	return out
}

func eventsOf(batch map[string]any) []map[string]any {
	var out []map[string]any
	list, _ := batch["events"].([]any)
	for _, item := range list {
		if e, ok := item.(map[string]any); ok {
			out = append(out, e)
		}
	}
	return out
}

func classOf(model *datamodel.Model, lower string) string {
	for name := range model.Classes {
		if strings.EqualFold(name, lower) {
			return name
		}
	}
	return lower
}

var opaque = regexp.MustCompile(`OpaqueRef:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// madeBy lists what calls that change something give, and what their tasks give.
func madeBy(records []recorded) map[string]bool {
	out := map[string]bool{}
	for _, r := range records {
		if r.call == nil {
			continue
		}
		switch result := r.call.answer["result"].(type) {
		case string:
			if !r.call.reads() {
				out[result] = true
			}
		case map[string]any:
			if r.call.method() == "task.get_record" && !strings.HasPrefix(fmt.Sprint(result["name_label"]), "http.") {
				for _, ref := range opaque.FindAllString(fmt.Sprint(result["result"]), -1) {
					out[ref] = true
				}
			}
		}
	}
	return out
}

// start brings what a pool has from the beginning into the recorded state: the first look at each class tells it.
func (r *replay) start() {
	for _, class := range []string{"pool", "host", "host_metrics", "PIF", "VM", "VM_metrics", "console", "network", "SM"} {
		for _, record := range r.records {
			if record.call == nil || record.call.class != class || record.call.name != "get_all_records" {
				continue
			}
			rows, _ := record.call.answer["result"].(map[string]any)
			r.matchRows(class, rows, true)
			break
		}
	}
	for ref, now := range r.known { // references between them are known only now
		if s, ok := r.first[ref]; ok {
			r.check(r.pool.Overwrite(xapisim.Fixture{Class: s.class, Ref: now, Fields: r.plain(s)}))
		}
	}
}

func (r *replay) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// plain are the fields of a first record, in the simulator's references, of which those to unknown objects are left out.
func (r *replay) plain(s seen) map[string]any {
	out := map[string]any{}
	for _, f := range r.model.Classes[s.class].Fields {
		v, given := s.fields[f.Name]
		if !given || f.Type.Kind == datamodel.Ref && r.known[fmt.Sprint(v)] == "" {
			continue
		}
		out[f.Name] = r.translate(v)
	}
	if s.class == "host" {
		delete(out, "address") // where the simulator really listens
	}
	return out
}

// bind says that a recorded identifier is one of the simulator's.
func (r *replay) bind(want, got string) {
	if _, known := r.known[want]; !known && want != nullRef && got != nullRef {
		r.known[want], r.taken[got] = got, true
	}
}

// matchRows finds the simulator's objects that recorded rows stand for: those that resemble them most.
func (r *replay) matchRows(class string, rows map[string]any, always bool) {
	if !slices.ContainsFunc(slices.Collect(maps.Keys(rows)), func(ref string) bool { return r.known[ref] == "" }) {
		return
	}
	have := r.pool.Records(class)
	for _, ref := range slices.Sorted(maps.Keys(rows)) {
		fields, isRow := rows[ref].(map[string]any)
		if _, known := r.known[ref]; known || !isRow {
			continue
		}
		best, bestScore := "", 0.0
		for _, candidate := range slices.Sorted(maps.Keys(have)) {
			if r.taken[candidate] {
				continue
			}
			if score := r.likeness(class, fields, have[candidate]); score > bestScore {
				best, bestScore = candidate, score
			}
		}
		if bestScore > 0.85 || always && best != "" {
			r.bind(ref, best)
			r.bind(fmt.Sprint(fields["uuid"]), fmt.Sprint(have[best]["uuid"]))
			for _, f := range r.model.Classes[class].Fields {
				if other := fmt.Sprint(have[best][f.Name]); always && f.Type.Kind == datamodel.Ref && !r.taken[other] {
					r.bind(fmt.Sprint(fields[f.Name]), other)
				}
			}
		}
	}
}

// telling are fields in which two rows of one object must agree.
var telling = map[string]bool{"name_label": true, "userdevice": true, "device": true, "VM": true, "SR": true, "network": true, "snapshot_of": true}

// likeness tells how many of the plain fields of two rows are equal.
func (r *replay) likeness(class string, want, got map[string]any) float64 {
	equal, all := 1.0, 1.0
	for _, f := range r.model.Classes[class].Fields {
		switch f.Type.Kind {
		case datamodel.Set, datamodel.Map, datamodel.DateTime:
			continue
		}
		if f.Name == "uuid" {
			continue
		}
		wanted := fmt.Sprint(r.translate(want[f.Name]))
		if f.Type.Kind == datamodel.Ref {
			if r.known[fmt.Sprint(want[f.Name])] == "" {
				continue
			}
		}
		all++
		if text, err := json.Marshal(got[f.Name]); err == nil && strings.Trim(string(text), `"`) == wanted {
			equal++
		} else if telling[f.Name] {
			all += 100
		}
	}
	return equal / all
}
