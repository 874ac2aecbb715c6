package transfer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/netproto"
)

// Limiter bounds what is sent over all the connections that it decorates together, in bytes a second. It may be changed at any
// time and used by several goroutines. The zero value does not limit.
//
// Bulk frames wait until what was sent before has been paid for at the rate; so a frame goes out at once and the pause comes after
// it, and the rate holds over a second or more. Other frames count too, but do not wait: they are small, and much waits for them.
type Limiter struct {
	mu      sync.Mutex
	rate    int64 // bytes a second; 0: no limit
	debt    float64
	at      time.Time // when debt was right
	changed chan struct{}
}

// Set changes the limit, for those that wait too; 0 is none.
func (l *Limiter) Set(bytesPerSecond int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pay()
	l.rate = bytesPerSecond
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// Rate is the limit in bytes a second; 0 is none.
func (l *Limiter) Rate() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rate
}

// Conn returns c with what it sends held to the limit. Time spent waiting counts as WriteBlocked: to a transfer a limit is a
// thin line.
func (l *Limiter) Conn(c Conn) Conn { return &limitedConn{Conn: c, limiter: l} }

// limitOf is the limit of a connection in bytes a second; 0 is none.
func limitOf(c Conn) int64 {
	if limited, ok := c.(*limitedConn); ok {
		return limited.limiter.Rate()
	}
	return 0
}

// pay takes off the debt what the time since the last look was worth. l.mu is held.
func (l *Limiter) pay() {
	now := time.Now()
	l.debt = max(0, l.debt-now.Sub(l.at).Seconds()*float64(l.rate))
	if l.rate == 0 {
		l.debt = 0
	}
	l.at = now
}

// owed is how many bytes were sent that are not paid for: what the line would hold if it had the rate.
func (l *Limiter) owed() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pay()
	return int64(l.debt)
}

// spend counts n bytes.
func (l *Limiter) spend(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pay()
	if l.rate > 0 {
		l.debt += float64(n)
	}
}

// trySpend counts n bytes if all before them are paid for. Else it returns when to ask again, by either of the two.
func (l *Limiter) trySpend(n int) (wait time.Duration, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pay()
	if l.debt > 0 {
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		return max(time.Duration(l.debt/float64(l.rate)*float64(time.Second)), time.Microsecond), l.changed
	}
	if l.rate > 0 {
		l.debt = float64(n)
	}
	return 0, nil
}

// Take waits until n bytes may be sent; they count as sent then. It is for what goes over no Conn.
func (l *Limiter) Take(ctx context.Context, n int) error {
	for {
		wait, changed := l.trySpend(n)
		if wait == 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// limitedConn is a connection under a limit.
type limitedConn struct {
	Conn
	limiter *Limiter
	waited  atomic.Int64 // ns
}

// recordOverhead is what TLS 1.3 adds to a record of at most 16 KiB: header, content type and tag (RFC 8446 §5.2).
const recordOverhead = 22

func (c *limitedConn) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	n := netproto.HeaderSize
	for _, p := range payload {
		n += len(p)
	}
	n += (n>>14 + 1) * recordOverhead
	if !t.Bulk() {
		c.limiter.spend(n)
		return c.Conn.WriteFrame(ctx, t, payload...)
	}
	start := time.Now()
	err := c.limiter.Take(ctx, n)
	c.waited.Add(int64(time.Since(start)))
	if err != nil {
		return err
	}
	return c.Conn.WriteFrame(ctx, t, payload...)
}

func (c *limitedConn) Stats() netproto.Stats {
	s := c.Conn.Stats()
	s.WriteBlocked += time.Duration(c.waited.Load())
	if s.Queued >= 0 {
		s.Queued += c.limiter.owed()
	}
	return s
}
