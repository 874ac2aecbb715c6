package xva

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// DateTime is a date as XML-RPC carries it, such as 19700101T00:00:00Z.
type DateTime string

// maxDepth bounds how deeply values are nested; a record in an object in the list of objects needs 6.
const maxDepth = 16

// encodeValue appends an XML-RPC value. v is a string, int64, bool, float64, DateTime, []any, []string, map[string]any or
// map[string]string, or made of those. Members come sorted by name, so that the same value is always the same text. Integers
// are untyped, as all releases write them (xapi-facts §10.2).
func encodeValue(out *bytes.Buffer, v any) error {
	out.WriteString("<value>")
	switch v := v.(type) {
	case string:
		if err := escape(out, v); err != nil {
			return err
		}
	case int64:
		out.WriteString(strconv.FormatInt(v, 10))
	case bool:
		out.WriteString(map[bool]string{true: "<boolean>1</boolean>", false: "<boolean>0</boolean>"}[v])
	case float64:
		out.WriteString("<double>" + strconv.FormatFloat(v, 'f', -1, 64) + "</double>")
	case DateTime:
		out.WriteString("<dateTime.iso8601>")
		if err := escape(out, string(v)); err != nil {
			return err
		}
		out.WriteString("</dateTime.iso8601>")
	case []string:
		if err := encodeArray(out, v); err != nil {
			return err
		}
	case []any:
		if err := encodeArray(out, v); err != nil {
			return err
		}
	case map[string]string:
		if err := encodeStruct(out, v); err != nil {
			return err
		}
	case map[string]any:
		if err := encodeStruct(out, v); err != nil {
			return err
		}
	default:
		return fmt.Errorf("xva: a %T is no XML-RPC value", v)
	}
	out.WriteString("</value>")
	return nil
}

func encodeArray[T any](out *bytes.Buffer, items []T) error {
	out.WriteString("<array><data>")
	for _, item := range items {
		if err := encodeValue(out, item); err != nil {
			return err
		}
	}
	out.WriteString("</data></array>")
	return nil
}

func encodeStruct[T any](out *bytes.Buffer, members map[string]T) error {
	out.WriteString("<struct>")
	for _, name := range slices.Sorted(maps.Keys(members)) {
		out.WriteString("<member><name>")
		if err := escape(out, name); err != nil {
			return err
		}
		out.WriteString("</name>")
		if err := encodeValue(out, members[name]); err != nil {
			return err
		}
		out.WriteString("</member>")
	}
	out.WriteString("</struct>")
	return nil
}

// escape refuses what XML cannot carry instead of changing it.
func escape(out *bytes.Buffer, text string) error {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool {
		return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff
	}) {
		return fmt.Errorf("xva: %q: XML cannot carry this text", text)
	}
	return xml.EscapeText(out, []byte(text))
}

// decodeValue reads a document that is one XML-RPC value. Untyped text is a string, whatever it means; integers that say
// so are int64. Arrays are []any, structs map[string]any.
func decodeValue(text []byte) (any, error) {
	d := &valueDecoder{xml.NewDecoder(bytes.NewReader(text))}
	start, err := d.element()
	if err != nil {
		return nil, err
	}
	v, err := d.value(start, 0)
	if err != nil {
		return nil, err
	}
	switch token, err := d.token(); {
	case errors.Is(err, io.EOF):
		return v, nil
	case err != nil:
		return nil, err
	default:
		return nil, fmt.Errorf("%s after the value: %w", describe(token), errStray)
	}
}

type valueDecoder struct{ *xml.Decoder }

var errStray = errors.New("stray content")

func describe(token xml.Token) string {
	switch t := token.(type) {
	case xml.StartElement:
		return "<" + t.Name.Local + ">"
	case xml.EndElement:
		return "</" + t.Name.Local + ">"
	case xml.CharData:
		return "text"
	default:
		return "something"
	}
}

// token skips comments, the prolog and space between elements.
func (d *valueDecoder) token() (xml.Token, error) {
	for {
		token, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch t := token.(type) {
		case xml.Comment, xml.ProcInst:
			continue
		case xml.Directive:
			return nil, errors.New("a document type declaration")
		case xml.CharData:
			if len(bytes.TrimSpace(t)) == 0 {
				continue
			}
		}
		return token, nil
	}
}

