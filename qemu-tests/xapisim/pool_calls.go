package xapisim

import (
	"time"
)

// emergencyCalls are answered in emergency mode, and by members, to local sessions (xen-api ocaml/idl/datamodel.ml).
var emergencyCalls = map[string]bool{
	"pool.emergency_transition_to_master": true, "pool.emergency_reset_master": true,
	"session.slave_local_login_with_password": true, "session.local_logout": true,
}

// emergency refuses a call before anything of it is looked at, while the host's toolstack is not there yet.
func (p *Pool) emergency(h *host, method string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.trouble != nil && !emergencyCalls[method] {
		return undispatched{h.trouble}
	}
	return nil
}

var poolCalls = map[string]handler{
	"pool.emergency_transition_to_master": func(c *call) (any, error) {
		h := c.host
		c.later(func() { _ = c.promote(h, false) }) // fails only when the host has gone down meanwhile
		return nil, nil
	},
	"pool.emergency_reset_master": func(c *call) (any, error) {
		for _, master := range c.hosts {
			if master.ip.String() == c.text(0) {
				c.follow(c.host, master)
				return nil, nil
			}
		}
		return nil, internal(`Failure("Couldn't resolve hostname: ` + c.text(0) + `")`)
	},
	"pool.recover_slaves":       recoverMembers,
	"pool.designate_new_master": designate,
	"pool.sync_database":        func(*call) (any, error) { return nil, nil },
}

// lightFuse is the time between the answer to a call that restarts a toolstack and the restart.
const lightFuse = 20 * time.Millisecond

// later does something after the call has been answered, unless the pool closes first.
func (p *Pool) later(f func()) {
	p.group.Go(func() {
		if sleep(p.ctx, lightFuse) {
			f()
		}
	})
}

// follow points a host at another coordinator; its toolstack restarts.
func (p *Pool) follow(h, master *host) {
	if h.master == master {
		return
	}
	p.later(func() {
		p.stop(h, false)
		p.mu.Lock()
		h.master = master
		p.mu.Unlock()
		_ = p.start(h, false) // as in restart
	})
}

func recoverMembers(c *call) (any, error) {
	recovered := []string{}
	for _, h := range c.hosts {
		if h != c.coordinator && h.state != hostDown {
			c.follow(h, c.coordinator)
			recovered = append(recovered, h.ref)
		}
	}
	return recovered, nil
}

func designate(c *call) (any, error) {
	row, err := c.object(0)
	if err != nil {
		return nil, err
	}
	if err := c.reach(row.ref); err != nil {
		return nil, err
	}
	if h := c.hostOf(row.ref); h != nil && h != c.coordinator {
		c.later(func() { _ = c.promote(h, true) }) // fails only when the host has gone down meanwhile
	}
	return nil, nil
}

// localLogin opens a session that this host alone knows, for calls of emergency mode.
func localLogin(c *call) (any, error) {
	if c.text(0) != c.config.Username || c.text(1) != c.config.Password {
		_ = c.unlocked(func() error { sleep(c.client, c.config.AuthDelay); return nil })
		return nil, fail("SESSION_AUTHENTICATION_FAILED", c.text(0), "Authentication failure")
	}
	ref := newRef()
	c.host.local[ref] = true
	return ref, nil
}

func localLogout(c *call) (any, error) {
	if !c.host.local[c.session] {
		return nil, fail("SESSION_INVALID", c.session)
	}
	delete(c.host.local, c.session)
	return nil, nil
}
