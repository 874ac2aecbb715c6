package netproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// closeGrace bounds how long an ending connection may still send what is pending and wait for the peer to take it.
const closeGrace = time.Second

// PeerInfo is what is known of the peer.
type PeerInfo struct {
	Protocol    Version
	Software    string      // as it names itself
	Fingerprint Fingerprint // of the key it has proved to hold; empty over Pipe
}

// Stats are a connection's counters since its start, handshakes included.
type Stats struct {
	BytesRead     int64         // from the socket, below TLS; over Pipe headers and payloads
	BytesWritten  int64         // to the socket, below TLS; over Pipe headers and payloads
	WriteBlocked  time.Duration // in writes to the socket: the line is the bottleneck
	Queued        int64         // written to the socket and not yet taken by the peer's kernel: what the line holds; -1 where that is unknown
	RTT           time.Duration // the shortest round trip of the handshakes; 0 over Pipe
	WindowBlocked time.Duration // one bulk writer or more waited for the window: the peer's application is the bottleneck
}

// Conn is a connection after HELLO. WriteFrame is safe for concurrent use, and so are all methods except ReadFrame, which one
// goroutine calls at a time. A Conn must be closed, whatever ended it; its goroutines are gone when Close returns.
type Conn struct {
	peer     PeerInfo
	features Features
	token    []byte

	inbox    *inbox
	credit   *credit
	receipts receipts
	link     link

	done chan struct{} // closed when the connection has ended for whatever reason

	mu     sync.Mutex
	reason error // why it ended; what ReadFrame returns after the last frame
}

// link carries frames to the peer: over a socket, or straight into the other end's inbox.
type link interface {
	// begin waits until a frame may follow, and returns room for its payload, to be filled before commit.
	// It returns the context's cause, or errEnded when the connection has ended.
	begin(ctx context.Context, t Type, length int) (slot, error)
	commit(slot)
	// grant widens the peer's window. It never blocks.
	grant(cost int)
	// end says farewell and gives up the line. It is called once and does not wait.
	end(farewell)
	// wait returns when all goroutines are gone, with the error that kept pending frames or the farewell from being sent.
	wait() error
	stats() Stats
}

// slot is a frame between begin and commit.
type slot struct {
	payload []byte
	frame   Frame
	batch   *batch
}

// farewell is the last word to the peer. The zero value is none: the peer knows, or the line is dead.
type farewell struct {
	frame []byte // CLOSE or ERROR, encoded
	read  error  // what the peer's ReadFrame will return for it
	drop  bool   // pending frames have lost their worth
}

func farewellError(e *RemoteError) farewell {
	return farewell{frame: appendError(nil, e), read: e, drop: true}
}

func newConn(o Options, peerWindow int, rtt time.Duration) *Conn {
	return &Conn{
		inbox:    newInbox(),
		credit:   newCredit(peerWindow),
		receipts: newReceipts(o.Window, rtt),
		done:     make(chan struct{}),
	}
}

// Features returns those that both ends offer.
func (c *Conn) Features() Features { return c.features }

// Token returns what the dialer sent; it is not to be changed.
func (c *Conn) Token() []byte { return c.token }

// Peer returns what is known of the peer.
func (c *Conn) Peer() PeerInfo { return c.peer }

// Stats returns the counters.
func (c *Conn) Stats() Stats {
	s := c.link.stats()
	s.WindowBlocked = c.credit.timeBlocked()
	return s
}

