package line

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// Gate is asked before bytes leave the line, whichever way: how many of n may pass now. It may wait, until ctx ends with the
// connection, and it is asked again for what remains. An error resets the connection. It is called from several goroutines.
type Gate func(ctx context.Context, n int) (pass int, err error)

// Options of a Proxy beside its line.
type Options struct {
	// Listen is where connections are taken, "host:port"; empty: a free port of 127.0.0.1.
	Listen string
	// Gate breaks the line; nil: it holds.
	Gate Gate
}

// Proxy forwards connections to a target over a line. Its methods may be called by several goroutines.
type Proxy struct {
	spec     Spec
	target   string
	gate     Gate
	listener net.Listener
	there    *direction
	back     *direction
	serving  sync.WaitGroup
	stop     context.CancelFunc

	mu    sync.Mutex
	conns map[*connection]struct{}
}

// Start opens the line to a target, "host:port", which is dialled for each connection. The proxy must be closed.
func Start(s Spec, target string, o Options) (*Proxy, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("line: %w", err)
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	ctx, stop := context.WithCancel(context.Background())
	config := net.ListenConfig{Control: smallReceiveBuffer}
	listener, err := config.Listen(ctx, "tcp", o.Listen)
	if err != nil {
		stop()
		return nil, fmt.Errorf("line: %w", err)
	}
	p := &Proxy{
		spec: s, target: target, gate: o.Gate, listener: listener, there: newDirection(s), back: newDirection(s),
		stop: stop, conns: make(map[*connection]struct{}),
	}
	p.serving.Go(func() { p.serve(ctx) })
	return p, nil
}

// receiveBuffer is what the kernel keeps for a socket that the proxy reads, in bytes, doubled by it: what waits there waits for the line
// beyond its queue. It still holds several of the loopback device's segments.
const receiveBuffer = 128 << 10

// smallReceiveBuffer must come before listen(2): the handshake of TCP settles how the window is scaled (tcp(7), SO_RCVBUF).
func smallReceiveBuffer(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, receiveBuffer)
	})
	return errors.Join(err, failed)
}

// Addr is where the line is dialled.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Bytes tells how many bytes have passed to the target, and how many back.
func (p *Proxy) Bytes() (there, back int64) { return p.there.bytes(), p.back.bytes() }

// Rates tells how many bytes a second passed to the target, and how many back, while data flowed: from when a tenth of them had passed until nine tenths had.
// It is 0 where too few passed to tell.
func (p *Proxy) Rates() (there, back float64) { return p.there.rate(), p.back.rate() }

// Reset breaks all connections, as a router does that has lost its state: both ends get a reset. New ones are taken.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.reset()
	}
}

// Close breaks all connections and returns when the proxy's goroutines have ended.
func (p *Proxy) Close() {
	_ = p.listener.Close() // its address is given up whatever it says
	p.stop()
	p.Reset()
	p.serving.Wait()
}

// serve accepts until the listener is closed.
func (p *Proxy) serve(ctx context.Context) {
	for {
		socket, err := p.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // such as too many open files
			time.Sleep(10 * time.Millisecond)
			continue
		}
		p.serving.Go(func() { p.carry(ctx, socket.(*net.TCPConn)) })
	}
}

// carry forwards one connection until it has ended both ways.
func (p *Proxy) carry(ctx context.Context, near *net.TCPConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &connection{ends: []*net.TCPConn{near}, cancel: cancel}
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, c)
		c.close()
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	if sleepUntil(ctx, timer, time.Now().Add(p.spec.RTT)) != nil {
		return
	}
	dialer := net.Dialer{Control: smallReceiveBuffer}
	socket, err := dialer.DialContext(ctx, "tcp", p.target)
	if err != nil {
		c.reset() // the dialer sees that nobody listens
		return
	}
	far := socket.(*net.TCPConn)
	if !c.add(far) {
		return
	}
	var ways sync.WaitGroup
	ways.Go(func() { p.forward(ctx, c, p.there, near, far) })
	ways.Go(func() { p.forward(ctx, c, p.back, far, near) })
	ways.Wait()
}

// forward carries one direction of a connection.
func (p *Proxy) forward(ctx context.Context, c *connection, d *direction, from, to *net.TCPConn) {
	// Each chunk in the queue has its bytes reserved in the direction, which bounds them; the channel only has to be no narrower.
	queue := make(chan chunk, d.spec.Capacity()/minRead+1)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(queue)
		read(ctx, d, from, queue)
	})
	if p.write(ctx, d, to, queue) != nil {
		c.reset()
	}
	reading.Wait()
	for k := range queue {
		d.leave(len(k.bytes), false)
	}
}

// minRead is what a chunk holds on average at the very least; a sender of smaller ones is held up a little earlier.
const minRead = 256

// read fills the queue until the stream ends.
func read(ctx context.Context, d *direction, from io.Reader, queue chan<- chunk) {
	buffer := make([]byte, maxChunk)
	for {
		if d.await(ctx) != nil {
			return
		}
		n, err := from.Read(buffer)
		k := chunk{bytes: bytes.Clone(buffer[:n]), due: d.reserve(n), err: err}
		select {
		case queue <- k:
		case <-ctx.Done():
			d.leave(n, false)
			return
		}
		if err != nil {
			return
		}
	}
}

// write empties the queue; an error has the connection reset.
func (p *Proxy) write(ctx context.Context, d *direction, to *net.TCPConn, queue <-chan chunk) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for k := range queue {
		err := sleepUntil(ctx, timer, k.due)
		if err == nil {
			err = p.pass(ctx, to, k.bytes)
		}
		d.leave(len(k.bytes), err == nil)
		if err != nil {
			return err
		}
		if errors.Is(k.err, io.EOF) {
			return to.CloseWrite()
		}
		if k.err != nil {
			return k.err
		}
	}
	return nil
}

// pass writes what the gate lets through.
func (p *Proxy) pass(ctx context.Context, to io.Writer, rest []byte) error {
	for len(rest) > 0 {
		n := len(rest)
		if p.gate != nil {
			var err error
			if n, err = p.gate(ctx, n); err != nil {
				return err
			}
		}
		if _, err := to.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// connection is the two sockets of one that passes the line.
type connection struct {
	cancel context.CancelFunc

	mu    sync.Mutex
	ends  []*net.TCPConn
	ended bool
}

// add takes the second socket; false when the connection has been reset already.
func (c *connection) add(end *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		_ = end.Close()
		return false
	}
	c.ends = append(c.ends, end)
	return true
}

// reset ends the connection at once; a linger of 0 has the kernel send RST instead of FIN (socket(7)).
func (c *connection) reset() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	for _, end := range c.ends {
		_ = end.SetLinger(0)
		_ = end.Close()
	}
}

// close gives the sockets back after both streams have ended.
func (c *connection) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	for _, end := range c.ends {
		_ = end.Close()
	}
}
