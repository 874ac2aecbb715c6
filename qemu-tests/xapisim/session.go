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

func login(c *call) (any, error) {
	name, password, originator := c.text(0), c.text(1), c.text(3)
	if name != c.config.Username || password != c.config.Password {
		_ = c.unlocked(func() error { sleep(c.client, c.config.AuthDelay); return nil })
		return nil, fail("SESSION_AUTHENTICATION_FAILED", name, "Authentication failure")
	}
	c.makeRoom("originator", originator)
	c.makeRoom("auth_user_name", name)
	session := c.db.insert("session", map[string]any{
		"this_host": c.coordinator.ref, "last_active": now(), "validation_time": now(), "is_local_superuser": true,
		"auth_user_name": name, "originator": originator,
	})
	c.lastUse[session.ref] = time.Now()
	return session.ref, nil
}

// makeRoom ends the oldest sessions that have a value in common when there are too many of them (xapi-facts §1.5).
func (p *Pool) makeRoom(field, value string) {
	var same []*object
	for _, s := range p.db.all("session") {
		if s.text(field) == value {
			same = append(same, s)
		}
	}
	for _, s := range same[:max(0, len(same)+1-p.config.MaxSessions)] {
		p.endSession(s)
	}
}

func logout(c *call) (any, error) {
	c.endSession(c.db.find("session", c.session))
	return nil, nil
}

func (p *Pool) endSession(session *object) {
	delete(p.lastUse, session.ref)
	delete(p.registrations, session.ref)
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
