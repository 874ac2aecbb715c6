package datamodel

import (
	"fmt"
	"strings"
)

// Kind tells what sort of value a Type describes.
type Kind string

// The kinds of the data model, and the Go type that a value of that kind has in this package and its users.
const (
	Void     Kind = "void"     // no value
	String   Kind = "string"   // string
	Int      Kind = "int"      // int64
	Float    Kind = "float"    // float64
	Bool     Kind = "bool"     // bool
	DateTime Kind = "datetime" // time.Time, UTC, whole seconds
	Enum     Kind = "enum"     // string, one of Class.Enums[Type.Name]
	Ref      Kind = "ref"      // string, NullRef when it points nowhere
	Set      Kind = "set"      // []string when the elements are strings, enums or references, else []any
	Map      Kind = "map"      // map[string]string when the values are, else map[string]any; keys are in their wire form
	Record   Kind = "record"   // map[string]any by field name
	Option   Kind = "option"   // the element's type, or nil
	Other    Kind = "other"    // described in words only (event.from's batch)
)

// NullRef is the reference to nothing. JSON null never stands for it (xapi-facts §2).
const NullRef = "OpaqueRef:NULL"

// Type is the parsed form of a type's text, such as "(string -> enum vm_operations) map".
type Type struct {
	Kind Kind
	Name string // of the enum (Enum), or of the class (Ref, Record); the text itself for Other
	Key  *Type  // of a Map
	Elem *Type  // of a Set, an Option; the values of a Map
}

// maxTypeDepth bounds the nesting that ParseType accepts; the data model needs three.
const maxTypeDepth = 8

// ParseType reads a type as the data model prints it.
func ParseType(text string) (Type, error) {
	t, err := parseType(strings.TrimSpace(text), 0)
	if err != nil {
		return Type{}, fmt.Errorf("type %q: %w", text, err)
	}
	return t, nil
}

func parseType(text string, depth int) (Type, error) {
	if depth > maxTypeDepth {
		return Type{}, fmt.Errorf("nested deeper than %d", maxTypeDepth)
	}
	switch Kind(text) {
	case Void, String, Int, Float, Bool, DateTime:
		return Type{Kind: Kind(text)}, nil
	}
	if strings.HasPrefix(text, "an ") {
		return Type{Kind: Other, Name: text}, nil
	}
	head, last, ok := cutLast(text)
	if !ok {
		return Type{}, fmt.Errorf("%q is no type", text)
	}
	switch Kind(last) {
	case Set, Option:
		elem, err := parseType(head, depth+1)
		if err != nil {
			return Type{}, err
		}
		return Type{Kind: Kind(last), Elem: &elem}, nil
	case Ref, Record:
		if strings.ContainsAny(head, " ()") {
			return Type{}, fmt.Errorf("%q is no class", head)
		}
		return Type{Kind: Kind(last), Name: head}, nil
	case Map:
		return parseMap(head, depth)
	}
	if Kind(head) == Enum {
		return Type{Kind: Enum, Name: last}, nil
	}
	return Type{}, fmt.Errorf("%q is no type", text)
}

func parseMap(head string, depth int) (Type, error) {
	inner, ok := strings.CutPrefix(head, "(")
	if inner, ok = cutSuffix(inner, ")", ok); !ok {
		return Type{}, fmt.Errorf("map without parentheses in %q", head)
	}
	from, to, ok := strings.Cut(inner, " -> ")
	if !ok {
		return Type{}, fmt.Errorf("map without arrow in %q", head)
	}
	key, err := parseType(from, depth+1)
	if err != nil {
		return Type{}, err
	}
	elem, err := parseType(to, depth+1)
	if err != nil {
		return Type{}, err
	}
	return Type{Kind: Map, Key: &key, Elem: &elem}, nil
}

func cutSuffix(s, suffix string, ok bool) (string, bool) {
	s, found := strings.CutSuffix(s, suffix)
	return s, ok && found
}

func cutLast(text string) (head, last string, ok bool) {
	i := strings.LastIndexByte(text, ' ')
	if i <= 0 || i == len(text)-1 {
		return "", "", false
	}
	return text[:i], text[i+1:], true
}

// Text tells whether values of this type are Go strings: strings, enums and references.
func (t Type) Text() bool { return t.Kind == String || t.Kind == Enum || t.Kind == Ref }

// String is the inverse of ParseType.
func (t Type) String() string {
	switch t.Kind {
	case Enum:
		return "enum " + t.Name
	case Ref, Record:
		return t.Name + " " + string(t.Kind)
	case Set, Option:
		return t.Elem.String() + " " + string(t.Kind)
	case Map:
		return "(" + t.Key.String() + " -> " + t.Elem.String() + ") map"
	case Other:
		return t.Name
	default:
		return string(t.Kind)
	}
}
