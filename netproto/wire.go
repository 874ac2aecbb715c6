package netproto

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Meter wraps a socket so that its bytes are counted below TLS and its silence is noticed. [Dial] does so itself; a listener
// wraps each accepted connection, or all by [MeterListener], before TLS.
func Meter(c net.Conn) net.Conn { return newWire(c) }

func newWire(c net.Conn) *wire { return &wire{Conn: c, start: time.Now()} }

// MeterListener meters every connection that l accepts.
func MeterListener(l net.Listener) net.Listener { return meterListener{l} }

type meterListener struct{ net.Listener }

func (l meterListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Meter(c), nil
}

// wire is a metered socket. Silence is judged here, by bytes and while waiting for them, not by frames: a large frame on a thin
// line is no silence, and neither is an application that lets the inbox fill so that nothing is read.
type wire struct {
	net.Conn
	start time.Time

	bytesRead, bytesWritten, blocked atomic.Int64 // blocked in ns
	lastRead, lastWrite              atomic.Int64 // ns since start
	rtt                              atomic.Int64 // ns; 0: not known yet

	mu      sync.Mutex
	silence time.Duration // allowed while reading; 0: for ever
	last    bool          // the deadline is set for good
}

func (w *wire) Read(p []byte) (int, error) {
	if err := w.extendDeadline(); err != nil {
		return 0, err
	}
	n, err := w.Conn.Read(p)
	now := int64(time.Since(w.start))
	w.bytesRead.Add(int64(n))
	if n > 0 {
		w.answered(now)
	}
	w.lastRead.Store(now)
	return n, err
}

// answered takes the time from a write to the first read after it for a round trip, the peer's part of it included. Only
// handshakes, in which the ends speak in turn, are like that.
func (w *wire) answered(now int64) {
	asked := w.lastWrite.Load()
	if asked <= w.lastRead.Load() || w.talking() {
		return
	}
	if rtt := w.rtt.Load(); rtt == 0 || now-asked < rtt {
		w.rtt.Store(now - asked)
	}
}

// roundTrip is the shortest one of the handshakes; 0 before.
func (w *wire) roundTrip() time.Duration { return time.Duration(w.rtt.Load()) }

func (w *wire) Write(p []byte) (int, error) {
	begin := time.Since(w.start)
	n, err := w.Conn.Write(p)
	now := time.Since(w.start)
	w.bytesWritten.Add(int64(n))
	w.blocked.Add(int64(now - begin))
	w.lastWrite.Store(int64(now))
	return n, err
}

func (w *wire) extendDeadline() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.silence == 0 || w.last {
		return nil
	}
	return w.SetReadDeadline(time.Now().Add(w.silence))
}

// talking tells that the handshakes are over.
func (w *wire) talking() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.silence != 0
}

// setSilence ends the handshakes and makes a Read fail with os.ErrDeadlineExceeded when the peer is silent for so long.
func (w *wire) setSilence(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silence = d
}

// lastCall sets the deadline for all that is still read and written.
func (w *wire) lastCall(deadline time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = true
	_ = w.SetDeadline(deadline) // fails only on a closed socket, which needs no deadline
}

// closeWrite tells the peer's kernel that nothing follows. Where it fails the line is gone already, and where it does not exist
// (a net.Pipe) the peer closes when it reads the last frame.
func (w *wire) closeWrite() {
	if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// idle tells for how long one direction at least has been quiet.
func (w *wire) idle() time.Duration {
	return time.Since(w.start) - time.Duration(min(w.lastRead.Load(), w.lastWrite.Load()))
}
