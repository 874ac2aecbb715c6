package xapisim

import (
	"github.com/understudy-dr/understudy/orchestrator/xapi/datamodel"
)

const nullRef = datamodel.NullRef

// disabling is for how long a host stays disabled.
type disabling int

const (
	untilBooted  disabling = iota // by host.disable: it is enabled when it has started anew
	untilReboot                   // by host.reboot and host.shutdown: nobody may enable it before
	untilEnabled                  // by host.disable with auto_enable=false: by host.enable alone
)

var hostCalls = map[string]handler{
	"host.list_methods":            func(*call) (any, error) { return nil, fail("NOT_IMPLEMENTED", "list_method") },
	"host.compute_free_memory":     hostCall(func(c *call, h *object) (any, error) { return c.freeMemory(h), nil }),
	"host.compute_memory_overhead": hostCall(func(_ *call, h *object) (any, error) { return h.integer("memory_overhead"), nil }),
	"host.get_servertime":          hostCall(func(*call, *object) (any, error) { return now(), nil }),
	"host.get_server_localtime":    hostCall(func(*call, *object) (any, error) { return now(), nil }),
	"host.has_extension":           hostCall(func(*call, *object) (any, error) { return false, nil }),
	"host.enable":                  hostCall(enableHost),
	"host.disable":                 hostCall(disableHost),
	"host.reboot":                  hostCall(func(c *call, h *object) (any, error) { return nil, c.powerOff(h, true) }),
	"host.shutdown":                hostCall(func(c *call, h *object) (any, error) { return nil, c.powerOff(h, false) }),
	"host.declare_dead":            hostCall(declareDead),
	"host.call_plugin": hostCall(func(c *call, _ *object) (any, error) {
		return nil, fail("XENAPI_MISSING_PLUGIN", c.text(1)) // no dom0 here has any
	}),
	"host.restart_agent": hostCall(func(c *call, h *object) (any, error) {
		if err := c.reach(h.ref); err != nil {
			return nil, err
		}
		c.later(func() { c.restart(c.hostOf(h.ref), false) })
		return nil, nil
	}),
	"host.get_management_interface": hostCall(func(c *call, h *object) (any, error) {
		for _, pif := range c.db.refs(h, "PIFs", "PIF") {
			if pif.boolean("management") {
				return pif.ref, nil
			}
		}
		return nil, fail("HOST_HAS_NO_MANAGEMENT_IP")
	}),
	"host.get_server_certificate": hostCall(func(c *call, h *object) (any, error) {
		if err := c.reach(h.ref); err != nil {
			return nil, err
		}
		return c.hostOf(h.ref).certificate.pem, nil
	}),
}

func hostCall(f func(*call, *object) (any, error)) handler {
	return func(c *call) (any, error) {
		h, err := c.object(0)
		if err != nil {
			return nil, err
		}
		return f(c, h)
	}
}

func disableHost(c *call, row *object) (any, error) {
	if err := c.reach(row.ref); err != nil {
		return nil, err
	}
	c.db.set(row, "enabled", false)
	h := c.hostOf(row.ref)
	h.disabled = untilBooted
	if c.given > 1 && !c.boolean(1) {
		h.disabled = untilEnabled
	}
	return nil, nil
}

func enableHost(c *call, row *object) (any, error) {
	if err := c.reach(row.ref); err != nil {
		return nil, err
	}
	h := c.hostOf(row.ref)
	if h.disabled == untilReboot {
		return nil, fail("HOST_DISABLED_UNTIL_REBOOT", row.ref)
	}
	h.disabled = untilBooted
	c.db.set(row, "enabled", true)
	return nil, nil
}

// powerOff ends a disabled host, with what still runs on it, soon after the answer (shutdown_and_reboot_common in xen-api
// ocaml/xapi/xapi_host.ml).
func (c *call) powerOff(row *object, again bool) error {
	if err := c.reach(row.ref); err != nil {
		return err
	}
	if row.boolean("enabled") {
		return fail("HOST_NOT_DISABLED")
	}
	h := c.hostOf(row.ref)
	if h.disabled == untilBooted {
		h.disabled = untilReboot
	}
	operation := map[bool]string{true: "reboot", false: "shutdown"}[again]
	c.db.put(row, "current_operations", c.task, operation)
	for _, d := range c.domains {
		if d.vm.text("resident_on") == row.ref {
			_ = d.guest.Kill() // it ends with the host at the latest
		}
	}
	c.later(func() {
		if again {
			c.restart(h, true)
		} else {
			c.stop(h, true)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.db.take(row, "current_operations", c.task)
	})
	return nil
}

// declareDead gives up a host that is down: its VMs are Halted and may be started elsewhere.
func declareDead(c *call, row *object) (any, error) {
	h := c.hostOf(row.ref)
	if h == c.coordinator || h.state != hostDown {
		return nil, fail("HOST_IS_LIVE", row.ref)
	}
	for _, vm := range c.db.refs(row, "resident_VMs", "VM") {
		if !vm.boolean("is_control_domain") {
			c.haltRecords(vm)
		}
	}
	c.db.set(row, "enabled", false)
	return nil, nil
}

// restart ends a host's toolstack, with power all of the host, and starts it again.
func (p *Pool) restart(h *host, power bool) {
	p.stop(h, power)
	_ = p.start(h, power) // fails only when it was started by another hand
}

// freeMemory is what a host has left for domains, in bytes.
func (p *Pool) freeMemory(h *object) int64 {
	metrics := p.db.find("host_metrics", h.text("metrics"))
	if metrics == nil {
		return 0
	}
	free := metrics.integer("memory_total") - h.integer("memory_overhead")
	for _, vm := range p.db.refs(h, "resident_VMs", "VM") {
		free -= vm.integer("memory_static_max") + overhead(vm)
	}
	return free
}

func asText(v any) string {
	text, _ := v.(string)
	return text
}
