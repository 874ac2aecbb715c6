package appliance

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
)

const (
	// handshakeTimeout bounds a handshake; maxHandshakes bounds how many strangers can be in one.
	handshakeTimeout = 10 * time.Second
	maxHandshakes    = 64
)

// listen waits for the address: a network card may still be coming up.
func (r *runner) listen(ctx context.Context) (net.Listener, error) {
	address := cmp.Or(r.options.Listen, net.JoinHostPort(r.address.String(), strconv.Itoa(control.Port)))
	wait, cancel := context.WithTimeout(ctx, r.options.ListenTimeout)
	defer cancel()
	for {
		l, err := new(net.ListenConfig).Listen(wait, "tcp", address)
		if err == nil {
			r.log.Info("listening", "address", l.Addr(), "fingerprint", r.identity.Fingerprint())
			return l, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-wait.Done():
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("listen on %s: %w; check that the configured address is this machine's and not in use", address, err)
		}
	}
}

// dispatcher accepts connections, has the TLS handshake done and hands them on by their application protocol.
type dispatcher struct {
	runner  *runner
	config  *tls.Config
	control *queue
	places  chan struct{} // taken by connections in their handshake
	conns   sync.WaitGroup
}

func newDispatcher(r *runner, l net.Listener) *dispatcher {
	return &dispatcher{
		runner: r, config: r.identity.ServerTLS(r.allows, control.ALPN, netproto.ALPN),
		control: newQueue(l.Addr()), places: make(chan struct{}, maxHandshakes),
	}
}

// allows is asked before anything else is known of a connection; dispatch asks again by protocol.
func (r *runner) allows(peer netproto.Fingerprint) bool {
	return peer == r.configuration.orchestrator || r.tasks.Allows(peer)
}

// run accepts until ctx ends; then it closes the listener and waits for its goroutines.
func (d *dispatcher) run(ctx context.Context, l net.Listener) error {
	defer d.conns.Wait()
	defer d.control.end()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // such as too many open files: the next may succeed
			d.runner.log.Warn("accept", "cause", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		select {
		case d.places <- struct{}{}:
			d.conns.Go(func() { d.dispatch(ctx, conn) })
		default:
			_ = conn.Close() // a flood; the orchestrator tries again
		}
	}
}

// dispatch owns a connection until it is handed on.
func (d *dispatcher) dispatch(ctx context.Context, raw net.Conn) {
	conn := tls.Server(netproto.Meter(raw), d.config)
	err := d.handshake(ctx, conn)
	<-d.places
	if err == nil {
		err = d.handOn(ctx, conn)
	}
	if err != nil && ctx.Err() == nil {
		d.runner.log.Warn("connection refused", "from", raw.RemoteAddr(), "cause", err)
	}
}

// handshake closes the connection when it fails.
func (d *dispatcher) handshake(ctx context.Context, conn *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.NetConn().Close() // TLS has sent its alert
		return err
	}
	return nil
}

func (d *dispatcher) handOn(ctx context.Context, conn *tls.Conn) error {
	state := conn.ConnectionState()
	peer, err := netproto.PeerFingerprint(state)
	if err != nil {
		_ = conn.Close()
		return err
	}
	switch {
	case state.NegotiatedProtocol == control.ALPN && peer == d.runner.configuration.orchestrator:
		return d.control.push(opaqueConn{conn})
	case state.NegotiatedProtocol == netproto.ALPN && d.runner.tasks.Allows(peer):
		data, err := netproto.Server(ctx, conn, netproto.Options{Software: "abd " + d.runner.options.Version, Window: d.runner.tasks.Window(peer)})
		if err != nil {
			return err
		}
		return d.runner.tasks.Connect(ctx, data)
	default:
		_ = conn.Close()
		return fmt.Errorf("%s may not speak %q here", peer, state.NegotiatedProtocol)
	}
}

// opaqueConn keeps net/http from seeing that TLS is below: it closes TLS connections whose ALPN it does not know.
type opaqueConn struct{ net.Conn }

// queue is a net.Listener of connections that were accepted elsewhere.
type queue struct {
	address net.Addr
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func newQueue(address net.Addr) *queue {
	return &queue{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (q *queue) push(c net.Conn) error {
	select {
	case q.conns <- c:
		return nil
	case <-q.closed:
		return errors.Join(net.ErrClosed, c.Close())
	}
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (q *queue) Close() error {
	q.end()
	return nil
}

func (q *queue) end() { q.once.Do(func() { close(q.closed) }) }

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return q.address }
