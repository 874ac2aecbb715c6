package xapisim

import (
	"net/url"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// belongings are the ways from an object that a call names to those that it belongs to, over fields that are references.
var belongings = map[string][]string{
	"VBD": {"VM", "VDI", "VDI.SR"},
	"VIF": {"VM", "network"},
	"VDI": {"SR"},
	"PBD": {"SR", "host"},
	"VM":  {"VBDs.VDI", "VBDs.VDI.SR"},
}

// named gives the references, uuids and names of the objects that a call's arguments name, and of those that they belong to.
func (p *Pool) named(arguments any) map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]bool{}
	add := func(o *object) {
		for _, name := range []string{o.ref, o.uuid(), o.text("name_label")} {
			out[name] = name != ""
		}
	}
	mentioned := map[string]bool{}
	mentions(arguments, mentioned)
	for class, table := range p.db.tables {
		for ref, o := range table {
			if !mentioned[ref] && !mentioned[o.uuid()] {
				continue
			}
			add(o)
			for _, way := range belongings[class] {
				p.walk(o, strings.Split(way, "."), add)
			}
		}
	}
	return out
}

// mentions gathers the strings of arguments.
func mentions(v any, out map[string]bool) {
	switch v := v.(type) {
	case string:
		out[v] = v != ""
	case []string:
		for _, item := range v {
			mentions(item, out)
		}
	case []any:
		for _, item := range v {
			mentions(item, out)
		}
	case map[string]any:
		for _, item := range v {
			mentions(item, out)
		}
	case url.Values:
		for _, item := range v {
			mentions(item, out)
		}
	}
}

// walk visits what a way over reference fields leads to, but for what dangles.
func (p *Pool) walk(o *object, way []string, visit func(*object)) {
	field := o.class.Field(way[0])
	if field == nil {
		return // of a class that the data model has without it
	}
	refs, target := []string{o.text(field.Name)}, field.Type
	if field.Type.Kind == datamodel.Set {
		refs, target = o.list(field.Name), *field.Type.Elem
	}
	for _, ref := range refs {
		switch next := p.db.find(target.Name, ref); {
		case next == nil:
		case len(way) == 1:
			visit(next)
		default:
			p.walk(next, way[1:], visit)
		}
	}
}
