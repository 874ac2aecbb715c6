package xapisim

import (
	"fmt"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// Dir is the folder of the SRs' folders.
func (p *Pool) Dir() string { return p.config.Dir }

// DecodeRequest reads a request as the server does and takes each of its parameters as every kind of argument. It gives
// the answers to a failure and to a success that echoes the parameters.
func DecodeRequest(body []byte) (answers [][]byte, err error) {
	request, err := parseEnvelope(body)
	if err != nil {
		return nil, err
	}
	model, err := datamodel.Embedded()
	if err != nil {
		return nil, err
	}
	decoder := newDecoder(model)
	failure := error(fail("INTERNAL_ERROR"))
	var values []any
	for _, param := range request.params {
		for _, text := range []string{"VM record", "(string -> string) map", "string set", "int", "float", "datetime", "enum vbd_mode"} {
			t, err := datamodel.ParseType(text)
			if err != nil {
				return nil, err
			}
			if value, err := decoder.value(t, param); err != nil {
				failure = err
			} else {
				values = append(values, value)
			}
		}
	}
	for _, outcome := range []error{failure, nil} {
		answer, err := request.reply(values, outcome)
		if err != nil {
			return nil, err
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// Inconsistencies lists the sets of references that do not mirror the references that they should.
func (p *Pool) Inconsistencies() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for from, back := range relations {
		want := map[string]map[string]bool{}
		for ref, o := range p.db.tables[from.class] {
			if target := o.text(from.set); p.db.tables[back.class][target] != nil {
				if want[target] == nil {
					want[target] = map[string]bool{}
				}
				want[target][ref] = true
			}
		}
		for ref, o := range p.db.tables[back.class] {
			list := o.list(back.set)
			for _, child := range list {
				if !want[ref][child] {
					out = append(out, fmt.Sprintf("%s %s.%s holds %s, which does not point to it", back.class, ref, back.set, child))
				}
			}
			if len(list) < len(want[ref]) {
				out = append(out, fmt.Sprintf("%s %s.%s has %d members, %d point to it", back.class, ref, back.set, len(list), len(want[ref])))
			}
		}
	}
	return out
}
