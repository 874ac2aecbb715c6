package xapisim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

var eventCalls = map[string]handler{
	"event.from":       eventFrom,
	"event.register":   eventRegister,
	"event.unregister": eventUnregister,
	"event.next":       eventNext,
	"event.inject": func(c *call) (any, error) {
		for class := range c.db.tables {
			if strings.EqualFold(class, c.text(0)) {
				o, err := c.db.get(class, c.text(1))
				if err != nil {
					return nil, err
				}
				c.db.bump(o)
				return tokenText(c.db.generation), nil
			}
		}
		return nil, fail("HANDLE_INVALID", c.text(0), c.text(1))
	},
	"event.get_current_id": func(c *call) (any, error) { return int64(c.db.generation), nil },
}

// subscription is one item of event.from's classes: a class, "*" for all, or one object of a class.
type subscription struct{ class, ref string }

func parseSubscriptions(items []string) ([]subscription, error) {
	var out []subscription
	for _, item := range items {
		parts := strings.Split(item, "/")
		if len(parts) > 2 || parts[0] == "" {
			return nil, fail("EVENT_SUBSCRIPTION_PARSE_FAILURE", item)
		}
		s := subscription{class: strings.ToLower(parts[0])}
		if len(parts) == 2 {
			s.ref = parts[1]
		}
		out = append(out, s)
	}
	return out, nil
}

func wanted(subscriptions []subscription, class, ref string) bool {
	return slices.ContainsFunc(subscriptions, func(s subscription) bool {
		return (s.class == "*" || s.class == strings.ToLower(class)) && (s.ref == "" || s.ref == ref)
	})
}

// parseToken reads "generation,generation of messages"; "" stands for the beginning of time.
func parseToken(token string) (uint64, error) {
	if token == "" {
		return 0, nil
	}
	objects, messages, ok := strings.Cut(token, ",")
	generation, err := strconv.ParseUint(objects, 10, 63)
	if _, bad := strconv.ParseUint(messages, 10, 63); !ok || err != nil || bad != nil {
		return 0, fail("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
	}
	return generation, nil
}

func tokenText(generation uint64) string { return fmt.Sprintf("%020d,%020d", generation, 0) }

// eventFrom waits until an object of the wanted classes has changed since the token, or the timeout
// (xapi-facts §4).
func eventFrom(c *call) (any, error) {
	subscriptions, err := parseSubscriptions(c.list(0))
	if err != nil {
		return nil, err
	}
	since, err := parseToken(c.text(1))
	if err != nil {
		return nil, err
	}
	timeout := time.NewTimer(max(0, time.Duration(min(c.number(2), 1e6)*float64(time.Second))))
	defer timeout.Stop()
	for first, expired := true, false; ; first = false {
		events, newest := c.eventsSince(subscriptions, since)
		if len(events) > 0 || expired {
			return map[string]any{
				"events": events, "valid_ref_counts": c.referenceCounts(), "token": tokenText(newest),
			}, nil
		}
		changed := c.db.changed
		err := c.unlocked(func() error {
			select {
			case <-changed:
				if !first || onlyTasks(subscriptions) {
					return nil
				}
				sleep(c.client, c.config.EventDelay) // gathers bursts
			case <-timeout.C:
				expired = true
			case <-c.client.Done():
				return c.client.Err()
			case <-c.ctx.Done():
				return c.ctx.Err()
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if c.db.find("session", c.session) == nil {
			return nil, fail("SESSION_INVALID", c.session)
		}
	}
}

func onlyTasks(subscriptions []subscription) bool {
	return !slices.ContainsFunc(subscriptions, func(s subscription) bool { return s.class != "task" })
}

// eventless are the classes of which no event tells (gen_events in ocaml/idl/datamodel.ml, transcripts).
var eventless = map[string]bool{
	"session": true, "user": true, "secret": true, "auth": true, "data_source": true, "sr_stat": true, "probe_result": true,
	"vdi_nbd_server_info": true,
}

// eventsSince gathers what has changed after a generation: one event an object, adds before mods before dels. The
// generation that it gives is that of the newest of them.
func (p *Pool) eventsSince(subscriptions []subscription, since uint64) (events []any, newest uint64) {
	events, newest = []any{}, since
	var adds, mods []*object
	var dels []any
	for class, table := range p.db.tables {
		if eventless[class] {
			continue
		}
		for ref, o := range table {
			if o.modified <= since || !wanted(subscriptions, class, ref) {
				continue
			}
			newest = max(newest, o.modified)
			if o.created > since {
				adds = append(adds, o)
			} else {
				mods = append(mods, o)
			}
		}
		for _, d := range p.db.deletions[class] {
			if d.deleted > since && d.created <= since && wanted(subscriptions, class, d.ref) {
				newest = max(newest, d.deleted)
				dels = append(dels, event(class, "del", d.ref, d.deleted))
			}
		}
	}
	byAge := func(a, b *object) int { return int(a.modified) - int(b.modified) }
	slices.SortFunc(adds, byAge)
	slices.SortFunc(mods, byAge)
	for _, o := range adds {
		events = append(events, p.snapshotEvent(o, "add"))
	}
	for _, o := range mods {
		events = append(events, p.snapshotEvent(o, "mod"))
	}
	return append(events, dels...), newest
}

func event(class, operation, ref string, generation uint64) map[string]any {
	return map[string]any{
		"id": strconv.FormatUint(generation, 10), "timestamp": "0.0", "class": strings.ToLower(class),
		"operation": operation, "ref": ref,
	}
}

func (p *Pool) snapshotEvent(o *object, operation string) map[string]any {
	e := event(o.class.Name, operation, o.ref, o.modified)
	e["snapshot"] = p.record(o)
	return e
}

func (p *Pool) referenceCounts() map[string]any {
	counts := map[string]any{"diagnostics": int64(0)} // a class without objects that the published model leaves out
	for class, table := range p.db.tables {
		counts[strings.ToLower(class)] = int64(len(table))
	}
	return counts
}
