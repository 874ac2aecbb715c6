package xapisim

import (
	"time"
)

var sessionCalls = map[string]handler{
	"session.login_with_password":             login,
	"session.logout":                          logout,
	"session.slave_local_login_with_password": localLogin,
	"session.local_logout":                    localLogout,
	"session.get_this_host":                   func(c *call) (any, error) { return c.coordinator.ref, nil },
}

// maxSessions is how many sessions of one originator are kept; the oldest goes first (xapi-facts §1.5).
const maxSessions = 500

func login(c *call) (any, error) {
	name, password, originator := c.text(0), c.text(1), c.text(3)
	if name != c.config.Username || password != c.config.Password {
		_ = c.unlocked(func() error { sleep(c.client, c.config.AuthDelay); return nil })
		return nil, fail("SESSION_AUTHENTICATION_FAILED", name, "Authentication failure")
	}
	var same []*object
	for _, s := range c.db.all("session") {
		if s.text("originator") == originator {
			same = append(same, s)
		}
	}
	if len(same) >= maxSessions {
		c.endSession(same[0])
	}
	session := c.db.insert("session", map[string]any{
		"this_host": c.coordinator.ref, "last_active": now(), "validation_time": now(), "is_local_superuser": true,
		"auth_user_name": name, "originator": originator,
	})
	c.lastUse[session.ref] = time.Now()
	return session.ref, nil
}

func logout(c *call) (any, error) {
	c.endSession(c.db.find("session", c.session))
	return nil, nil
}

func (p *Pool) endSession(session *object) {
	delete(p.lastUse, session.ref)
	p.db.remove(session)
}

// checkSession refuses unknown and idle sessions and refreshes the others. The time of the last use is written to the
// database with a coarse threshold only, so that a call is not a change.
func (p *Pool) checkSession(ref string) error {
	session := p.db.find("session", ref)
	if session == nil {
		return fail("SESSION_INVALID", ref)
	}
	if time.Since(p.lastUse[ref]) > p.config.SessionLifetime {
		p.endSession(session)
		return fail("SESSION_INVALID", ref)
	}
	p.lastUse[ref] = time.Now()
	if time.Since(session.date("last_active")) > 10*time.Minute {
		p.db.set(session, "last_active", now())
	}
	return nil
}
