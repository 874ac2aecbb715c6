package xapisim

import (
	"fmt"
	"slices"
	"time"
)

// registration is what a session has registered for with event.register, the way of watching that event.from has
// replaced. Unlike event.from it tells when deletions were lost.
type registration struct {
	classes []string
	since   uint64
}

func eventRegister(c *call) (any, error) {
	if _, err := parseSubscriptions(c.list(0)); err != nil {
		return nil, err
	}
	r := c.registrations[c.session]
	if r == nil {
		r = &registration{since: c.db.generation}
		c.registrations[c.session] = r
	}
	for _, class := range c.list(0) {
		if !slices.Contains(r.classes, class) {
			r.classes = append(r.classes, class)
		}
	}
	return nil, nil
}

func eventUnregister(c *call) (any, error) {
	r := c.registrations[c.session]
	if r == nil {
		return nil, nil
	}
	r.classes = slices.DeleteFunc(r.classes, func(class string) bool { return slices.Contains(c.list(0), class) })
	if len(r.classes) == 0 {
		delete(c.registrations, c.session)
	}
	return nil, nil
}

// eventNext waits for the next events of what the session has registered for.
func eventNext(c *call) (any, error) {
	for {
		r := c.registrations[c.session]
		switch {
		case c.db.find("session", c.session) == nil:
			return nil, fail("SESSION_INVALID", c.session)
		case r == nil:
			return nil, fail("SESSION_NOT_REGISTERED", c.session)
		case c.db.forgotten > r.since:
			r.since = c.db.generation
			return nil, fail("EVENTS_LOST")
		}
		subscriptions, err := parseSubscriptions(r.classes)
		if err != nil {
			return nil, err
		}
		if events, newest := c.eventsSince(subscriptions, r.since); len(events) > 0 {
			r.since = newest
			for n, e := range events {
				e, _ := e.(map[string]any)
				e["id"], e["timestamp"] = fmt.Sprint(n), fmt.Sprintf("%d.", time.Now().Unix())
			}
			return events, nil
		}
		changed := c.db.changed
		err = c.unlocked(func() error {
			select {
			case <-changed:
				return nil
			case <-c.client.Done():
				return c.client.Err()
			case <-c.ctx.Done():
				return c.ctx.Err()
			}
		})
		if err != nil {
			return nil, err
		}
	}
}
