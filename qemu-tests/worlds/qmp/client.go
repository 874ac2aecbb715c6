package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ErrClosed is what a client's methods give after Close.
var ErrClosed = errors.New("the QMP client is closed")

// dialInterval is how often Dial looks for a QEMU that does not listen yet.
const dialInterval = 10 * time.Millisecond

// Client is a connection to one QEMU. All methods may be called concurrently.
type Client struct {
	connection net.Conn
	turn       chan struct{} // held by who writes
	ended      chan struct{} // closed by the reader, after failure is set

	mu            sync.Mutex
	closing       bool
	failure       error // why the connection ended
	last          uint64
	calls         map[uint64]chan<- message
	subscriptions map[*Subscription]struct{}
}

// Dial connects to the unix socket that QEMU listens on (-qmp unix:PATH,server=on,wait=off). It waits for a QEMU that has just been
// started and does not listen yet, until ctx ends: end ctx when QEMU has ended.
func Dial(ctx context.Context, socket string) (*Client, error) {
	for {
		connection, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			return New(ctx, connection)
		}
		if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("qmp: %w", err)
		}
		select {
		case <-time.After(dialInterval):
		case <-ctx.Done():
			return nil, fmt.Errorf("qmp: no QEMU listens on %s: %w", socket, context.Cause(ctx))
		}
	}
}

// New takes a connection over, which Close closes, and leads QEMU out of its negotiation. ctx bounds that, not the client's life.
func New(ctx context.Context, connection net.Conn) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { _ = connection.SetDeadline(time.Unix(1, 0)) })
	reader := bufio.NewReader(connection)
	err := negotiate(reader, connection)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = connection.Close() // what failed first counts
		return nil, fmt.Errorf("qmp: %w", err)
	}
	c := &Client{
		connection: connection, turn: make(chan struct{}, 1), ended: make(chan struct{}),
		calls: map[uint64]chan<- message{}, subscriptions: map[*Subscription]struct{}{},
	}
	go c.read(reader)
	return c, nil
}

func negotiate(reader *bufio.Reader, connection net.Conn) error {
	greeting, err := readMessage(reader)
	if err != nil {
		return err
	}
	if greeting.Greeting == nil {
		return fmt.Errorf("%w: no greeting", ErrProtocol)
	}
	if _, err := connection.Write([]byte(`{"execute":"qmp_capabilities","id":0}` + "\n")); err != nil {
		return err
	}
	answer, err := readMessage(reader)
	if err != nil {
		return err
	}
	if answer.Return == nil || *answer.ID != 0 {
		return fmt.Errorf("%w: qmp_capabilities was not accepted", ErrProtocol)
	}
	return nil
}

func readMessage(reader *bufio.Reader) (message, error) {
	line, err := readLine(reader, maxLine)
	if err != nil {
		return message{}, err
	}
	return parse(line)
}

// read is the client's goroutine. It ends with the connection.
func (c *Client) read(reader *bufio.Reader) {
	for {
		m, err := readMessage(reader)
		if err != nil {
			c.fail(err)
			return
		}
		c.deliver(m)
	}
}

func (c *Client) deliver(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.ID != nil {
		if call := c.calls[*m.ID]; call != nil { // else whoever called has gone
			delete(c.calls, *m.ID)
			call <- m
		}
		return
	}
	for s := range c.subscriptions {
		s.offer(m.event())
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		err = ErrClosed
	}
	c.failure = fmt.Errorf("qmp: the connection has ended: %w", err)
	close(c.ended)
}

// Execute runs a command. arguments is what its JSON object is made of, nil for none; result takes the answer, nil ignores
// it. A refusal is an *Error. When ctx ends first QEMU may still carry the command out.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	c.mu.Lock()
	c.last++
	id, answer := c.last, make(chan message, 1)
	c.calls[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, id)
		c.mu.Unlock()
	}()
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return fmt.Errorf("qmp: %s: %w", command, err)
	}
	if err := c.write(ctx, append(line, '\n')); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case m := <-answer:
		return m.result(command, result)
	case <-c.ended:
	case <-ctx.Done():
		return fmt.Errorf("qmp: %s: %w", command, context.Cause(ctx))
	}
	select { // the last answer of a QEMU that then ended
	case m := <-answer:
		return m.result(command, result)
	default:
		return fmt.Errorf("%s: %w", command, c.failure)
	}
}

func (m message) result(command string, result any) error {
	if m.Refusal != nil {
		return &Error{Command: command, Class: m.Refusal.Class, Description: m.Refusal.Desc}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("qmp: the answer to %s: %w", command, err)
	}
	return nil
}

// write sends a line. One that is cut off by ctx ends the connection: half a line spoils the next.
func (c *Client) write(ctx context.Context, line []byte) error {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-c.ended:
		return c.failure
	case <-ctx.Done():
		return fmt.Errorf("qmp: %w", context.Cause(ctx))
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.connection.SetWriteDeadline(time.Unix(1, 0))
		close(cut)
	})
	n, err := c.connection.Write(line)
	if !stop() {
		<-cut
		_ = c.connection.SetWriteDeadline(time.Time{}) // fails only when the connection has ended, and so will the next write
	}
	switch {
	case err == nil:
		return nil
	case n == 0 && errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("qmp: %w", context.Cause(ctx))
	}
	_ = c.connection.Close() // what failed first counts
	<-c.ended
	return errors.Join(c.failure, err)
}

// Done is closed when the connection has ended, as it does when QEMU ends.
func (c *Client) Done() <-chan struct{} { return c.ended }

// Close ends the connection and waits for the client's goroutine. QEMU runs on.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	err := c.connection.Close()
	<-c.ended
	if errors.Is(err, net.ErrClosed) { // a second Close, or one after a failure
		return nil
	}
	return err
}
