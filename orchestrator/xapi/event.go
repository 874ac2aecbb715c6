package xapi

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Operations of an event.
const (
	EventAdd    = "add"
	EventModify = "mod"
	EventDelete = "del"
)

// Event says how one object has changed. Events are for each object and coalesced to its newest state: states
// in between are not seen (xapi-facts §4).
type Event struct {
	Class     string          `json:"class"`     // in lower case: vm, vdi, vm_guest_metrics
	Operation string          `json:"operation"` // EventAdd, EventModify or EventDelete
	Ref       Ref             `json:"ref"`
	Snapshot  json.RawMessage `json:"snapshot"` // the whole record; absent when deleted
}

// Decode stores the event's record in the struct that record points to.
func (e Event) Decode(record any) error {
	if !present(e.Snapshot) {
		return fmt.Errorf("the %s event of %s %s has no record", e.Operation, e.Class, e.Ref)
	}
	return decodeResult("event of "+e.Class, e.Snapshot, record)
}

// EventBatch is the answer to one wait.
type EventBatch struct {
	Events []Event `json:"events"` // additions, then changes, then deletions
	Token  string  `json:"token"`  // where the next wait goes on
	// ValidRefCounts is the number of objects of each class, in lower case. Deletions are remembered for a while
	// only: a count that differs from one's own means that some were missed.
	ValidRefCounts map[string]int64 `json:"valid_ref_counts"`
}

// Events waits until an object of the classes changes after token, or until the timeout, and then returns an
// empty batch with a new token. A class is "vm", or "vm/<ref>" for one object. Token "" gives every existing
// object at once. A zero timeout does not wait.
//
// Tokens do not survive a restart of the toolstack: a new coordinator may wait for ever on an old one, so that
// a long watch must look at the objects themselves now and then.
func (c *Client) Events(ctx context.Context, classes []string, token string, timeout time.Duration) (EventBatch, error) {
	var batch EventBatch
	late := c.config.CallTimeout
	if token != "" { // of what has changed since, an answer does not take long
		late = min(late, answerTimeout)
	}
	raw, err := c.do(ctx, timeout+late, 0, "event.from", []any{classes, token, Float(timeout.Seconds())})
	if err != nil {
		return batch, err
	}
	err = decodeResult("event.from", raw, &batch)
	return batch, err
}

// TokenLost reports whether err says that the pool cannot go on from a token: the next wait begins with "", which gives every
// object anew. event.from knows no EVENTS_LOST, event.next does; both mean it.
func TokenLost(err error) bool { return IsCode(err, codeTokenParseFailure, codeEventsLost) }
