package xapisim

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// wire turns a typed value into what encoding/json writes as xapi does: void is "", dates have their own form, a whole
// float keeps its fraction, and null never occurs (xapi-facts §2).
func wire(v any) any {
	switch v := v.(type) {
	case nil:
		return ""
	case time.Time:
		return datamodel.FormatDate(v)
	case float64:
		return json.RawMessage(floatText(v))
	case []string:
		if v == nil {
			return []string{}
		}
		return v
	case map[string]string:
		if v == nil {
			return map[string]string{}
		}
		return v
	case []any:
		out := make([]any, 0, len(v))
		for _, item := range v {
			out = append(out, wire(item))
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, item := range v {
			out[key] = wire(item)
		}
		return out
	default:
		return v
	}
}

func floatText(f float64) string {
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if f == math.Trunc(f) {
		text += ".0"
	}
	return text
}

// noResult is the outcome of what sets no result, which is not the same as void (transcripts).
var noResult = struct{}{}

// taskResult is the XML text that a task's result field holds (xapi-facts §3).
func taskResult(v any) string {
	if v == any(noResult) {
		return ""
	}
	return "<value>" + xmlText(v) + "</value>"
}

func xmlText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		var out strings.Builder
		_ = xml.EscapeText(&out, []byte(v)) // a strings.Builder takes everything
		return out.String()
	case bool:
		if v {
			return "<boolean>1</boolean>"
		}
		return "<boolean>0</boolean>"
	case float64:
		return "<double>" + floatText(v) + "</double>"
	case time.Time:
		return "<dateTime.iso8601>" + datamodel.FormatDate(v) + "</dateTime.iso8601>"
	case []string:
		return xmlArray(v)
	case []any:
		return xmlArray(v)
	case map[string]string:
		return xmlStruct(v)
	case map[string]any:
		return xmlStruct(v)
	default:
		return fmt.Sprint(v) // 64-bit integers are untyped text
	}
}

func xmlArray[T any](items []T) string {
	var out strings.Builder
	for _, item := range items {
		out.WriteString(taskResult(item))
	}
	return "<array><data>" + out.String() + "</data></array>"
}

func xmlStruct[T any](items map[string]T) string {
	var out strings.Builder
	for _, key := range slices.Sorted(maps.Keys(items)) {
		out.WriteString("<member><name>" + xmlText(key) + "</name>" + taskResult(items[key]) + "</member>")
	}
	return "<struct>" + out.String() + "</struct>"
}

// record is an object as get_record gives it. The caller holds Pool.mu; the result shares no map with the database.
func (p *Pool) record(o *object) map[string]any {
	out := make(map[string]any, len(o.values))
	for _, f := range o.class.Fields {
		if p.known(o.class, f) {
			out[f.Name] = wire(p.field(o, f.Name))
		}
	}
	return out
}

// field is the value of a field as an accessor gives it: stored, or computed when it follows from others.
func (p *Pool) field(o *object, name string) any {
	if compute := computed[relation{o.class.Name, name}]; compute != nil {
		return compute(p, o)
	}
	return o.values[name]
}
