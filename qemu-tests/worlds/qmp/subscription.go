package qmp

import (
	"context"
	"slices"
	"sync"
)

// Subscription receives events from the moment it was made. It loses none.
type Subscription struct {
	client *Client
	names  []string
	more   chan struct{} // has a value while the queue may have one

	mu    sync.Mutex
	queue []Event
}

// Subscribe makes a subscription to events of these names, to all events without a name. Its owner closes it.
func (c *Client) Subscribe(names ...string) *Subscription {
	s := &Subscription{client: c, names: names, more: make(chan struct{}, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscriptions[s] = struct{}{}
	return s
}

// Next waits for the next event, in QEMU's order. It fails when ctx ends and, after the last event, when the connection has
// ended. One goroutine at a time calls it.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok := s.take(); ok {
			return e, nil
		}
		select {
		case <-s.more:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		case <-s.client.ended:
			if e, ok := s.take(); ok {
				return e, nil
			}
			return Event{}, s.client.failure
		}
	}
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	delete(s.client.subscriptions, s)
}

func (s *Subscription) offer(e Event) {
	if len(s.names) > 0 && !slices.Contains(s.names, e.Name) {
		return
	}
	s.mu.Lock()
	s.queue = append(s.queue, e)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (s *Subscription) take() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return Event{}, false
	}
	e := s.queue[0]
	s.queue = s.queue[1:]
	return e, true
}
