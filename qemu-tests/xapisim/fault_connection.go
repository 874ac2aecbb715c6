package xapisim

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// connection is one as the server sees it, inside TLS. A rule that has hit the request on it makes it slow, cuts it or stops it.
type connection struct {
	*tls.Conn
	pool *Pool
	gone chan struct{} // closed when either side has ended it
	once sync.Once

	mu       sync.Mutex
	cutAfter int64 // bytes in both directions until it is cut; 0 for never
	rate     int64 // bytes a second in each direction; 0 for no limit
	stalling bool  // the next write stops in its middle
}

type connectionKey struct{}

// connectionContext makes the connection of a request known to its handler.
func connectionContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, c)
}

// arm makes ready for one request what a rule has in store for its bytes.
func (c *connection) arm(fault Rule) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cutAfter, c.rate, c.stalling = fault.CutAfter, fault.BytesPerSecond, false
}

// stall makes the next write stop in its middle.
func (c *connection) stall() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stalling = true
}

func (c *connection) state() (cutAfter, rate int64, stalling bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cutAfter, c.rate, c.stalling
}

var errStopped = errors.New("a rule has ended this connection")

// pass accounts for bytes that have gone over it, and waits as long as they would have taken. It tells whether more may come.
func (c *connection) pass(n int) bool {
	_, rate, _ := c.state()
	if rate > 0 && n > 0 {
		select {
		case <-time.After(time.Duration(float64(n) / float64(rate) * float64(time.Second))):
		case <-c.gone:
		case <-c.pool.ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cutAfter == 0 {
		return true
	}
	if c.cutAfter -= int64(n); c.cutAfter <= 0 {
		c.cutAfter = -1
	}
	return c.cutAfter > 0
}

// slice is how many of n bytes go at once: not beyond a cut, and such that a slow connection is slow evenly.
func (c *connection) slice(n int) int {
	cutAfter, rate, _ := c.state()
	if cutAfter > 0 {
		n = int(min(int64(n), cutAfter))
	}
	if rate > 0 {
		n = int(min(int64(n), max(1, rate/10)))
	}
	return n
}

func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:c.slice(len(b))])
	if err != nil && !isTimeout(err) {
		c.end()
	}
	if !c.pass(n) {
		return 0, errors.Join(errStopped, c.Close())
	}
	return n, err
}

func (c *connection) Write(b []byte) (written int, err error) {
	if _, _, stalling := c.state(); stalling {
		if _, err := c.Conn.Write(b[:len(b)/2]); err != nil {
			return 0, err
		}
		select {
		case <-c.gone:
		case <-c.pool.ctx.Done():
		}
		return len(b) / 2, errStopped
	}
	for written < len(b) {
		n, err := c.Conn.Write(b[written : written+c.slice(len(b)-written)])
		written += n
		if err != nil {
			return written, err
		}
		if !c.pass(n) {
			return written, errors.Join(errStopped, c.Close())
		}
	}
	return written, nil
}

func (c *connection) Close() error {
	c.end()
	return c.Conn.Close()
}

func (c *connection) end() { c.once.Do(func() { close(c.gone) }) }

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout() // a deadline that net/http set to get a read back
}

// faultyListener accepts TLS connections, unless a rule for connections strikes.
type faultyListener struct {
	net.Listener
	pool   *Pool
	config *tls.Config
}

func (l *faultyListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		fault, _ := l.pool.faults.take(acceptance, func() map[string]bool { return nil })
		switch {
		case fault.Cut:
			c.Close()
		case fault.Hang:
			l.pool.group.Go(func() { l.pool.hold(c) })
		default:
			return &connection{Conn: tls.Server(c, l.config), pool: l.pool, gone: make(chan struct{})}, nil
		}
	}
}

// hold keeps a connection that is never served until its client or the pool has gone.
func (p *Pool) hold(c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(p.ctx, func() { c.Close() })()
	_, _ = io.Copy(io.Discard, c) // ends with the connection, however that ends
}
