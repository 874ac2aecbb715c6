package guestqemu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits in bytes.
const (
	maxConfiguration = 64 << 10
	maxLine          = 16 << 10 // with its newline
	maxValue         = 4096     // as in XenStore (xapi-facts §7.1)
)

// ErrProtocol is input from QEMU's side that does not follow the protocol.
var ErrProtocol = errors.New("the world broke the guest protocol")

// message is one line on the port. Exactly one of its fields is set.
type message struct {
	Write  map[string]string `json:"write,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// line encodes a message with its newline.
func (m message) line() ([]byte, error) {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(m); err != nil {
		return nil, err
	}
	if line.Len() > maxLine {
		return nil, fmt.Errorf("the line has %d bytes, more than %d", line.Len(), maxLine)
	}
	return line.Bytes(), nil
}

// parseMessage decodes one line. Its errors are ErrProtocol.
func parseMessage(line []byte) (message, error) {
	var m message
	if err := strict(line, &m); err != nil {
		return message{}, fmt.Errorf("%w: line %.200q: %w", ErrProtocol, line, err)
	}
	if (len(m.Write) == 0) == (len(m.Remove) == 0) {
		return message{}, fmt.Errorf("%w: line %.200q: it has keys either to write or to remove", ErrProtocol, line)
	}
	if err := checkValues(m.Write); err != nil {
		return message{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return m, nil
}

// parseConfiguration decodes the fw_cfg item. Its errors are ErrProtocol.
func parseConfiguration(data []byte) (map[string]string, error) {
	values := map[string]string{}
	err := strict(data, &values)
	if err == nil {
		err = checkValues(values)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: fw_cfg item %s, which is one JSON object of texts: %w", ErrProtocol, configurationItem, err)
	}
	if values == nil { // null
		values = map[string]string{}
	}
	return values, nil
}

// strict decodes one JSON value with nothing unknown in it and nothing behind it.
func strict(data []byte, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func checkValues(values map[string]string) error {
	for key, value := range values {
		if err := checkEntry(key, value); err != nil {
			return err
		}
	}
	return nil
}

// checkEntry holds both directions to what XenStore would take.
func checkEntry(key, value string) error {
	if key == "" || strings.HasPrefix(key, "/") || strings.HasSuffix(key, "/") || strings.Contains(key, "//") {
		return fmt.Errorf("key %.200q: it is a path relative to the domain", key)
	}
	if len(key)+len(value) > maxValue {
		return fmt.Errorf("key %.200q and its value have %d bytes, more than %d", key, len(key)+len(value), maxValue)
	}
	return nil
}
