package xenstoretest

import (
	"bytes"
	"net"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/appliance/xenstore"
)

// connection is one of the guest's. What the store's lock guards is said to be 'of the store'.
type connection struct {
	store *Store
	pipe  net.Conn
	wake  chan struct{} // something is to be sent
	done  chan struct{}
	once  sync.Once

	watches []watch           // of the store
	events  []event           // of the store: to be sent
	answers []pendingExchange // of the store: to be sent, at most one if the client keeps to the rules
}

type watch struct{ path, token string }

type event struct{ path, token string }

type pendingExchange struct{ request, answer xenstore.Message }

func (c *connection) end() {
	c.once.Do(func() {
		close(c.done)
		_ = c.pipe.Close() // a pipe's never fails
	})
}

func (c *connection) awake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// fire queues a watch's event; one that waits already stands for it. The caller holds the store's lock.
func (c *connection) fire(w watch, path string) {
	e := event{path: path, token: w.token}
	if !slices.Contains(c.events, e) {
		c.events = append(c.events, e)
	}
	c.awake()
}

// receive reads requests and queues their answers.
func (c *connection) receive() {
	defer c.end()
	buffer := make([]byte, 2*(xenstore.HeaderSize+xenstore.MaxPayload))
	for {
		n, err := c.pipe.Read(buffer)
		if err != nil {
			return
		}
		if n > xenstore.MaxRequest {
			c.store.t.Errorf("a request of %d bytes does not fit the device's buffer of %d", n, xenstore.MaxRequest)
			return
		}
		whole := bytes.NewReader(buffer[:n])
		request, err := xenstore.ReadMessage(whole)
		if err != nil || whole.Len() > 0 {
			c.store.t.Errorf("a write of %d bytes is not one whole request: %v, %d bytes left", n, err, whole.Len())
			return
		}
		c.take(request)
	}
}

func (c *connection) take(request xenstore.Message) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if len(c.answers) > 0 {
		c.store.t.Errorf("a %v was sent before the answer to the %v: two requests in flight corrupt each other", request.Type, c.answers[0].request.Type)
	}
	c.answers = append(c.answers, pendingExchange{request: request, answer: c.answer(request)})
	c.awake()
}

// send writes events and answers, in pieces as small as a reader may ever get them.
func (c *connection) send() {
	defer c.end()
	for {
		message, cut := c.next()
		if cut {
			return
		}
		if message == nil {
			select {
			case <-c.wake:
				continue
			case <-c.done:
				return
			}
		}
		for piece := range slices.Chunk(message, 13) {
			if _, err := c.pipe.Write(piece); err != nil {
				return
			}
		}
	}
}

// next takes what is to be sent: events first, so that they come before and between answers. It is nil when there is nothing, and
// cut tells that the connection shall end.
func (c *connection) next() (message []byte, cut bool) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(c.events) > 0 {
		e := c.events[0]
		c.events = c.events[1:]
		// The kernel leaves the numbers of an event as it finds them.
		m := xenstore.Message{Type: xenstore.TypeWatchEvent, Request: 0xdead, Transaction: 0xbeef, Payload: []byte(e.path + "\x00" + e.token + "\x00")}
		return m.Append(nil), false
	}
	if len(c.answers) == 0 || s.held {
		return nil, false
	}
	exchange := c.answers[0]
	c.answers = c.answers[1:]
	message = exchange.answer.Append(nil)
	if s.intercept != nil {
		message = s.intercept(exchange.request, message)
	}
	return message, message == nil
}
