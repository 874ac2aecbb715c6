package xapi

import (
	"encoding/xml"
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
// text at all is the void result (xapi-facts §3). Arrays come only from methods that are not run as tasks here.
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
	if value.XMLName.Local != "value" {
		return "", fmt.Errorf("a <value> was expected, not a <%s>", value.XMLName.Local)
	}
	if len(value.Typed) == 0 {
		return value.Text, nil
	}
	typed := value.Typed[0]
	switch typed.XMLName.Local {
	case "string", "i4", "i8", "int", "double", "boolean", "dateTime.iso8601":
	default:
		return "", fmt.Errorf("a scalar was expected, not an <%s>", typed.XMLName.Local)
	}
	if len(value.Typed) > 1 || strings.TrimSpace(value.Text) != "" {
		return "", fmt.Errorf("one scalar was expected")
	}
	return typed.Text, nil
}
