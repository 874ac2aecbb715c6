package xapisim

import (
	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

const nullRef = datamodel.NullRef

// disabling is for how long a host stays disabled.
type disabling int

const (
	notDisabled  disabling = iota
	untilBooted            // it is enabled when it has rebooted
	untilEnabled           // by host.enable
)

var hostCalls = map[string]handler{
	"host.compute_free_memory": hostCall(func(c *call, h *object) any { return c.freeMemory(h) }),
	"host.list_methods":        func(*call) (any, error) { return nil, fail("NOT_IMPLEMENTED", "list_method") },
	"host.call_plugin":         func(c *call) (any, error) { return nil, fail("XENAPI_MISSING_PLUGIN", c.text(1)) }, // there are none
	"host.get_servertime":      hostCall(func(*call, *object) any { return now() }),
	"host.enable": hostCall(func(c *call, h *object) any {
		c.db.set(h, "enabled", true)
		return nil
	}),
	"host.disable": hostCall(func(c *call, h *object) any {
		c.db.set(h, "enabled", false)
		return nil
	}),
	"host.get_server_certificate": hostCall(func(c *call, h *object) any {
		for _, host := range c.hosts {
			if host.ref == h.ref {
				return host.certificate.pem
			}
		}
		return ""
	}),
}

func hostCall(f func(*call, *object) any) handler {
	return func(c *call) (any, error) {
		h, err := c.object(0)
		if err != nil {
			return nil, err
		}
		return f(c, h), nil
	}
}

// freeMemory is what a host has left for domains, in bytes.
func (p *Pool) freeMemory(h *object) int64 {
	metrics := p.db.find("host_metrics", h.text("metrics"))
	if metrics == nil {
		return 0
	}
	free := metrics.integer("memory_total") - h.integer("memory_overhead")
	for _, vm := range p.db.refs(h, "resident_VMs", "VM") {
		free -= vm.integer("memory_static_max") + vm.integer("memory_overhead")
	}
	return free
}

func asText(v any) string {
	text, _ := v.(string)
	return text
}
