package netproto_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/netproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newIdentity(t testing.TB) *netproto.Identity {
	t.Helper()
	id, err := netproto.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// only allows one peer.
func only(want netproto.Fingerprint) func(netproto.Fingerprint) bool {
	return func(got netproto.Fingerprint) bool { return got == want }
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return netproto.MeterListener(l)
}

// result of a handshake.
type result struct {
	conn *netproto.Conn
	err  error
}

// serve accepts one connection, lets config and Server shake hands, and closes the connection with the test.
func serve(t testing.TB, l net.Listener, config *tls.Config, o netproto.Options) <-chan result {
	results := make(chan result, 1)
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	ctx := t.Context()
	go func() {
		defer close(done)
		socket, err := l.Accept()
		if err != nil {
			results <- result{err: err}
			return
		}
		conn, err := netproto.Server(ctx, tls.Server(socket, config), o)
		results <- result{conn, err}
	}()
	return results
}

func closeLater(t testing.TB, conns ...*netproto.Conn) {
	t.Cleanup(func() {
		for _, c := range conns {
			_ = c.Close()
		}
	})
}

// loopback connects two ends over TLS.
func loopback(t testing.TB, dialer, listener netproto.Options) (d, l *netproto.Conn) {
	t.Helper()
	a, b := newIdentity(t), newIdentity(t)
	tcp := listen(t)
	accepted := serve(t, tcp, b.ServerTLS(only(a.Fingerprint()), netproto.ALPN), listener)
	d, err := netproto.Dial(t.Context(), tcp.Addr().String(), a, b.Fingerprint(), dialer)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, d)
	r := <-accepted
	if r.err != nil {
		t.Fatal(r.err)
	}
	closeLater(t, r.conn)
	return d, r.conn
}

// rawDialer is a dialer that has made the TLS handshake and nothing else; a test writes what it likes.
func rawDialer(t testing.TB, o netproto.Options) (*tls.Conn, <-chan result) {
	t.Helper()
	a, b := newIdentity(t), newIdentity(t)
	tcp := listen(t)
	accepted := serve(t, tcp, b.ServerTLS(only(a.Fingerprint()), netproto.ALPN), o)
	raw, err := tls.Dial("tcp", tcp.Addr().String(), a.ClientTLS(b.Fingerprint(), netproto.ALPN))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.NetConn().Close() })
	return raw, accepted
}

// greeted is a rawDialer after HELLO.
func greeted(t testing.TB, o netproto.Options) (*tls.Conn, *netproto.Conn) {
	t.Helper()
	raw, accepted := rawDialer(t, o)
	write(t, raw, netproto.Golden(t)["hello-dialer"])
	if typ, _ := readRaw(t, raw); typ != 1 {
		t.Fatalf("listener answers HELLO by type %d", typ)
	}
	r := <-accepted
	if r.err != nil {
		t.Fatal(r.err)
	}
	closeLater(t, r.conn)
	return raw, r.conn
}

func write(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// within runs f and fails if it takes longer than a second, and one more for a busy machine.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("%s took %v", what, took)
	}
}

func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func mustRead(t testing.TB, c *netproto.Conn) netproto.Frame {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	f, err := c.ReadFrame(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustWrite(t testing.TB, c *netproto.Conn, typ netproto.Type, payload ...[]byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.WriteFrame(ctx, typ, payload...); err != nil {
		t.Fatal(err)
	}
}
