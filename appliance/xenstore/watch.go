package xenstore

import (
	"context"
	"fmt"
	"strconv"
)

// Watch tells of changes at a path and below it.
type Watch struct {
	client      *Client
	path, token string
	events      chan struct{}
}

// Watch sets a watch. XenStore fires it once at the beginning, again whenever something changes, after a resume or migration of
// the guest, and now and then without a reason. When ctx ends before the answer, the host may keep a watch that nobody listens
// to until Close.
func (c *Client) Watch(ctx context.Context, path string) (*Watch, error) {
	c.mu.Lock()
	c.lastToken++
	w := &Watch{client: c, path: path, token: strconv.FormatUint(c.lastToken, 10), events: make(chan struct{}, 1)}
	c.watches[w.token] = w // before the request, as the first event may overtake its answer
	c.mu.Unlock()
	if _, err := c.request(ctx, TypeWatch, path, terminated(path, w.token)); err != nil {
		c.forget(w)
		return nil, err
	}
	return w, nil
}

// Events delivers 'read again': any number of changes since the last reception make one event. It is never closed; see
// Client.Ended.
func (w *Watch) Events() <-chan struct{} { return w.events }

// Unwatch removes the watch. Events that are on their way are dropped.
func (w *Watch) Unwatch(ctx context.Context) error {
	w.client.forget(w)
	_, err := w.client.request(ctx, TypeUnwatch, w.path, terminated(w.path, w.token))
	return err
}

func (c *Client) forget(w *Watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watches, w.token)
}

// event hands on an event, whose payload is path and token. Tokens of watches that went meanwhile are passed over.
func (c *Client) event(payload []byte) error {
	parts, err := split(payload)
	if err != nil || len(parts) < 2 {
		return fmt.Errorf("%w: watch event is %.80q, not a path and a token", ErrProtocol, payload)
	}
	c.mu.Lock()
	w := c.watches[parts[1]]
	c.mu.Unlock()
	if w == nil {
		return nil
	}
	select {
	case w.events <- struct{}{}:
	default: // one is waiting, and will be followed by a read
	}
	return nil
}
