package datamodel

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// dateLayout is the form of dates on the wire (xapi-facts §2).
const dateLayout = "20060102T15:04:05Z"

// FormatDate gives the wire form of a date; the zero time is "unset", the epoch.
func FormatDate(t time.Time) string {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return t.UTC().Format(dateLayout)
}

// ParseDate reads a date of the wire: basic or extended ISO 8601 of whole seconds; without a zone it is taken as UTC
// (xapi-facts §2).
func ParseDate(text string) (time.Time, error) {
	for _, layout := range []string{dateLayout, "20060102T15:04:05", time.RFC3339, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("date %q: want a form like 20250319T04:16:24Z", text)
}

// Zero is the value that a fresh object shows in a field of this type without a default (xapi-facts §5): "", 0, false,
// the epoch, an empty set or map, NullRef. Each call makes new sets and maps.
func (t Type) Zero() any {
	switch t.Kind {
	case String, Enum:
		return ""
	case Ref:
		return NullRef
	case Int:
		return int64(0)
	case Float:
		return float64(0)
	case Bool:
		return false
	case DateTime:
		return time.Unix(0, 0).UTC()
	case Set:
		if t.Elem.Text() {
			return []string{}
		}
		return []any{}
	case Map:
		if t.Elem.Text() {
			return map[string]string{}
		}
		return map[string]any{}
	case Record:
		return map[string]any{}
	default:
		return nil
	}
}

// parseDefault reads the textual form of a default, as the data model prints it, into a value of this type.
func (t Type) parseDefault(text string) (any, error) {
	switch t.Kind {
	case String, Enum:
		if strings.HasPrefix(text, `"`) {
			return strconv.Unquote(text)
		}
		return text, nil
	case Ref:
		if text == "Null" {
			return NullRef, nil
		}
		return text, nil
	case Int:
		return strconv.ParseInt(text, 10, 64)
	case Float:
		return strconv.ParseFloat(text, 64)
	case Bool:
		return strconv.ParseBool(text)
	case DateTime:
		return ParseDate(text)
	case Set:
		return t.parseSet(text)
	case Map:
		return t.parseMapDefault(text)
	default:
		return nil, fmt.Errorf("a %s has no default", t)
	}
}

func (t Type) parseSet(text string) (any, error) {
	items, err := braced(text, ", ")
	if err != nil {
		return nil, err
	}
	texts, values := []string{}, []any{}
	for _, item := range items {
		v, err := t.Elem.parseDefault(item)
		if err != nil {
			return nil, err
		}
		if s, ok := v.(string); ok {
			texts = append(texts, s)
		}
		values = append(values, v)
	}
	if t.Elem.Text() {
		return texts, nil
	}
	return values, nil
}

func (t Type) parseMapDefault(text string) (any, error) {
	items, err := braced(text, ", ")
	if err != nil {
		return nil, err
	}
	texts, values := map[string]string{}, map[string]any{}
	for _, item := range items {
		from, to, ok := strings.Cut(item, " -> ")
		if !ok {
			return nil, fmt.Errorf("%q is no pair", item)
		}
		key, err := Type{Kind: String}.parseDefault(from)
		if err != nil {
			return nil, err
		}
		v, err := t.Elem.parseDefault(to)
		if err != nil {
			return nil, err
		}
		name, _ := key.(string)
		if s, ok := v.(string); ok {
			texts[name] = s
		}
		values[name] = v
	}
	if t.Elem.Text() {
		return texts, nil
	}
	return values, nil
}

func braced(text, separator string) ([]string, error) {
	inner, ok := strings.CutPrefix(text, "{")
	if inner, ok = cutSuffix(inner, "}", ok); !ok {
		return nil, fmt.Errorf("%q stands in no braces", text)
	}
	if inner == "" {
		return nil, nil
	}
	return strings.Split(inner, separator), nil
}
