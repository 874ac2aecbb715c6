package xapi

import (
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
)

// taskResultLimit bounds the XML of a result. The longest known are change bitmaps in base64, some 3 MiB a TiB.
const taskResultLimit = 64 << 20

func storeTaskResult(method, text string, result *string) error {
	if result == nil {
		return nil
	}
	value, err := parseTaskResult(text)
	if err != nil {
		return fmt.Errorf("%s: %w: the result of its task, %q: %w", method, ErrMalformed, excerpt([]byte(text)), err)
	}
	*result = value
	return nil
}

// xmlValue is an XML-RPC value. xapi leaves the element of a scalar's type out; XML-RPC allows both forms.
type xmlValue struct {
	XMLName xml.Name
	Text    string `xml:",chardata"`
	Typed   []struct {
		XMLName xml.Name
		Text    string `xml:",chardata"`
	} `xml:",any"`
}

// parseTaskResult reads the scalar that a task holds as its result: <value>text</value> with entities, where no
// text at all is the void result (xapi-facts §3).
func parseTaskResult(text string) (string, error) {
	if len(text) > taskResultLimit {
		return "", fmt.Errorf("it has %d bytes, at most %d are read: %w", len(text), taskResultLimit, ErrTooLarge)
	}
	if text == "" {
		return "", nil
	}
	var value xmlValue
	if err := xml.Unmarshal([]byte(text), &value); err != nil {
		return "", err
	}
	return value.scalar()
}

func (v xmlValue) scalar() (string, error) {
	if v.XMLName.Local != "value" {
		return "", fmt.Errorf("a <value> was expected, not a <%s>", v.XMLName.Local)
	}
	if len(v.Typed) == 0 {
		return v.Text, nil
	}
	typed := v.Typed[0]
	switch typed.XMLName.Local {
	case "string", "i4", "i8", "int", "double", "boolean", "dateTime.iso8601":
	default:
		return "", fmt.Errorf("a scalar was expected, not an <%s>", typed.XMLName.Local)
	}
	if len(v.Typed) > 1 || strings.TrimSpace(v.Text) != "" {
		return "", fmt.Errorf("one scalar was expected")
	}
	return typed.Text, nil
}

// parseTaskRefs reads the result of an import: <value><array><data><value>OpaqueRef:…</value>… (xapi-facts §3).
func parseTaskRefs(text string) ([]Ref, error) {
	malformed := func(err error) error {
		return fmt.Errorf("%s: %w: the result of its task, %q: %w", importMethod, ErrMalformed, excerpt([]byte(text)), err)
	}
	if len(text) > taskResultLimit {
		return nil, malformed(ErrTooLarge)
	}
	var array struct {
		XMLName xml.Name   `xml:"value"`
		Items   []xmlValue `xml:"array>data>value"`
	}
	if err := xml.Unmarshal([]byte(text), &array); err != nil {
		return nil, malformed(err)
	}
	refs := make([]Ref, len(array.Items))
	for i, item := range array.Items {
		ref, err := item.scalar()
		if err != nil {
			return nil, malformed(err)
		}
		refs[i] = Ref(ref)
	}
	if len(refs) == 0 {
		return nil, malformed(errors.New("it names no VM"))
	}
	return refs, nil
}
