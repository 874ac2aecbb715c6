package xapisim

import (
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

// accessor makes the handler of a message that follows from the data model alone: getters of fields and records,
// look-ups, setters of fields that may be set, constructors and destructors of classes without semantics. Any other
// message is one that nobody has written yet.
func accessor(class *datamodel.Class, m *datamodel.Message) handler {
	if run := lookUp(class, m.Name); run != nil {
		return run
	}
	for prefix, made := range map[string]func(*datamodel.Field) handler{
		"get_": getter, "set_": setter, "add_to_": adder, "remove_from_": remover, "add_": memberAdder, "remove_": memberRemover,
	} {
		name, ok := strings.CutPrefix(m.Name, prefix)
		if !ok {
			continue
		}
		if f := class.Field(name); f != nil && (m.Implicit || plainSetters[class.Name+"."+m.Name]) {
			if f.Qualifier == datamodel.Runtime && prefix != "get_" {
				return func(*call) (any, error) { return nil, fail("PERMISSION_DENIED", "") }
			}
			return made(f)
		}
	}
	if m.Implicit && m.Name == "create" {
		return func(c *call) (any, error) { return c.db.insert(class.Name, c.record(0)).ref, nil }
	}
	if m.Implicit && m.Name == "destroy" {
		return func(c *call) (any, error) {
			o, err := c.object(0)
			if err != nil {
				return nil, err
			}
			c.db.remove(o)
			return nil, nil
		}
	}
	return func(*call) (any, error) { return nil, fail("NOT_IMPLEMENTED", class.Name+"."+m.Name) }
}

// lookUp makes the messages that find objects or give them whole.
func lookUp(class *datamodel.Class, name string) handler {
	switch name {
	case "get_record":
		return func(c *call) (any, error) {
			o, err := c.object(0)
			if err != nil {
				return nil, err
			}
			return c.Pool.record(o), nil
		}
	case "get_all":
		return func(c *call) (any, error) { return references(c.db.all(class.Name)), nil }
	case "get_all_records":
		return func(c *call) (any, error) {
			out := map[string]any{}
			for ref, o := range c.db.tables[class.Name] {
				out[ref] = c.Pool.record(o)
			}
			return out, nil
		}
	case "get_by_uuid":
		return func(c *call) (any, error) {
			for ref, o := range c.db.tables[class.Name] {
				if o.uuid() == c.text(0) {
					return ref, nil
				}
			}
			return nil, fail("UUID_INVALID", class.Name, c.text(0))
		}
	case "get_all_records_where":
		return recordsWhere(class)
	case "get_by_name_label":
		return func(c *call) (any, error) {
			return references(slices.DeleteFunc(c.db.all(class.Name), func(o *object) bool {
				return o.text("name_label") != c.text(0)
			})), nil
		}
	}
	return nil
}

func references(objects []*object) []string {
	refs := make([]string, 0, len(objects))
	for _, o := range objects {
		refs = append(refs, o.ref)
	}
	return refs
}

func getter(f *datamodel.Field) handler {
	return func(c *call) (any, error) {
		o, err := c.object(0)
		if err != nil {
			return nil, err
		}
		return c.field(o, f.Name), nil
	}
}

func setter(f *datamodel.Field) handler {
	return func(c *call) (any, error) {
		o, err := c.object(0)
		if err != nil {
			return nil, err
		}
		c.db.set(o, f.Name, c.args[1])
		return nil, nil
	}
}

func adder(f *datamodel.Field) handler {
	return func(c *call) (any, error) {
		o, err := c.object(0)
		if err != nil {
			return nil, err
		}
		if _, exists := o.table(f.Name)[c.text(1)]; exists {
			return nil, fail("MAP_DUPLICATE_KEY", o.class.Name, f.Name, o.ref, c.text(1))
		}
		c.db.put(o, f.Name, c.text(1), c.text(2))
		return nil, nil
	}
}

func remover(f *datamodel.Field) handler {
	return func(c *call) (any, error) {
		o, err := c.object(0)
		if err != nil {
			return nil, err
		}
		c.db.take(o, f.Name, c.text(1))
		return nil, nil
	}
}

func memberAdder(f *datamodel.Field) handler {
	return func(c *call) (any, error) {
		o, err := c.object(0)
		if err != nil {
			return nil, err
		}
		if list := o.list(f.Name); !slices.Contains(list, c.text(1)) {
			c.db.set(o, f.Name, append(slices.Clone(list), c.text(1)))
		}
		return nil, nil
	}
}

func memberRemover(f *datamodel.Field) handler {
	return func(c *call) (any, error) {
		o, err := c.object(0)
		if err != nil {
			return nil, err
		}
		c.db.set(o, f.Name, slices.DeleteFunc(slices.Clone(o.list(f.Name)), func(item string) bool { return item == c.text(1) }))
		return nil, nil
	}
}
