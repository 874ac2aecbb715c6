package xapisim

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// decoder turns values of JSON into typed values of the data model, with the strictness and the texts of xapi
// (xapi-facts §2, xapi-observed 'Encoding').
type decoder struct {
	model *datamodel.Model
	enums map[string][]string
}

func newDecoder(model *datamodel.Model) *decoder {
	d := &decoder{model: model, enums: map[string][]string{}}
	for _, class := range model.Classes {
		maps.Copy(d.enums, class.Enums)
	}
	return d
}

func (d *decoder) value(t datamodel.Type, v any) (any, error) {
	switch t.Kind {
	case datamodel.String, datamodel.Ref:
		return decodeText(v)
	case datamodel.Enum:
		return d.enum(t.Name, v)
	case datamodel.Int:
		return decodeInt(v)
	case datamodel.Float:
		return decodeFloat(v)
	case datamodel.Bool:
		if b, ok := v.(bool); ok {
			return b, nil
		}
		return nil, expected("bool", v)
	case datamodel.DateTime:
		text, ok := v.(string)
		if !ok {
			return nil, expected("datetime", v)
		}
		date, err := datamodel.ParseDate(text)
		if err != nil {
			return nil, failure(fmt.Sprintf("%q is no date", text))
		}
		return date, nil
	case datamodel.Set:
		return d.set(t, v)
	case datamodel.Map:
		return d.dictionary(t, v)
	case datamodel.Record:
		return d.constructor(d.model.Classes[t.Name], v)
	default:
		return nil, failure("no argument can be a " + t.String())
	}
}

func decodeText(v any) (string, error) {
	text, ok := v.(string)
	if !ok {
		return "", expected("string", v)
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool {
		return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff
	}) {
		return "", internal("Db_exn.Invalid_value")
	}
	return text, nil
}

func (d *decoder) enum(name string, v any) (any, error) {
	text, ok := v.(string)
	if !ok {
		return nil, expected("string", v)
	}
	for _, known := range d.enums[name] {
		if strings.EqualFold(known, text) {
			return known, nil
		}
	}
	return nil, failure("Unknown tag/contents")
}

func decodeInt(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
	case string:
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			return n, nil
		}
	}
	return nil, expected("int64", v)
}

func decodeFloat(v any) (any, error) {
	var text string
	switch v := v.(type) {
	case json.Number:
		text = v.String()
	case string:
		text = v
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return nil, expected("float", v)
	}
	return n, nil
}

func (d *decoder) set(t datamodel.Type, v any) (any, error) {
	items, ok := v.([]any)
	if !ok {
		return nil, failure("Expecting Rpc.Enum, but found '" + rpcText(v) + "'")
	}
	texts, values := make([]string, 0, len(items)), make([]any, 0, len(items))
	for _, item := range items {
		value, err := d.value(*t.Elem, item)
		if err != nil {
			return nil, err
		}
		if text, ok := value.(string); ok {
			texts = append(texts, text)
		}
		values = append(values, value)
	}
	if t.Elem.Text() {
		return texts, nil
	}
	return values, nil
}

func (d *decoder) dictionary(t datamodel.Type, v any) (any, error) {
	items, ok := v.(map[string]any)
	if !ok {
		return nil, failure("Expecting Rpc.Dict, but found '" + rpcText(v) + "'")
	}
	texts, values := make(map[string]string, len(items)), make(map[string]any, len(items))
	for key, item := range items {
		name, err := d.value(*t.Key, key)
		if err != nil {
			return nil, err
		}
		value, err := d.value(*t.Elem, item)
		if err != nil {
			return nil, err
		}
		if text, ok := value.(string); ok {
			texts[fmt.Sprint(name)] = text
		}
		values[fmt.Sprint(name)] = value
	}
	if t.Elem.Text() {
		return texts, nil
	}
	return values, nil
}

// constructor reads the struct of a Class.create: unknown members are ignored, missing ones take their default or are
// an error, runtime fields cannot be given (xapi-facts §1.4, §5.2).
func (d *decoder) constructor(class *datamodel.Class, v any) (any, error) {
	members, ok := v.(map[string]any)
	if !ok || class == nil {
		return nil, failure("Expecting Rpc.Dict, but found '" + rpcText(v) + "'")
	}
	out := map[string]any{}
	for _, f := range inOrder(class) {
		member, given := members[f.Name]
		if !given {
			if f.Required() {
				return nil, internal(fmt.Sprintf("Server_helpers.Dispatcher_FieldNotFound(%q)", f.Name))
			}
			continue
		}
		value, err := d.value(f.Type, member)
		if err != nil {
			return nil, err
		}
		out[f.Name] = value
	}
	return out, nil
}

// constructorOrder lists the mandatory fields in the order in which xapi looks for them: the first that is missing is
// the one that it names (xapi-facts §5.2). The data model as it is published has them by the alphabet.
var constructorOrder = map[string][]string{
	"VM": {
		"user_version", "is_a_template", "affinity", "memory_static_max", "memory_dynamic_max", "memory_dynamic_min", "memory_static_min",
		"VCPUs_params", "VCPUs_max", "VCPUs_at_startup", "actions_after_shutdown", "actions_after_reboot", "actions_after_crash",
		"PV_bootloader", "PV_kernel", "PV_ramdisk", "PV_args", "PV_bootloader_args", "PV_legacy_args", "HVM_boot_policy",
		"HVM_boot_params", "platform", "PCI_bus", "other_config", "recommendations",
	},
	"VDI": {"SR", "virtual_size", "type", "sharable", "read_only", "other_config"},
	"VBD": {"VM", "VDI", "userdevice", "bootable", "mode", "type", "empty", "other_config", "qos_algorithm_type", "qos_algorithm_params"},
	"VIF": {"device", "network", "VM", "MAC", "MTU", "other_config", "qos_algorithm_type", "qos_algorithm_params"},
}

// inOrder gives the fields that a constructor takes, in the order in which xapi looks for them.
func inOrder(class *datamodel.Class) []*datamodel.Field {
	settable := slices.DeleteFunc(slices.Clone(class.Fields), func(f *datamodel.Field) bool { return f.Qualifier == datamodel.Runtime })
	rank := func(f *datamodel.Field) int {
		if n := slices.Index(constructorOrder[class.Name], f.Name); n >= 0 {
			return n
		}
		return len(class.Fields)
	}
	slices.SortStableFunc(settable, func(a, b *datamodel.Field) int { return rank(a) - rank(b) })
	return settable
}

func failure(text string) *Error { return internal(fmt.Sprintf("Failure(%q)", text)) }

func expected(kind string, v any) *Error {
	return failure(fmt.Sprintf("Expected %s, got '%s'", kind, rpcText(v)))
}

// rpcText prints a value of JSON as xapi's RPC library does in its error texts.
func rpcText(v any) string {
	switch v := v.(type) {
	case nil:
		return "N"
	case bool:
		return fmt.Sprintf("B(%v)", v)
	case string:
		return "S(" + v + ")"
	case json.Number:
		if _, err := v.Int64(); err == nil {
			return "I(" + v.String() + ")"
		}
		f, _ := v.Float64()
		return fmt.Sprintf("F(%g)", f)
	case []any:
		var items []string
		for _, item := range v {
			items = append(items, rpcText(item))
		}
		return "[" + strings.Join(items, ";") + "]"
	case map[string]any:
		var items []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			items = append(items, key+":"+rpcText(v[key]))
		}
		return "{" + strings.Join(items, ";") + "}"
	default:
		return fmt.Sprint(v)
	}
}
