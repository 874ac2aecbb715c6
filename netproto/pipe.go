package netproto

import (
	"context"
	"sync/atomic"
)

// Pipe returns the two ends of a connection within this process: no TLS, HELLO implied, the same windows and bounds. A payload
// is copied once, into the buffer that the other end reads. Both ends have the options o, and must be closed.
func Pipe(o Options) (dialer, listener *Conn, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	dialer, listener = newConn(o, o.Window, 0), newConn(o, o.Window, 0)
	a, b := newPipeEnd(dialer, listener), newPipeEnd(listener, dialer)
	a.reverse, b.reverse = b, a
	for _, end := range []*pipeEnd{a, b} {
		end.conn.peer = PeerInfo{Protocol: localVersion, Software: o.Software}
		end.conn.features, end.conn.token, end.conn.link = o.Features, o.Token, end
	}
	return dialer, listener, nil
}

// pipeEnd carries frames from conn into the peer's inbox.
type pipeEnd struct {
	conn, peer *Conn
	reverse    *pipeEnd
	turn       chan struct{} // holds a token; one writer fills a frame at a time, for the inbox has a single putter
	written    atomic.Int64
}

func newPipeEnd(conn, peer *Conn) *pipeEnd {
	p := &pipeEnd{conn: conn, peer: peer, turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

func (p *pipeEnd) begin(ctx context.Context, t Type, length int) (slot, error) {
	if err := receive(ctx, p.conn.done, p.turn); err != nil {
		return slot{}, err
	}
	err := p.peer.inbox.awaitRoom(ctx, p.conn.done, t)
	if err == nil {
		err = p.peer.receive(t, length)
	}
	if err != nil {
		p.turn <- struct{}{}
		return slot{}, err
	}
	f := newFrame(p.peer, t, length)
	return slot{payload: f.Payload, frame: f}, nil
}

func (p *pipeEnd) commit(s slot) {
	p.written.Add(int64(HeaderSize + len(s.payload)))
	p.peer.inbox.put(s.frame)
	p.turn <- struct{}{}
}

// grant cannot fail: receipts never grant more than was charged.
func (p *pipeEnd) grant(cost int) { _ = p.peer.credit.give(cost) }

func (p *pipeEnd) end(f farewell) {
	if f.frame != nil {
		p.peer.end(f.read, farewell{})
	}
}

func (p *pipeEnd) wait() error { return nil }

func (p *pipeEnd) stats() Stats {
	return Stats{BytesRead: p.reverse.written.Load(), BytesWritten: p.written.Load()}
}
