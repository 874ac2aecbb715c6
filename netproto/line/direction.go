package line

import (
	"context"
	"sync"
	"time"
)

// maxChunk is the most that is read, and reserved on the line, at once.
const maxChunk = 16 << 10

// chunk is some bytes on their way, or the end of a stream.
type chunk struct {
	bytes []byte
	due   time.Time // when they leave the line
	err   error     // what ended the stream: io.EOF, or what reading failed with
}

// direction is one way of the line, shared by all connections.
type direction struct {
	spec Spec
	// passed counts the bytes that have left the line; guarded by mu, as all below.
	mu     sync.Mutex
	passed int64
	free   time.Time // when the line can take the next chunk
	held   int64     // bytes read and not passed
	flow   flow
	room   chan struct{}
}

func newDirection(s Spec) *direction { return &direction{spec: s, room: make(chan struct{})} }

// await returns when there is room for a chunk.
func (d *direction) await(ctx context.Context) error {
	for {
		d.mu.Lock()
		full, room := d.held > 0 && d.held+maxChunk > d.spec.Capacity(), d.room
		d.mu.Unlock()
		if !full {
			return ctx.Err()
		}
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reserve takes n bytes onto the line and tells when they will have passed it.
func (d *direction) reserve(n int) time.Time {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held += int64(n)
	if d.free.Before(now) {
		d.free = now
	}
	if d.spec.Rate > 0 {
		d.free = d.free.Add(time.Duration(float64(n) / float64(d.spec.Rate) * float64(time.Second)))
	}
	return d.free.Add(d.spec.RTT / 2)
}

// leave takes n bytes off the line; passed tells whether they got through.
func (d *direction) leave(n int, passed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held -= int64(n)
	if passed {
		d.passed += int64(n)
		d.flow.add(time.Now(), d.passed)
	}
	close(d.room)
	d.room = make(chan struct{})
}

func (d *direction) bytes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

func (d *direction) rate() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flow.rate(d.passed)
}

// sleepUntil waits for a time; a timer of the runtime is late by up to a millisecond, never early.
func sleepUntil(ctx context.Context, timer *time.Timer, due time.Time) error {
	wait := time.Until(due)
	if wait <= 0 {
		return ctx.Err()
	}
	timer.Reset(wait)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
