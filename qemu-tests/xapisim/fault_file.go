package xapisim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Faults is a file of rules (docs/development.md has its format).
type Faults struct {
	Rules []Rule
}

// Add puts all rules into a pool, in their order.
func (f Faults) Add(p *Pool) {
	for _, rule := range f.Rules {
		p.Fault(rule)
	}
}

const (
	maxFaultFile = 1 << 20
	maxRules     = 1000
)

// ParseFaults reads a file of rules. It takes nothing that it does not know, nothing twice, and no rule that cannot be; its errors
// name the rule, by its place and name, and the member.
func ParseFaults(data []byte) (Faults, error) {
	if len(data) > maxFaultFile {
		return Faults{}, fmt.Errorf("%d bytes of rules: at most %d are read", len(data), maxFaultFile)
	}
	var f Faults
	var seed uint64
	var rules []json.RawMessage
	err := readMembers(data, map[string]func(json.RawMessage) error{
		"seed":  func(raw json.RawMessage) error { return strict(raw, &seed, "a whole number") },
		"rules": func(raw json.RawMessage) error { return strict(raw, &rules, "an array of rules") },
	})
	if err != nil {
		return Faults{}, err
	}
	if len(rules) > maxRules {
		return Faults{}, fmt.Errorf("%d rules: at most %d are read", len(rules), maxRules)
	}
	for n, raw := range rules {
		rule := Rule{Seed: seed + uint64(n)}
		err := readMembers(raw, ruleMembers(&rule))
		if err == nil {
			err = rule.Check()
		}
		if err != nil {
			place := fmt.Sprintf("rule %d", n+1)
			if rule.Name != "" {
				place += fmt.Sprintf(" (%s)", rule.Name)
			}
			return Faults{}, fmt.Errorf("%s: %w", place, err)
		}
		f.Rules = append(f.Rules, rule)
	}
	return f, nil
}

// ruleMembers are the members of a rule in JSON, each with what reads it. Rule.Check sees to what they make together.
func ruleMembers(r *Rule) map[string]func(json.RawMessage) error {
	ending := func(before, after *bool) func(json.RawMessage) error {
		return func(raw json.RawMessage) error {
			var when string
			err := strict(raw, &when, `"before" or "after" the call`)
			*before, *after = when == "before", when == "after"
			if err == nil && !*before && !*after {
				err = fmt.Errorf(`%q: want "before" or "after" the call`, when)
			}
			return err
		}
	}
	return map[string]func(json.RawMessage) error{
		"name":   text(&r.Name),
		"method": text(&r.Method),
		"object": text(&r.Object),
		"after":  func(raw json.RawMessage) error { return strict(raw, &r.After, "a number of calls") },
		"count":  oneOrMore(&r.Count, "a number of calls"),
		"probability": func(raw json.RawMessage) error {
			if err := strict(raw, &r.Probability, "a number"); err != nil || r.Probability > 0 {
				return err
			}
			return fmt.Errorf("%v: want more than 0 and at most 1", r.Probability)
		},
		"delay":            duration(&r.Delay),
		"slow":             duration(&r.Slow),
		"bytes_per_second": oneOrMore(&r.BytesPerSecond, "a number of bytes"),
		"error": func(raw json.RawMessage) error {
			var texts []string
			const form = `an array of strings, the code and its parameters, such as ["SR_BACKEND_FAILURE_44", "", "full", ""]`
			if err := strict(raw, &texts, form); err != nil {
				return err
			}
			if len(texts) == 0 {
				return errors.New("empty: want " + form)
			}
			r.Error = fail(texts[0], texts[1:]...)
			return nil
		},
		"lie": func(raw json.RawMessage) error {
			lie, err := ParseLie(raw)
			r.Lie = &lie
			return err
		},
		"cut":       ending(&r.Cut, &r.CutReply),
		"cut_after": oneOrMore(&r.CutAfter, "a number of bytes"),
		"hang":      ending(&r.Hang, &r.HangReply),
	}
}

// text reads a string that is not empty: what is left away means any.
func text(to *string) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		if err := strict(raw, to, "a string"); err != nil || *to != "" {
			return err
		}
		return errors.New("empty: leave it away")
	}
}

func oneOrMore[T int | int64](to *T, form string) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		if err := strict(raw, to, form); err != nil || *to > 0 {
			return err
		}
		return fmt.Errorf("%d: want 1 or more", *to)
	}
}

func duration(to *time.Duration) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		const form = `a string with a unit, such as "300ms" or "2s"`
		var text string
		if err := strict(raw, &text, form); err != nil {
			return err
		}
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 || d > math.MaxInt64/maxRules { // the delays of all rules can be added
			return fmt.Errorf("%q: want %s", text, form)
		}
		*to = d
		return nil
	}
}

// strict reads a value that must be of the type of to; null is none.
func strict(raw json.RawMessage, to any, form string) error {
	if err := json.Unmarshal(raw, to); err != nil || string(raw) == "null" {
		return fmt.Errorf("%s: want %s", abridged(raw), form)
	}
	return nil
}

func abridged(raw json.RawMessage) string {
	const enough = 60
	if len(raw) > enough {
		return strings.ToValidUTF8(string(raw[:enough]), "") + "…"
	}
	return string(raw)
}

// readMembers reads an object of JSON, each member by its reader. Members without one, and members that come twice, are errors,
// as is whatever follows the object.
func readMembers(data []byte, readers map[string]func(json.RawMessage) error) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	opening, err := decoder.Token()
	if err != nil {
		return malformedFile(err)
	}
	if opening != json.Delim('{') {
		return fmt.Errorf("%s: want an object", abridged(data))
	}
	known := strings.Join(slices.Sorted(maps.Keys(readers)), ", ")
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return malformedFile(err)
		}
		name, _ := token.(string) // a key is one, or the decoder has given an error
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err != nil {
			return malformedFile(err)
		}
		read := readers[name]
		if read == nil {
			return &FieldError{name, errors.New("no such member; there are " + known)}
		}
		if seen[name] {
			return &FieldError{name, errors.New("comes twice")}
		}
		seen[name] = true
		if err := read(raw); err != nil {
			return &FieldError{name, err}
		}
	}
	if _, err := decoder.Token(); err != nil {
		return malformedFile(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

func malformedFile(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("no JSON: %w", err)
}
