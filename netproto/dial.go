package netproto

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// Dial connects to a listener whose key has the fingerprint peer. The context and HandshakeTimeout bound the whole way to the
// listener's HELLO, not the connection's life.
//
// Errors: ErrIdentity, ErrRefused, ErrVersion, ErrPeerSilent, ErrProtocol, ErrOptions, *RemoteError, the context's, net's.
func Dial(ctx context.Context, address string, id *Identity, peer Fingerprint, o Options) (*Conn, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := o.handshakeContext(ctx)
	defer cancel()
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("netproto: dial %s: %w", address, err)
	}
	return Client(ctx, tls.Client(Meter(socket), id.ClientTLS(peer, ALPN)), o)
}

// Client is the dialer's side of HELLO on a connection made with ClientTLS for ALPN over a metered socket. The context and
// HandshakeTimeout bound the handshakes only. Client owns conn, and closes it on error. Errors are those of Dial.
func Client(ctx context.Context, conn *tls.Conn, o Options) (*Conn, error) {
	return establish(ctx, conn, o, clientHello)
}

// Server is the listener's side: conn was made with ServerTLS for ALPN over a metered socket, its TLS handshake done or not.
// The dialer's token is then in Conn.Token. Otherwise it is as Client.
func Server(ctx context.Context, conn *tls.Conn, o Options) (*Conn, error) {
	return establish(ctx, conn, o, serverHello)
}

func (o Options) handshakeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, o.HandshakeTimeout,
		fmt.Errorf("%w: no handshake within %v; check the address, and that the peer's process lives", ErrPeerSilent, o.HandshakeTimeout))
}

// helloExchange sends and receives a HELLO, in the order of its side.
type helloExchange func(conn *tls.Conn, local hello) (remote hello, err error)

func establish(ctx context.Context, conn *tls.Conn, o Options, exchange helloExchange) (*Conn, error) {
	c, err := negotiate(ctx, conn, o, exchange)
	if err != nil {
		_ = conn.NetConn().Close() // the cause is known; TLS's own farewell could block
		return nil, fmt.Errorf("netproto: handshake with %v: %w", conn.RemoteAddr(), err)
	}
	return c, nil
}

func negotiate(ctx context.Context, conn *tls.Conn, o Options, exchange helloExchange) (*Conn, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	wire, ok := conn.NetConn().(*wire)
	if !ok {
		return nil, fmt.Errorf("%w: the socket below TLS is a %T; wrap it with Meter before TLS", ErrOptions, conn.NetConn())
	}
	ctx, cancel := o.handshakeContext(ctx)
	defer cancel()
	interrupt := context.AfterFunc(ctx, func() { wire.lastCall(time.Unix(1, 0)) })
	remote, fingerprint, err := shakeHands(ctx, conn, o, exchange)
	if !interrupt() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, explainAlert(err)
	}
	c := newConn(o, remote.window, wire.roundTrip())
	c.peer = PeerInfo{Protocol: remote.version, Software: remote.software, Fingerprint: fingerprint}
	c.features, c.token = o.Features&remote.features, remote.token
	startSocket(c, conn, wire, o)
	return c, nil
}

func shakeHands(ctx context.Context, conn *tls.Conn, o Options, exchange helloExchange) (hello, Fingerprint, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return hello{}, "", err
	}
	state := conn.ConnectionState()
	fingerprint, err := PeerFingerprint(state)
	if err != nil {
		return hello{}, "", err
	}
	if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != ALPN {
		return hello{}, "", violation("agreed on %s and application protocol %q instead of TLS 1.3 and %q",
			tls.VersionName(state.Version), state.NegotiatedProtocol, ALPN)
	}
	local := hello{version: localVersion, features: o.Features, window: o.Window, token: o.Token, software: o.Software}
	remote, err := exchange(conn, local)
	if errors.Is(err, ErrProtocol) {
		_, _ = conn.Write(appendError(nil, newRemoteError(CodeProtocol, err.Error()))) // best effort
	}
	return remote, fingerprint, err
}

func clientHello(conn *tls.Conn, local hello) (hello, error) {
	_, writeErr := conn.Write(appendHello(nil, local))
	// A listener that refuses the key breaks the write, but the alert that says so waits to be read.
	remote, err := readHello(conn)
	if err != nil {
		if writeErr != nil {
			err = fmt.Errorf("%w; before that: %w", err, writeErr)
		}
		return hello{}, err
	}
	remote.token = local.token
	return remote, nil
}

// serverHello answers even a foreign version with its own HELLO, so that both ends can name both versions.
func serverHello(conn *tls.Conn, local hello) (hello, error) {
	remote, err := readHello(conn)
	if err != nil && !errors.Is(err, ErrVersion) {
		return hello{}, err
	}
	local.token = nil
	if _, writeErr := conn.Write(appendHello(nil, local)); writeErr != nil {
		return hello{}, errors.Join(err, writeErr)
	}
	return remote, err
}

func readHello(conn *tls.Conn) (hello, error) {
	var header [HeaderSize]byte
	if err := readFull(conn, header[:]); err != nil {
		return hello{}, err
	}
	t, length, err := parseHeader(header)
	if err != nil {
		return hello{}, err
	}
	if t != typeHello && t != typeError {
		return hello{}, violation("frame %v before HELLO", t)
	}
	payload := make([]byte, length)
	if err := readFull(conn, payload); err != nil {
		return hello{}, err
	}
	if t == typeError {
		remote, err := parseError(payload)
		if err != nil {
			return hello{}, err
		}
		return hello{}, remote
	}
	return parseHello(payload)
}
