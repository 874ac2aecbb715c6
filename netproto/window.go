package netproto

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errEnded tells Conn that its end, not the caller's context, broke off a wait.
var errEnded = errors.New("connection ended")

// credit is what this end may still send in bulk frames. Its methods are safe for concurrent use.
type credit struct {
	turn chan struct{} // holds a token; the writer that took it waits alone, the others queue for it in order
	more chan struct{} // capacity 1: credit was given

	mu        sync.Mutex
	limit     int
	available int
	blocked   time.Duration
}

// newCredit takes the window that the peer offered.
func newCredit(window int) *credit {
	c := &credit{turn: make(chan struct{}, 1), more: make(chan struct{}, 1), limit: widened(window), available: window}
	c.turn <- struct{}{}
	return c
}

// take waits until cost bytes may be sent. It returns the context's cause, or errEnded once done is closed.
func (c *credit) take(ctx context.Context, done <-chan struct{}, cost int) error {
	if err := receive(ctx, done, c.turn); err != nil {
		return err
	}
	defer func() { c.turn <- struct{}{} }()
	if c.tryTake(cost) {
		return nil
	}
	start := time.Now()
	defer func() {
		c.mu.Lock()
		c.blocked += time.Since(start)
		c.mu.Unlock()
	}()
	for {
		if err := receive(ctx, done, c.more); err != nil {
			return err
		}
		if c.tryTake(cost) {
			return nil
		}
	}
}

func (c *credit) tryTake(cost int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.available < cost {
		return false
	}
	c.available -= cost
	return true
}

// give adds what the peer granted, or what was taken and not used.
func (c *credit) give(cost int) error {
	c.mu.Lock()
	if cost > c.limit-c.available {
		defer c.mu.Unlock()
		return violation("%d bytes granted on top of %d, more than the %d to which the window may grow", cost, c.available, c.limit)
	}
	c.available += cost
	c.mu.Unlock()
	signal(c.more)
	return nil
}

func (c *credit) timeBlocked() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.blocked
}

// widened is what a window may grow to.
func widened(window int) int { return min(2*window, MaxWindow) }

// receipts is the other side: what the peer has sent of the window this end offered. Its methods are safe for concurrent use.
type receipts struct {
	limit int           // of window
	rtt   time.Duration // 0: unknown

	mu       sync.Mutex
	window   int
	held     int // sent by the peer and not granted again
	released int // of these, released by the application
	round    round
}

// round is a round trip's worth of releases: what the application takes in it is what the line has to hold.
type round struct {
	began    time.Time
	released int
}

func newReceipts(window int, rtt time.Duration) receipts {
	return receipts{limit: widened(window), rtt: rtt, window: window, round: round{began: time.Now()}}
}

// charge counts a frame that the peer sent.
func (r *receipts) charge(cost int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held+cost > r.window {
		return violation("the peer overran the window: %d bytes sent, %d allowed", r.held+cost, r.window)
	}
	r.held += cost
	return nil
}

// grantShare is the part of the window that must be released before it is granted again: little, for what waits to be granted is
// missing on a long line, and not nothing, so that idle and slow lines carry few WINDOW frames.
const grantShare = 8

// release counts a frame that the application is done with, and returns what to grant now.
func (r *receipts) release(cost int) (grant int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.released += cost
	if r.released < r.window/grantShare {
		r.round.released += cost
		return 0
	}
	grant, r.released = r.released, 0
	r.held -= grant
	return grant + r.widen(cost)
}

// widen lets the window grow when the line holds more than half of it: bandwidth times delay, where the bandwidth is what the
// application takes. One that is slower than the line takes little in a round trip, and the window stays. r.mu is held.
func (r *receipts) widen(cost int) (more int) {
	r.round.released += cost
	took := time.Since(r.round.began)
	if took < r.rtt {
		return 0
	}
	if float64(r.round.released)*float64(r.rtt) > float64(r.window)/2*float64(took) {
		more = r.limit - r.window
		r.window = r.limit
	}
	r.round = round{began: time.Now()}
	return more
}

// receive waits for a value, the context or the connection's end.
func receive[T any](ctx context.Context, done <-chan struct{}, from <-chan T) error {
	select {
	case <-from:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-done:
		return errEnded
	}
}

// signal leaves a note in a channel of capacity 1.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
