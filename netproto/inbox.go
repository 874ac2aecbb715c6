package netproto

import (
	"context"
	"sync"
)

// inbox holds the frames that ReadFrame has not returned yet. One goroutine puts, one gets.
type inbox struct {
	ready chan struct{} // capacity 1: a frame or the end came
	space chan struct{} // capacity 1: a frame was taken

	mu     sync.Mutex
	ring   []Frame
	first  int
	count  int
	queued int   // cost of the non-bulk frames among them
	end    error // what follows the last frame; nil while the connection lives
}

func newInbox() *inbox {
	return &inbox{ready: make(chan struct{}, 1), space: make(chan struct{}, 1), ring: make([]Frame, 16)}
}

// awaitRoom waits until a frame of type t may be put. Bulk frames may at any time, as the window bounds them.
func (q *inbox) awaitRoom(ctx context.Context, done <-chan struct{}, t Type) error {
	for !t.Bulk() && q.full() {
		if err := receive(ctx, done, q.space); err != nil {
			return err
		}
	}
	return nil
}

func (q *inbox) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queued >= QueueLimit
}

// put appends a frame. After the end it releases it instead.
func (q *inbox) put(f Frame) {
	q.mu.Lock()
	if q.end != nil {
		q.mu.Unlock()
		f.Release()
		return
	}
	if q.count == len(q.ring) {
		larger := make([]Frame, 2*len(q.ring))
		n := copy(larger, q.ring[q.first:])
		copy(larger[n:], q.ring[:q.first])
		q.ring, q.first = larger, 0
	}
	q.ring[(q.first+q.count)%len(q.ring)] = f
	q.count++
	if !f.Type.Bulk() {
		q.queued += frameCost(len(f.Payload))
	}
	q.mu.Unlock()
	signal(q.ready)
}

// get waits for the next frame, the end or the context.
func (q *inbox) get(ctx context.Context) (Frame, error) {
	for {
		f, ok, err := q.tryGet()
		if ok || err != nil {
			return f, err
		}
		if err := receive(ctx, nil, q.ready); err != nil {
			return Frame{}, err
		}
	}
}

func (q *inbox) tryGet() (f Frame, ok bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count == 0 {
		return Frame{}, false, q.end
	}
	f, q.ring[q.first] = q.ring[q.first], Frame{}
	q.first = (q.first + 1) % len(q.ring)
	q.count--
	if !f.Type.Bulk() {
		q.queued -= frameCost(len(f.Payload))
		signal(q.space)
	}
	return f, true, nil
}

// close sets what follows the last frame, unless that is set already.
func (q *inbox) close(end error) {
	q.mu.Lock()
	if q.end == nil {
		q.end = end
	}
	q.mu.Unlock()
	signal(q.ready)
}

// discard releases what nobody will read.
func (q *inbox) discard() {
	for {
		f, ok, _ := q.tryGet() // the error is the end, which the caller has set
		if !ok {
			return
		}
		f.Release()
	}
}
