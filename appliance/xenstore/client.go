package xenstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Device is where the kernel of a Xen guest offers its connection to XenStore.
const Device = "/dev/xen/xenbus"

// Options of a Client.
type Options struct {
	// AnswerTimeout is how long a request waits for its answer, and for those before it; default 10 s.
	AnswerTimeout time.Duration
}

// Client is a connection to XenStore. Its methods may be called by several goroutines, which then wait for each other. A request
// whose context ends returns at once, but was perhaps sent: it may still be carried out, and keeps the connection until it is
// answered. When the connection breaks, all requests return the cause.
type Client struct {
	options    Options
	connection io.ReadWriteCloser
	calls      chan *call
	pending    atomic.Uint32 // number of the request in flight, or 0
	answers    chan Message  // the answer to it

	group   sync.WaitGroup
	ended   chan struct{}
	endOnce sync.Once
	cause   error // why it ended; read after ended is closed

	mu        sync.Mutex
	watches   map[string]*Watch // by token
	lastToken uint64
}

// call is a request on its way.
type call struct {
	request Type
	payload []byte
	answer  chan Message // of capacity 1, so that nobody waits for a caller who has gone
}

// Open connects to the kernel's device; path is Device but in tests.
func Open(path string, o Options) (*Client, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("xenstore: %w; a Xen guest has this device once devtmpfs is mounted", err)
	}
	// Only a file that the runtime polls can be closed while it is read from.
	if err := file.SetReadDeadline(time.Time{}); err != nil {
		return nil, errors.Join(fmt.Errorf("xenstore: %s is not XenStore's device, which can be polled: %w", path, err), file.Close())
	}
	return New(file, o), nil
}

// New returns a client that owns a connection. Each request is one Write of it; a Read that blocks must return after Close.
func New(connection io.ReadWriteCloser, o Options) *Client {
	if o.AnswerTimeout == 0 {
		o.AnswerTimeout = 10 * time.Second
	}
	c := &Client{
		options: o, connection: connection, calls: make(chan *call), answers: make(chan Message, 1),
		ended: make(chan struct{}), watches: map[string]*Watch{},
	}
	c.group.Go(c.send)
	c.group.Go(c.receive)
	return c
}

// Close ends the connection and with it all watches. It waits for the client's goroutines.
func (c *Client) Close() error {
	c.end(ErrClosed)
	c.group.Wait()
	if !errors.Is(c.cause, ErrClosed) {
		return c.cause // it had ended before
	}
	return nil
}

// Ended is closed when the connection has ended; Err then returns why.
func (c *Client) Ended() <-chan struct{} { return c.ended }

// Err returns why the connection ended: ErrClosed after Close. It is nil before Ended.
func (c *Client) Err() error {
	select {
	case <-c.ended:
		return c.cause
	default:
		return nil
	}
}

// end closes the connection; the first cause stays.
func (c *Client) end(cause error) {
	c.endOnce.Do(func() {
		c.cause = cause
		close(c.ended)
		_ = c.connection.Close() // nothing is lost by its failure: what was answered is answered
	})
}

// request asks and returns the answer's payload.
func (c *Client) request(ctx context.Context, request Type, path string, payload []byte) ([]byte, error) {
	answer, err := c.do(ctx, request, path, payload)
	if err != nil && !errors.As(err, new(*Error)) {
		return nil, fmt.Errorf("xenstore: %v %.200s: %w", request, path, err)
	}
	return answer, err
}

func (c *Client) do(ctx context.Context, request Type, path string, payload []byte) ([]byte, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	if size := HeaderSize + len(payload); size > MaxRequest {
		return nil, fmt.Errorf("%w: the request has %d bytes, more than %d", ErrQuota, size, MaxRequest)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.options.AnswerTimeout, fmt.Errorf("%w (waited %v)", ErrNoAnswer, c.options.AnswerTimeout))
	defer cancel()
	call := &call{request: request, payload: payload, answer: make(chan Message, 1)}
	select {
	case c.calls <- call:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.ended:
		return nil, c.cause
	}
	select {
	case answer := <-call.answer:
		if answer.Type == TypeError {
			return nil, parseError(request, path, answer.Payload)
		}
		return answer.Payload, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.ended:
		return nil, c.cause
	}
}

// send makes one request after the other, each when the one before has been answered.
func (c *Client) send() {
	var number uint32
	for {
		select {
		case call := <-c.calls:
			number = max(1, number+1) // 0 is 'none pending'
			answer, err := c.exchange(number, call)
			if err != nil {
				c.end(err)
				return
			}
			call.answer <- answer
		case <-c.ended:
			return
		}
	}
}

func (c *Client) exchange(number uint32, call *call) (Message, error) {
	c.pending.Store(number)
	// In one piece: the device acts on a message when its last byte is written.
	request := Message{Type: call.request, Request: number, Payload: call.payload}
	if _, err := c.connection.Write(request.Append(nil)); err != nil {
		return Message{}, fmt.Errorf("write to XenStore: %w", err)
	}
	select {
	case answer := <-c.answers:
		if answer.Type != call.request && answer.Type != TypeError {
			return Message{}, fmt.Errorf("%w: %v was answered by %v", ErrProtocol, call.request, answer.Type)
		}
		return answer, nil
	case <-c.ended:
		return Message{}, c.cause
	}
}

// receive reads all that comes until the connection ends.
func (c *Client) receive() {
	reader := bufio.NewReaderSize(c.connection, HeaderSize+MaxPayload)
	for {
		m, err := ReadMessage(reader)
		if err == nil {
			err = c.dispatch(m)
		} else {
			err = fmt.Errorf("read from XenStore: %w", err)
		}
		if err != nil {
			c.end(err)
			return
		}
	}
}

func (c *Client) dispatch(m Message) error {
	if m.Type == TypeWatchEvent {
		return c.event(m.Payload)
	}
	if m.Request == 0 || !c.pending.CompareAndSwap(m.Request, 0) {
		return fmt.Errorf("%w: %v answers request %d, which is not pending", ErrProtocol, m.Type, m.Request)
	}
	c.answers <- m // has room: one request is pending at a time
	return nil
}
