package events

import (
	"context"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
)

// Ring holds the newest events. It may be used by several goroutines.
type Ring struct {
	mu      sync.Mutex
	events  []control.Event // in order; at most capacity
	last    int64           // sequence number of the newest; the first event has 1
	changed chan struct{}   // closed and replaced with each event
	size    int
}

// NewRing returns a Ring of that many events.
func NewRing(capacity int) *Ring {
	return &Ring{size: capacity, changed: make(chan struct{})}
}

// maxMessage bounds an event in bytes, and with it the ring.
const maxMessage = 2 << 10

// Add appends an event and drops the oldest one when the ring is full.
func (r *Ring) Add(at time.Time, level, message string) {
	if len(message) > maxMessage {
		message = message[:maxMessage] + "…"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) == r.size {
		r.events = append(r.events[:0], r.events[1:]...)
	}
	r.last++
	r.events = append(r.events, control.Event{Sequence: r.last, Time: at, Level: level, Message: message})
	close(r.changed)
	r.changed = make(chan struct{})
}

// Page returns the events after a sequence number. When there are none it waits for one until ctx ends, and then returns an
// empty page: the end of a wait is no error.
func (r *Ring) Page(ctx context.Context, after int64) control.EventPage {
	for {
		page, changed := r.page(after)
		if len(page.Events) > 0 {
			return page
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return page
		}
	}
}

func (r *Ring) page(after int64) (control.EventPage, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.last - int64(len(r.events)) + 1 // of the oldest that is left
	page := control.EventPage{Next: r.last, Lost: max(0, first-1-after), Events: []control.Event{}}
	if from := max(after+1, first); from <= r.last {
		page.Events = append(page.Events, r.events[from-first:]...)
	}
	return page, r.changed
}
