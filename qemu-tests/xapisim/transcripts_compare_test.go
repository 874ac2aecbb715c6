package xapisim_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// Identifiers are what each pool draws for itself: references, uuids, generated addresses, tokens of event.from.
var identifier = regexp.MustCompile(`(OpaqueRef:)?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|` +
	`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b|\b[0-9]{20},[0-9]{20}\b`)

var date = regexp.MustCompile(`\b20[0-9]{6}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\b`)

func (r *replay) translate(v any) any {
	switch v := v.(type) {
	case string:
		return identifier.ReplaceAllStringFunc(v, func(id string) string {
			if known, ok := r.known[id]; ok {
				return known
			}
			return id
		})
	case []any:
		out := []any{}
		for _, item := range v {
			out = append(out, r.translate(item))
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for key, item := range v {
			out[fmt.Sprint(r.translate(key))] = r.translate(item)
		}
		return out
	}
	return v
}

// comparison gathers the differences of one answer.
type comparison struct {
	*replay
	differences []string
}

func (c *comparison) differ(at string, got, want any) {
	c.differences = append(c.differences, fmt.Sprintf("%s is %s, want %s", at, brief(got), brief(want)))
}

func brief(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return shorten(string(text), 300)
}

// same compares values without a known type.
func (c *comparison) same(at string, want, got any) {
	switch want := want.(type) {
	case string:
		if got, ok := got.(string); ok {
			c.sameText(at, want, got)
			return
		}
	case []any:
		if got, ok := got.([]any); ok && len(got) == len(want) {
			for n := range want {
				c.same(fmt.Sprintf("%s[%d]", at, n), want[n], got[n])
			}
			return
		}
	case map[string]any:
		if got, ok := got.(map[string]any); ok {
			c.sameMembers(at, want, got, func(key string, want, got any) { c.same(at+"."+key, want, got) })
			return
		}
	default:
		if want == got {
			return
		}
	}
	c.differ(at, got, c.translate(want))
}

// sameText compares texts; identifiers that are seen for the first time are bound to each other.
func (c *comparison) sameText(at, want, got string) {
	wanted, given := identifier.FindAllString(want, -1), identifier.FindAllString(got, -1)
	if len(wanted) == len(given) {
		for n, id := range wanted {
			if !c.taken[given[n]] {
				c.bind(id, given[n])
			}
		}
	}
	translated := fmt.Sprint(c.translate(want))
	if date.ReplaceAllString(translated, "DATE") != date.ReplaceAllString(got, "DATE") {
		c.differ(at, got, translated)
	}
}

func (c *comparison) sameMembers(at string, want, got map[string]any, same func(key string, want, got any)) {
	for _, key := range slices.Sorted(maps.Keys(want)) {
		name := fmt.Sprint(c.translate(key))
		if v, ok := got[name]; ok {
			same(key, want[key], v)
		} else {
			c.differ(at+"."+name, nil, want[key])
		}
	}
	if len(got) > len(want) {
		for _, key := range slices.Sorted(maps.Keys(want)) {
			delete(got, fmt.Sprint(c.translate(key)))
		}
		for _, key := range slices.Sorted(maps.Keys(got)) {
			c.differ(at+"."+key, got[key], nil)
		}
	}
}

// typed compares values of a type of the data model. The order of references and of enumerations in sets says nothing
// (xapi-facts §2).
func (c *comparison) typed(at string, t datamodel.Type, want, got any) {
	switch t.Kind {
	case datamodel.Set:
		wanted, ok := want.([]any)
		given, isSet := got.([]any)
		if ok && isSet && (t.Elem.Kind == datamodel.Ref || t.Elem.Kind == datamodel.Enum) {
			c.unordered(at, *t.Elem, wanted, given)
			return
		}
	case datamodel.Map:
		wanted, ok := want.(map[string]any)
		given, isMap := got.(map[string]any)
		if ok && isMap {
			c.matchKeys(wanted, given)
			c.sameMembers(at, wanted, given, func(key string, want, got any) { c.typed(at+"."+key, *t.Elem, want, got) })
			return
		}
	case datamodel.Record:
		wanted, ok := want.(map[string]any)
		given, isRecord := got.(map[string]any)
		if class := c.model.Classes[t.Name]; ok && isRecord && class != nil {
			c.sameMembers(at, wanted, given, func(key string, want, got any) {
				if key == "snapshot_metadata" { // a list of maps, in whose order nothing lies
					c.sameWords(at+"."+key, want, got)
				} else if f := class.Field(key); f != nil {
					c.typed(at+"."+key, f.Type, want, got)
				} else {
					c.same(at+"."+key, want, got)
				}
			})
			return
		}
	}
	c.same(at, want, got)
}

// sameWords compares the words of texts in any order, but for what each pool draws for itself.
func (c *comparison) sameWords(at string, want, got any) {
	count := map[string]int{}
	words := func(v any, by int) {
		for word := range strings.FieldsFuncSeq(identifier.ReplaceAllString(fmt.Sprint(v), "ID"), func(r rune) bool { return strings.ContainsRune(" ()", r) }) {
			count[word] += by
		}
	}
	words(want, 1)
	words(got, -1)
	maps.DeleteFunc(count, func(_ string, n int) bool { return n == 0 })
	if len(count) > 0 {
		c.differences = append(c.differences, fmt.Sprintf("%s lacks so many of these words: %v", at, count))
	}
}

// matchKeys binds the identifiers in keys where one unknown stands on each side.
func (c *comparison) matchKeys(want, got map[string]any) {
	var unknown, free []string
	for key := range want {
		if id := identifier.FindString(key); id != "" && c.known[id] == "" {
			unknown = append(unknown, id)
		}
	}
	for key := range got {
		if id := identifier.FindString(key); id != "" && !c.taken[id] {
			free = append(free, id)
		}
	}
	if len(unknown) == 1 && len(free) == 1 && unknown[0] != free[0] {
		c.bind(unknown[0], free[0])
	}
}

func (c *comparison) unordered(at string, elem datamodel.Type, want, got []any) {
	if elem.Kind == datamodel.Ref {
		c.matchRefs(elem.Name, want, got)
	}
	compare := func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
	wanted, _ := c.translate(want).([]any)
	given := slices.SortedFunc(slices.Values(got), compare)
	slices.SortFunc(wanted, compare)
	if fmt.Sprint(wanted) == fmt.Sprint(given) {
		return
	}
	missing := slices.DeleteFunc(slices.Clone(wanted), func(v any) bool { return slices.Contains(given, v) })
	extra := slices.DeleteFunc(given, func(v any) bool { return slices.Contains(wanted, v) })
	c.differences = append(c.differences, fmt.Sprintf("%s lacks %s, has besides %s", at, brief(missing), brief(extra)))
}

// matchRefs binds the unknown references of a set: by what is known of their objects, else by their order.
func (c *comparison) matchRefs(class string, want, got []any) {
	rows := map[string]any{}
	for _, ref := range want {
		text := fmt.Sprint(ref)
		if s, ok := c.first[text]; ok && c.known[text] == "" && s.class == class {
			rows[text] = s.fields
		}
	}
	c.matchRows(class, rows, false)
	var free []string
	for _, ref := range got {
		if text := fmt.Sprint(ref); !c.taken[text] {
			free = append(free, text)
		}
	}
	for _, ref := range want {
		if text := fmt.Sprint(ref); c.known[text] == "" && len(free) > 0 && c.first[text].fields == nil {
			c.bind(text, free[0])
			free = free[1:]
		}
	}
}

// answers compares two answers of a call.
func (c *comparison) answers(call *recordedCall, got map[string]any) {
	want := maps.Clone(call.answer)
	result, succeeded := want["result"]
	given, ok := got["result"]
	if !succeeded || result == nil || !ok || given == nil || call.async || call.message == nil {
		c.same("answer", want, got)
		return
	}
	switch {
	case call.method() == "event.from":
		c.batch(asMap(result), asMap(given))
	default:
		c.typed("result", call.message.Result, result, given)
	}
	delete(want, "result")
	delete(got, "result")
	c.same("answer", want, got)
}

func asMap(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// batch compares what event.from gives: its events by their objects, since the order of their generations is a pool's own.
func (c *comparison) batch(want, got map[string]any) {
	messages := map[string]any{}
	for _, e := range eventsOf(want) {
		if e["class"] == "message" {
			messages[fmt.Sprint(e["ref"])] = e["snapshot"]
		}
	}
	c.matchRows("message", messages, false)
	given := map[string]map[string]any{}
	for _, e := range eventsOf(got) {
		given[fmt.Sprint(e["class"], " ", e["ref"])] = e
	}
	for _, e := range eventsOf(want) {
		class := fmt.Sprint(e["class"])
		at := class + " " + fmt.Sprint(c.translate(e["ref"]))
		other := given[at]
		if other == nil {
			c.differ("event", nil, e)
			continue
		}
		delete(given, at)
		snapshot, seen := e["snapshot"], other["snapshot"]
		e, other = maps.Clone(e), maps.Clone(other)
		for _, key := range []string{"id", "snapshot"} {
			delete(e, key)
			delete(other, key)
		}
		c.same("event of "+at, e, other)
		c.typed(at, datamodel.Type{Kind: datamodel.Record, Name: classOf(c.model, class)}, snapshot, seen)
	}
	for _, at := range slices.Sorted(maps.Keys(given)) {
		c.differ("event", at, nil)
	}
	c.counts(asMap(want["valid_ref_counts"]), asMap(got["valid_ref_counts"]))
	c.same("token", want["token"], got["token"])
}

// counts compares valid_ref_counts by their classes. The numbers follow from objects of which the record shows few, so
// that they are held against what the simulator really has.
func (c *comparison) counts(want, got map[string]any) {
	for class := range want {
		if _, ok := got[class]; !ok {
			c.differ("valid_ref_counts."+class, nil, want[class])
		}
	}
	for class, count := range got {
		if _, ok := want[class]; !ok {
			c.differ("valid_ref_counts."+class, count, nil)
		}
		if have := len(c.pool.Records(classOf(c.model, class))); fmt.Sprint(count) != fmt.Sprint(have) {
			c.differ("valid_ref_counts."+class, count, have)
		}
	}
}

func (c *comparison) join() []string {
	slices.SortFunc(c.differences, strings.Compare)
	return c.differences
}
