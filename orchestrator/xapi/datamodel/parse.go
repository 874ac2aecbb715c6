package datamodel

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// maxModelSize bounds what Parse reads; the full data model takes half a mebibyte.
const maxModelSize = 16 << 20

type jsonModel struct {
	Errors  map[string][]string  `json:"errors"`
	Classes map[string]jsonClass `json:"classes"`
}

type jsonClass struct {
	Fields   [][]json.RawMessage    `json:"fields"`
	Messages map[string]jsonMessage `json:"messages"`
	Enums    map[string][]string    `json:"enums"`
}

type jsonMessage struct {
	Params    [][]json.RawMessage `json:"params"`
	Result    string              `json:"result"`
	Errors    []string            `json:"errors"`
	Implicit  bool                `json:"implicit"`
	Lifecycle Lifecycle           `json:"lifecycle"`
	MinRole   string              `json:"min_role"`
}

// Parse reads a data model in the form of model.json: the whole published one or a part of it. Its errors name the class
// and the field or message that they are about.
func Parse(r io.Reader) (*Model, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxModelSize+1))
	if err != nil {
		return nil, fmt.Errorf("data model: %w", err)
	}
	if len(text) > maxModelSize {
		return nil, fmt.Errorf("data model: larger than %d bytes", maxModelSize)
	}
	var in jsonModel
	if err := json.Unmarshal(text, &in); err != nil {
		return nil, fmt.Errorf("data model: %w", err)
	}
	m := &Model{Classes: make(map[string]*Class, len(in.Classes)), Errors: in.Errors}
	for name, c := range in.Classes {
		class, err := parseClass(name, c)
		if err != nil {
			return nil, fmt.Errorf("data model: class %s: %w", name, err)
		}
		m.Classes[name] = class
	}
	return m, nil
}

func parseClass(name string, in jsonClass) (*Class, error) {
	c := &Class{Name: name, Enums: in.Enums, Messages: make(map[string]*Message, len(in.Messages)), byName: map[string]*Field{}}
	for _, raw := range in.Fields {
		f, err := parseField(raw)
		if err != nil {
			return nil, err
		}
		if c.byName[f.Name] != nil {
			return nil, fmt.Errorf("field %s: twice", f.Name)
		}
		c.Fields = append(c.Fields, f)
		c.byName[f.Name] = f
	}
	for message, raw := range in.Messages {
		m, err := parseMessage(raw)
		if err != nil {
			return nil, fmt.Errorf("message %s: %w", message, err)
		}
		m.Class, m.Name = name, message
		c.Messages[message] = m
	}
	if all := c.Messages["get_all_records"]; all != nil { // every such class has it; the published model leaves it out
		where := *all
		where.Name, where.Params = "get_all_records_where", []Param{{Name: "expr", Type: Type{Kind: String}, Required: true}}
		c.Messages[where.Name] = &where
	}
	return c, nil
}

func parseField(raw []json.RawMessage) (*Field, error) {
	var name, typ, qualifier string
	var def *string
	f := &Field{}
	if err := unpack(raw, &name, &typ, &qualifier, &def, &f.Lifecycle); err != nil {
		return nil, fmt.Errorf("field %s: %w", name, err)
	}
	t, err := ParseType(typ)
	if err != nil {
		return nil, fmt.Errorf("field %s: %w", name, err)
	}
	f.Name, f.Type, f.Qualifier = name, t, Qualifier(qualifier)
	if !slices.Contains([]Qualifier{ReadWrite, Constructor, Runtime}, f.Qualifier) {
		return nil, fmt.Errorf("field %s: unknown qualifier %q", name, qualifier)
	}
	if def != nil {
		if f.Default, err = t.parseDefault(*def); err != nil {
			return nil, fmt.Errorf("field %s: default %q: %w", name, *def, err)
		}
	}
	return f, nil
}

func parseMessage(in jsonMessage) (*Message, error) {
	m := &Message{
		Errors: in.Errors, MinRole: in.MinRole, Implicit: in.Implicit, Lifecycle: in.Lifecycle, NoSession: true,
	}
	var err error
	if m.Result, err = ParseType(in.Result); err != nil {
		return nil, err
	}
	for n, raw := range in.Params {
		var name, typ string
		var required bool
		if err := unpack(raw, &name, &typ, &required); err != nil {
			return nil, fmt.Errorf("parameter %d: %w", n, err)
		}
		if n == 0 && name == "session_id" {
			m.NoSession = false
			continue
		}
		t, err := ParseType(typ)
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", name, err)
		}
		m.Params = append(m.Params, Param{Name: name, Type: t, Required: required})
	}
	return m, nil
}

func unpack(raw []json.RawMessage, into ...any) error {
	if len(raw) != len(into) {
		return fmt.Errorf("%d members instead of %d", len(raw), len(into))
	}
	for n, target := range into {
		if err := json.Unmarshal(raw[n], target); err != nil {
			return fmt.Errorf("member %d: %w", n, err)
		}
	}
	return nil
}