// element wants one of the named elements to begin; no name: any.
func (d *valueDecoder) element(names ...string) (xml.StartElement, error) {
	token, err := d.token()
	if err != nil {
		return xml.StartElement{}, err
	}
	start, ok := token.(xml.StartElement)
	if !ok || len(names) > 0 && !slices.Contains(names, start.Name.Local) {
		return start, fmt.Errorf("%s where <%s> should begin: %w", describe(token), strings.Join(names, "> or <"), errStray)
	}
	return start, nil
}

func (d *valueDecoder) end() error {
	token, err := d.token()
	if err != nil {
		return err
	}
	if _, ok := token.(xml.EndElement); !ok {
		return fmt.Errorf("%s where an element should end: %w", describe(token), errStray)
	}
	return nil
}

// text is what stands before the end of an element that has no children, verbatim.
func (d *valueDecoder) text() (string, error) {
	text, child, err := d.textOrChild()
	if child != nil {
		return "", fmt.Errorf("<%s> in text: %w", child.Name.Local, errStray)
	}
	return text, err
}

// textOrChild reads up to the end of the element, or up to the beginning of its first child.
func (d *valueDecoder) textOrChild() (text string, child *xml.StartElement, err error) {
	var out strings.Builder
	for {
		token, err := d.Token()
		if err != nil {
			return "", nil, err
		}
		switch t := token.(type) {
		case xml.CharData:
			out.Write(t) // a strings.Builder takes everything
		case xml.EndElement:
			return out.String(), nil, nil
		case xml.StartElement:
			return out.String(), &t, nil
		case xml.Directive:
			return "", nil, errors.New("a document type declaration")
		}
	}
}

// value reads what follows <value>, up to and with its end.
func (d *valueDecoder) value(start xml.StartElement, depth int) (any, error) {
	if start.Name.Local != "value" {
		return nil, fmt.Errorf("<%s> where <value> should begin: %w", start.Name.Local, errStray)
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("values nested more than %d deep", maxDepth)
	}
	text, child, err := d.textOrChild()
	if err != nil {
		return nil, err
	}
	if child == nil {
		return text, nil
	}
	if strings.TrimSpace(text) != "" {
		return nil, fmt.Errorf("text before <%s>: %w", child.Name.Local, errStray)
	}
	v, err := d.typed(child.Name.Local, depth)
	if err != nil {
		return nil, err
	}
	return v, d.end()
}

func (d *valueDecoder) typed(name string, depth int) (any, error) {
	switch name {
	case "array":
		return d.array(depth)
	case "struct":
		return d.structure(depth)
	}
	text, err := d.text()
	if err != nil {
		return nil, err
	}
	switch name {
	case "string":
		return text, nil
	case "dateTime.iso8601":
		return DateTime(text), nil
	case "int", "i4", "i8":
		return strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	case "double":
		return strconv.ParseFloat(strings.TrimSpace(text), 64)
	case "boolean":
		switch strings.TrimSpace(text) {
		case "1":
			return true, nil
		case "0":
			return false, nil
		}
		return nil, fmt.Errorf("%q is no boolean", text)
	default:
		return nil, fmt.Errorf("<%s> is no type of XML-RPC", name)
	}
}

func (d *valueDecoder) array(depth int) (any, error) {
	if _, err := d.element("data"); err != nil {
		return nil, err
	}
	out := []any{}
	for {
		token, err := d.token()
		if err != nil {
			return nil, err
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			if _, ended := token.(xml.EndElement); ended {
				return out, d.end()
			}
			return nil, fmt.Errorf("%s in an array: %w", describe(token), errStray)
		}
		v, err := d.value(start, depth+1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
}

func (d *valueDecoder) structure(depth int) (any, error) {
	out := map[string]any{}
	for {
		token, err := d.token()
		if err != nil {
			return nil, err
		}
		if _, ended := token.(xml.EndElement); ended {
			return out, nil
		}
		if start, ok := token.(xml.StartElement); !ok || start.Name.Local != "member" {
			return nil, fmt.Errorf("%s in a struct: %w", describe(token), errStray)
		}
		name, v, err := d.member(depth)
		if err != nil {
			return nil, err
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("member %q stands twice in a struct", name)
		}
		out[name] = v
	}
}

func (d *valueDecoder) member(depth int) (name string, v any, err error) {
	if _, err := d.element("name"); err != nil {
		return "", nil, err
	}
	if name, err = d.text(); err != nil {
		return "", nil, err
	}
	start, err := d.element("value")
	if err != nil {
		return "", nil, err
	}
	if v, err = d.value(start, depth+1); err != nil {
		return "", nil, err
	}
	return name, v, d.end()
}
