package xapisim

import (
	"maps"
	"time"
)

var messageCalls = map[string]handler{
	"message.create": func(c *call) (any, error) {
		return c.say(c.text(0), c.integer(1), c.text(2), c.text(3), c.text(4)).ref, nil
	},
	"message.destroy": func(c *call) (any, error) {
		message, err := c.object(0)
		if err == nil {
			c.db.remove(message)
		}
		return nil, err
	},
	"message.destroy_many": func(c *call) (any, error) {
		for _, ref := range c.list(0) {
			if message := c.db.find("message", ref); message != nil {
				c.db.remove(message)
			}
		}
		return nil, nil
	},
	"message.get": func(c *call) (any, error) {
		return c.messages(func(m *object) bool {
			return m.text("cls") == c.text(0) && m.text("obj_uuid") == c.text(1) && m.date("timestamp").After(c.date(2))
		}), nil
	},
	"message.get_since": func(c *call) (any, error) {
		return c.messages(func(m *object) bool { return m.date("timestamp").After(c.date(0)) }), nil
	},
}

func (c *call) date(n int) time.Time { v, _ := c.args[n].(time.Time); return v }

func (p *Pool) messages(wanted func(*object) bool) map[string]any {
	out := map[string]any{}
	for ref, m := range p.db.tables["message"] {
		if wanted(m) {
			out[ref] = maps.Clone(m.values)
		}
	}
	return out
}

// maxMessages bounds how many messages are kept; the oldest go first (message_limit in xen-api ocaml/xapi/xapi_globs.ml).
const maxMessages = 10000

// say makes a message, as xapi does when something has happened to an object.
func (p *Pool) say(name string, priority int64, class, uuid, body string) *object {
	if len(p.db.tables["message"]) >= maxMessages {
		p.db.remove(p.db.all("message")[0])
	}
	return p.db.insert("message", map[string]any{
		"name": name, "priority": priority, "cls": class, "obj_uuid": uuid, "body": body, "timestamp": now(),
	})
}

// informational is the priority of messages about what somebody wanted to happen.
const informational = 5

func (p *Pool) vmMessage(name string, vm *object, what string) {
	p.say(name, informational, "VM", vm.uuid(), "VM '"+vm.text("name_label")+"' (uuid: "+vm.uuid()+") "+what)
}

func (p *Pool) onHost(what string, host *object) string {
	return what + " on host: " + host.text("name_label") + " (uuid: " + host.uuid() + ")"
}
