package xapisim

import (
	"errors"
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// errSyntax are the texts with which xapi's lexer and parser give up.
var (
	errLexing  = errors.New(`Failure("lexing: empty token")`)
	errParsing = errors.New("Stdlib.Parsing.Parse_error")
)

// predicate is a compiled query over the objects of a class.
type predicate func(o *object) (bool, error)

// recordsWhere is get_all_records_where: the rows for which an expression of fields and literals holds
// (xen-api ocaml/database/db_filter_parse.mly, db_filter_lex.mll).
func recordsWhere(class *datamodel.Class) handler {
	return func(c *call) (any, error) {
		holds, err := parseQuery(c.Pool, c.text(0))
		if err != nil {
			return nil, fail("INVALID_VALUE", c.text(0), err.Error())
		}
		out := map[string]any{}
		for ref, o := range c.db.tables[class.Name] {
			ok, err := holds(o)
			if err != nil {
				return nil, err
			}
			if ok {
				out[ref] = c.Pool.record(o)
			}
		}
		return out, nil
	}
}

// query is an expression that is being read. Operators bind from the left and all alike.
type query struct {
	pool   *Pool
	tokens []string // identifiers keep their opening quotation mark
}

func parseQuery(p *Pool, text string) (predicate, error) {
	tokens, err := lexQuery(text)
	if err != nil {
		return nil, err
	}
	q := &query{p, tokens}
	holds, err := q.expression()
	if err == nil && len(q.tokens) > 0 {
		err = errParsing
	}
	return holds, err
}

var queryWords = []string{"true", "false", "field", "and", "or", "not", "(", ")", "="}

func lexQuery(text string) ([]string, error) {
	var tokens []string
next:
	for text = strings.TrimLeft(text, " \t\n"); text != ""; text = strings.TrimLeft(text, " \t\n") {
		if literal, ok := strings.CutPrefix(text, `"`); ok {
			value, rest, closed := strings.Cut(literal, `"`)
			if !closed {
				return nil, errLexing
			}
			tokens, text = append(tokens, `"`+value), rest
			continue
		}
		for _, word := range queryWords {
			if rest, ok := strings.CutPrefix(text, word); ok {
				tokens, text = append(tokens, word), rest
				continue next
			}
		}
		return nil, errLexing
	}
	return tokens, nil
}

func (q *query) take() string {
	if len(q.tokens) == 0 {
		return ""
	}
	token := q.tokens[0]
	q.tokens = q.tokens[1:]
	return token
}

func (q *query) expression() (predicate, error) {
	left, err := q.term()
	for err == nil && len(q.tokens) > 0 && (q.tokens[0] == "and" || q.tokens[0] == "or") {
		decides := q.take() == "or" // without the right side
		var right predicate
		if right, err = q.term(); err != nil {
			return nil, err
		}
		first := left
		left = func(o *object) (bool, error) {
			if holds, err := first(o); err != nil || holds == decides {
				return holds, err
			}
			return right(o)
		}
	}
	return left, err
}

func (q *query) term() (predicate, error) {
	switch token := q.take(); token {
	case "true", "false":
		return func(*object) (bool, error) { return token == "true", nil }, nil
	case "not":
		inner, err := q.term()
		return func(o *object) (bool, error) {
			holds, err := inner(o)
			return !holds, err
		}, err
	case "(":
		inner, err := q.expression()
		if err == nil && q.take() != ")" {
			err = errParsing
		}
		return inner, err
	default:
		return q.comparison(token)
	}
}

func (q *query) comparison(token string) (predicate, error) {
	left, err := q.value(token)
	if err != nil || q.take() != "=" {
		return nil, errParsing
	}
	right, err := q.value(q.take())
	if err != nil {
		return nil, err
	}
	return func(o *object) (bool, error) {
		a, err := left(o)
		if err != nil {
			return false, err
		}
		b, err := right(o)
		return a == b, err
	}, nil
}

// value reads a literal or a field, of which the text in xapi's database counts.
func (q *query) value(token string) (func(*object) (string, error), error) {
	if literal, ok := strings.CutPrefix(token, `"`); ok {
		return func(*object) (string, error) { return literal, nil }, nil
	}
	name, ok := strings.CutPrefix(q.take(), `"`)
	if token != "field" || !ok {
		return nil, errParsing
	}
	name = strings.ReplaceAll(name, "/", "_") // fields of a namespace
	return func(o *object) (string, error) {
		if name == "_ref" || name == "ref" {
			return o.ref, nil
		}
		if o.class.Field(name) == nil && !strings.HasPrefix(name, "_") {
			return "", fail("INTERNAL_ERROR", "missing field", name, "")
		}
		switch v := q.pool.field(o, name).(type) {
		case string, int64, bool:
			return fmt.Sprint(v), nil
		default:
			return fmt.Sprint(wire(v)), nil
		}
	}, nil
}
