package netproto

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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

const (
	// readAhead and gatherSize are what a call of the kernel moves: some records of 16 KiB that TLS would ask for, or hand over, one
	// by one.
	readAhead  = 128 << 10
	gatherSize = 256 << 10
)

// wire is a metered socket. Silence is judged here, by bytes and while waiting for them, not by frames: a large frame on a thin
// line is no silence, and neither is an application that lets the inbox fill so that nothing is read.
type wire struct {
	net.Conn
	start time.Time

	bytesRead, bytesWritten, blocked atomic.Int64 // blocked in ns
	lastRead, lastWrite              atomic.Int64 // ns since start
	rtt                              atomic.Int64 // ns; 0: not known yet

	// The reader's; without a buffer it reads no more than it is asked for.
	readBuffer, ahead []byte

	writing  sync.Mutex
	corked   bool
	gathered []byte // while corked; guarded by writing

	mu      sync.Mutex
	silence time.Duration // allowed while reading; 0: in the handshakes, which have deadlines of their own
	last    bool          // the deadline is set for good
}

// Read returns what was read ahead, or reads. One goroutine calls it at a time.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.ahead) == 0 {
		if w.readBuffer == nil || len(p) >= len(w.readBuffer) {
			return w.receive(p)
		}
		n, err := w.receive(w.readBuffer)
		w.ahead = w.readBuffer[:n]
		if n == 0 {
			return 0, err
		} // an error comes again with the next read
	}
	n := copy(p, w.ahead)
	w.ahead = w.ahead[n:]
	return n, nil
}

// receive reads from the socket.
func (w *wire) receive(p []byte) (int, error) {
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

// queued asks the kernel for what it could not hand to the peer's yet (SIOCOUTQ, tcp(7)).
func (w *wire) queued() int64 {
	queued := -1
	if c, ok := w.Conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { // a closed socket is one of which nothing is known
				if n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
					queued = n
				}
			})
		}
	}
	return int64(queued)
}

// roundTrip is the shortest one of the handshakes; 0 before.
func (w *wire) roundTrip() time.Duration { return time.Duration(w.rtt.Load()) }

// Write sends, or gathers while the wire is corked. TLS calls it for each record of 16 KiB; a call of the kernel for each would
// take more processor time than the encryption.
func (w *wire) Write(p []byte) (int, error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	if !w.corked {
		return w.send(p)
	}
	if len(w.gathered)+len(p) > gatherSize {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	w.gathered = append(w.gathered, p...)
	return len(p), nil
}

// cork has Write gather until uncork. Alerts, which TLS sends when it likes, go out at once outside of the two.
func (w *wire) cork() {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.corked = true
}

// uncork sends what was gathered.
func (w *wire) uncork() error {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.corked = false
	return w.flush()
}

// flush is called with writing held.
func (w *wire) flush() error {
	if len(w.gathered) == 0 {
		return nil
	}
	_, err := w.send(w.gathered)
	w.gathered = w.gathered[:0]
	return err
}

// send writes to the socket.
func (w *wire) send(p []byte) (int, error) {
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

// talk ends the handshakes: from now on the wire reads ahead, and a Read fails with os.ErrDeadlineExceeded when the peer is silent
// for so long. No Read is under way. Before, strangers would get the buffer.
func (w *wire) talk(silence time.Duration) {
	w.readBuffer = make([]byte, readAhead)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silence = silence
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