// WriteFrame sends one frame whose payload is the given slices one after the other, at most MaxPayload bytes. They are copied
// before it returns. Frames of one goroutine arrive in order. It waits for the window when t is bulk, and while earlier frames
// fill the line; when it returns the frame is on its way, but only an answer of the application tells that it arrived.
//
// Errors: ErrFrame, the context's cause, and once the connection has ended its reason — net.ErrClosed after Close, *RemoteError,
// ErrPeerSilent, io.ErrClosedPipe when the peer has closed.
func (c *Conn) WriteFrame(ctx context.Context, t Type, payload ...[]byte) error {
	length := 0
	for _, p := range payload {
		length += len(p)
	}
	if t < FirstApplication {
		return fmt.Errorf("%w: type %v is reserved; the application's start at %v", ErrFrame, t, FirstApplication)
	}
	if length > MaxPayload {
		return fmt.Errorf("%w: payload of %d bytes, more than %d; split it", ErrFrame, length, MaxPayload)
	}
	if ctx.Err() != nil {
		return c.writeError(t, context.Cause(ctx))
	}
	select {
	case <-c.done:
		return c.writeError(t, errEnded)
	default:
	}
	if t.Bulk() {
		if err := c.credit.take(ctx, c.done, frameCost(length)); err != nil {
			return c.writeError(t, err)
		}
	}
	s, err := c.link.begin(ctx, t, length)
	if err != nil {
		if t.Bulk() {
			err = errors.Join(err, c.credit.give(frameCost(length)))
		}
		return c.writeError(t, err)
	}
	rest := s.payload
	for _, p := range payload {
		rest = rest[copy(rest, p):]
	}
	c.link.commit(s)
	return nil
}

func (c *Conn) writeError(t Type, err error) error {
	if errors.Is(err, errEnded) {
		c.mu.Lock()
		err = c.reason
		c.mu.Unlock()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the peer has closed the connection: %w", io.ErrClosedPipe)
		}
	}
	return fmt.Errorf("netproto: write frame %v: %w", t, err)
}

// ReadFrame returns the next frame of the application. The caller releases it.
//
// Errors: the context's cause; and after the last frame the reason of the end — io.EOF itself when the peer closed, *RemoteError when
// it reported an error, ErrPeerSilent, ErrProtocol, io.ErrUnexpectedEOF when the line was cut, net.ErrClosed after Close.
func (c *Conn) ReadFrame(ctx context.Context) (Frame, error) {
	err := context.Cause(ctx)
	var f Frame
	if err == nil {
		f, err = c.inbox.get(ctx)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("netproto: read frame: %w", err)
	}
	return f, err
}

// Close sends what is pending, tells the peer, and waits for the connection's goroutines, a second at most. Calls that block
// return at once with net.ErrClosed. The error says that frames written before may not have been sent; it is nil if the
// connection had ended before.
func (c *Conn) Close() error {
	return c.closeWith(farewell{frame: appendHeader(nil, typeClose, 0), read: io.EOF})
}

// CloseWithError closes as Close does, but drops what is pending and gives the peer code and message (cut to MaxErrorMessage
// bytes), which its ReadFrame returns as *RemoteError. The error says that the peer could not be told.
func (c *Conn) CloseWithError(code ErrorCode, message string) error {
	return c.closeWith(farewellError(newRemoteError(code, message)))
}

func (c *Conn) closeWith(f farewell) error {
	first := c.end(net.ErrClosed, f)
	c.inbox.discard()
	err := c.link.wait()
	if !first || err == nil {
		return nil
	}
	return fmt.Errorf("netproto: close: %w", err)
}

// end ends the connection for a reason, unless it has ended already, and tells which.
func (c *Conn) end(reason error, f farewell) (first bool) {
	c.mu.Lock()
	if c.reason != nil {
		c.mu.Unlock()
		return false
	}
	c.reason = reason
	close(c.done)
	c.mu.Unlock()
	c.inbox.close(reason)
	c.link.end(f)
	return true
}

// receive takes note of a bulk frame that arrives.
func (c *Conn) receive(t Type, length int) error {
	if !t.Bulk() {
		return nil
	}
	return c.receipts.charge(frameCost(length))
}

// release grants what the application has released.
func (c *Conn) release(cost int) {
	if grant := c.receipts.release(cost); grant > 0 {
		c.link.grant(grant)
	}
}
