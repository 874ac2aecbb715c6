package netproto

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// batchLimit is how much is gathered before writers wait: enough to fill TLS records and to keep a line busy while the next
// batch gathers, little enough that two batches (each with one frame more) stay below 3 MiB a connection.
const batchLimit = 256 << 10

// On a long line, the first frame of a batch waits a little for others to share its TLS record, which costs 22 bytes: lingerShare of the round trip, if that
// is lingerFrom or more, and no longer when they fill the record.
const (
	lingerShare = 32
	lingerFrom  = 10 * time.Millisecond
	lingerMost  = 5 * time.Millisecond
	recordSize  = 16 << 10
)

// lingers is how long frames wait on a line of this round trip.
func lingers(rtt time.Duration) time.Duration {
	if rtt < lingerFrom {
		return 0
	}
	return min(rtt/lingerShare, lingerMost)
}

// batch is frames, encoded one after the other.
type batch struct{ bytes []byte }

// socket carries frames over TLS. There are two batches: one lies in fill (or, when it has reached batchLimit, in full) while
// the write loop writes the other. So small frames coalesce while the line is busy, leave at once (or soon: see gather) when it is not, and a caller
// that gives up never leaves half a frame on the line.
type socket struct {
	conn *Conn
	tls  *tls.Conn
	wire *wire

	fill     chan *batch   // capacity 1: the batch that takes more frames; whoever took it is writing to it
	full     chan *batch   // capacity 1
	wake     chan struct{} // capacity 1: there is something to send
	hurry    chan struct{} // capacity 1: it need not wait for more
	pong     atomic.Bool   // a PING waits for its PONG
	granted  atomic.Int64  // bytes to grant in the next WINDOW
	farewell chan farewell // capacity 1

	heartbeat, timeout, linger time.Duration

	// The read loop's; here they need not be allocated for every frame.
	header  [HeaderSize]byte
	control [max(maxHello, 2+MaxErrorMessage)]byte

	loops      sync.WaitGroup
	writeError error // why the write loop gave up; read after loops
}

func startSocket(conn *Conn, t *tls.Conn, w *wire, o Options) {
	s := &socket{
		conn: conn, tls: t, wire: w,
		fill: make(chan *batch, 1), full: make(chan *batch, 1),
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), farewell: make(chan farewell, 1),
		heartbeat: o.Heartbeat, timeout: o.Timeout, linger: lingers(w.roundTrip()),
	}
	s.fill <- new(batch)
	conn.link = s
	w.talk(o.Timeout)
	s.loops.Go(s.readLoop)
	s.loops.Go(func() { s.writeError = s.writeLoop() })
}

func (s *socket) begin(ctx context.Context, t Type, length int) (slot, error) {
	select {
	case b := <-s.fill:
		b.bytes = slices.Grow(b.bytes, HeaderSize+length)
		b.bytes = appendHeader(b.bytes, t, length)
		start := len(b.bytes)
		b.bytes = b.bytes[:start+length]
		return slot{payload: b.bytes[start:], batch: b}, nil
	case <-ctx.Done():
		return slot{}, context.Cause(ctx)
	case <-s.conn.done:
		return slot{}, errEnded
	}
}

func (s *socket) commit(c slot) {
	if len(c.batch.bytes) >= recordSize {
		signal(s.hurry)
	}
	if len(c.batch.bytes) < batchLimit {
		s.fill <- c.batch
	} else {
		s.full <- c.batch
	}
	signal(s.wake)
}

func (s *socket) grant(cost int) {
	s.granted.Add(int64(cost))
	signal(s.hurry) // the peer may wait for it
	signal(s.wake)
}

func (s *socket) end(f farewell) {
	if f.frame == nil {
		_ = s.wire.Close() // wakes both loops; there is nothing left to lose
	} else {
		s.wire.lastCall(time.Now().Add(closeGrace))
	}
	s.farewell <- f
}

func (s *socket) wait() error {
	s.loops.Wait()
	_ = s.wire.Close() // closed already unless a farewell was said
	return s.writeError
}

func (s *socket) stats() Stats {
	return Stats{
		BytesRead:    s.wire.bytesRead.Load(),
		BytesWritten: s.wire.bytesWritten.Load(),
		WriteBlocked: time.Duration(s.wire.blocked.Load()),
		Queued:       s.wire.queued(),
		RTT:          s.wire.roundTrip(),
	}
}

// writeLoop is the only writer of the socket.
func (s *socket) writeLoop() error {
	spare := new(batch)
	heartbeat := time.NewTimer(s.heartbeat)
	defer heartbeat.Stop()
	for {
		ping := false
		select {
		case f := <-s.farewell:
			return s.sayFarewell(f)
		case <-s.wake:
			s.gather()
		case <-heartbeat.C:
			idle := s.wire.idle()
			ping = idle >= s.heartbeat
			if !ping {
				heartbeat.Reset(s.heartbeat - idle)
				continue
			}
			heartbeat.Reset(s.heartbeat)
		}
		select {
		case f := <-s.farewell: // goes before a wake that came with it
			return s.sayFarewell(f)
		default:
		}
		b := s.takeBatch()
		s.fill <- spare
		b.bytes = s.appendControl(b.bytes, ping)
		if len(b.bytes) > 0 {
			if err := s.write(b.bytes); err != nil {
				return s.giveUp(err)
			}
		}
		b.bytes = b.bytes[:0]
		spare = b
	}
}

