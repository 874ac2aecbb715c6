package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// maxLine bounds a message of QEMU, in bytes. The longest known, its schema, has about 200 KiB.
const maxLine = 4 << 20

// ErrProtocol is a line that is no QMP.
var ErrProtocol = errors.New("not the QEMU machine protocol")

// Error is QEMU's refusal of a command.
type Error struct {
	Command     string // that was refused
	Class       string // GenericError, CommandNotFound, DeviceNotFound, …
	Description string // for people
}

func (e *Error) Error() string {
	return fmt.Sprintf("QEMU refuses %s: %s (%s)", e.Command, e.Description, e.Class)
}

// Event is something that happened in QEMU.
type Event struct {
	Name string
	Data json.RawMessage // an object; nil for an event without data
	Time time.Time       // by the host's clock; zero when QEMU could not tell
}

// Decode stores the event's data in a struct; fields that the event has not stay as they are.
func (e Event) Decode(data any) error {
	if e.Data == nil {
		return nil
	}
	if err := json.Unmarshal(e.Data, data); err != nil {
		return fmt.Errorf("event %s: %w", e.Name, err)
	}
	return nil
}

// message is a line of QEMU: exactly one of greeting, answer, refusal or event.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Refusal  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID        *uint64         `json:"id"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

func parse(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("%w: %.200q: %w", ErrProtocol, line, err)
	}
	kinds := 0
	for _, present := range []bool{m.Greeting != nil, m.Return != nil, m.Refusal != nil, m.Event != ""} {
		if present {
			kinds++
		}
	}
	if kinds != 1 {
		return message{}, fmt.Errorf("%w: %.200q is none, or several, of greeting, answer, error and event", ErrProtocol, line)
	}
	if (m.Return != nil || m.Refusal != nil) && m.ID == nil {
		return message{}, fmt.Errorf("%w: an answer without our id: %.200q", ErrProtocol, line)
	}
	return m, nil
}

func (m message) event() Event {
	e := Event{Name: m.Event, Data: m.Data}
	if m.Timestamp.Seconds > 0 { // -1 stands for unknown
		e.Time = time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)
	}
	return e
}

// readLine returns the next line without its end. The memory taken is bounded by limit.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, limit)
		}
		line = append(line, part...)
		if err == nil {
			return bytes.TrimRight(line, "\r\n"), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}