// gather waits for frames that share the record of those that are here.
func (s *socket) gather() {
	if s.linger == 0 {
		return
	}
	select {
	case <-s.hurry:
	case <-time.After(s.linger):
	case <-s.conn.done:
	}
}

// write encrypts and sends.
func (s *socket) write(p []byte) error {
	s.wire.cork()
	_, err := s.tls.Write(p)
	if sending := s.wire.uncork(); err == nil {
		err = sending
	}
	return err
}

// takeBatch waits at most for a writer to copy its frame.
func (s *socket) takeBatch() *batch {
	select {
	case b := <-s.full:
		return b
	case b := <-s.fill:
		return b
	}
}

func (s *socket) appendControl(b []byte, ping bool) []byte {
	if grant := s.granted.Swap(0); grant > 0 {
		b = appendWindow(b, int(grant))
	}
	if s.pong.Swap(false) {
		b = appendHeader(b, typePong, 0)
	}
	if ping {
		b = appendHeader(b, typePing, 0)
	}
	return b
}

func (s *socket) sayFarewell(f farewell) error {
	if f.frame == nil {
		return nil
	}
	b := s.takeBatch() // for good: writers that come later find the connection ended
	if f.drop {
		b.bytes = b.bytes[:0]
	}
	if err := s.write(append(b.bytes, f.frame...)); err != nil {
		return fmt.Errorf("pending frames and the farewell were not sent: %w", err)
	}
	s.wire.closeWrite()
	return nil
}

// giveUp ends the connection after a failed write, but first gives the read loop time to find the cause: a peer that reports an
// error and closes breaks our writes before we have read its report.
func (s *socket) giveUp(err error) error {
	err = fmt.Errorf("write to the peer: %w", explainAlert(err))
	select {
	case <-s.conn.done:
	case <-time.After(closeGrace):
		s.conn.end(err, farewell{})
	}
	return err
}

// readLoop is the only reader of the socket. Once the connection has ended it swallows what still comes until the peer closes,
// since closing a socket with unread data would make the kernel reset the line and drop our farewell.
func (s *socket) readLoop() {
	farewell, reason := s.readFrames()
	s.conn.end(reason, farewell)
	_, _ = io.Copy(io.Discard, s.wire) // ends by the peer, by Close or by the last call
}

// readFrames returns what to tell the peer, and why there are no more.
func (s *socket) readFrames() (farewell, error) {
	for {
		err := s.readFrame()
		if err == nil {
			continue
		}
		var remote *RemoteError
		switch {
		case errors.Is(err, errEnded), errors.Is(err, io.EOF), errors.As(err, &remote):
			return farewell{}, err
		case errors.Is(err, ErrProtocol):
			return farewellError(newRemoteError(CodeProtocol, err.Error())), err
		case errors.Is(err, os.ErrDeadlineExceeded):
			return farewellError(newRemoteError(CodeSilent, fmt.Sprintf("nothing was heard for %v", s.timeout))),
				fmt.Errorf("%w for %v; check the line, and that the peer's process lives", ErrPeerSilent, s.timeout)
		default:
			return farewell{}, fmt.Errorf("read from the peer: %w", explainAlert(err))
		}
	}
}

// readFrame reads one frame and deals with it. It returns io.EOF after a CLOSE, and errEnded when this end is closing.
func (s *socket) readFrame() error {
	if err := readFull(s.tls, s.header[:]); err != nil {
		return err
	}
	t, length, err := parseHeader(s.header)
	if err != nil {
		return err
	}
	if t >= FirstApplication {
		return s.readApplicationFrame(t, length)
	}
	payload := s.control[:length]
	if err := readFull(s.tls, payload); err != nil {
		return err
	}
	switch t {
	case typePing:
		s.pong.Store(true)
		signal(s.wake)
	case typePong:
	case typeWindow:
		grant, err := parseWindow(payload)
		if err != nil {
			return err
		}
		return s.conn.credit.give(grant)
	case typeError:
		remote, err := parseError(payload)
		if err != nil {
			return err
		}
		return remote
	case typeClose:
		return io.EOF
	default:
		return violation("frame %v after the handshake", t)
	}
	return nil
}

func (s *socket) readApplicationFrame(t Type, length int) error {
	if err := s.conn.inbox.awaitRoom(context.Background(), s.conn.done, t); err != nil {
		return err
	}
	if err := s.conn.receive(t, length); err != nil {
		return err
	}
	f := newFrame(s.conn, t, length)
	if err := readFull(s.tls, f.Payload); err != nil {
		f.Release()
		return err
	}
	s.conn.inbox.put(f)
	return nil
}

// readFull fills p. The end of the stream without a CLOSE means a cut line or a killed peer, for whom its kernel says goodbye.
func readFull(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	if errors.Is(err, io.EOF) && len(p) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}
