package netproto_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/netproto"
)

// These tests run in a bubble of testing/synctest, whose clock jumps to the next timer as soon as all goroutines wait, so that
// minutes of silence pass at once. The line is a net.Pipe, for a bubble cannot see into the kernel.

// shortLine returns the two ends of a line before TLS, the dialer's first.
func shortLine(t *testing.T) (d, l *tls.Conn) {
	t.Helper()
	left, right := net.Pipe()
	return lineOf(t, left, right)
}

func lineOf(t *testing.T, left, right net.Conn) (d, l *tls.Conn) {
	t.Helper()
	a, b := newIdentity(t), newIdentity(t)
	d = tls.Client(netproto.Meter(left), a.ClientTLS(b.Fingerprint(), netproto.ALPN))
	return d, tls.Server(netproto.Meter(right), b.ServerTLS(only(a.Fingerprint()), netproto.ALPN))
}

func connectLine(t *testing.T, dialer, listener netproto.Options) (d, l *netproto.Conn) {
	t.Helper()
	dialed, listened := shortLine(t)
	return connectOver(t, dialed, listened, dialer, listener)
}

func connectOver(t *testing.T, dialed, listened *tls.Conn, dialer, listener netproto.Options) (d, l *netproto.Conn) {
	t.Helper()
	results := make(chan result, 1)
	go func() {
		c, err := netproto.Server(t.Context(), listened, listener)
		results <- result{c, err}
	}()
	d, err := netproto.Client(t.Context(), dialed, dialer)
	r := <-results
	if err != nil || r.err != nil {
		t.Fatal(err, r.err)
	}
	return d, r.conn
}

func TestIdleLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := connectLine(t, netproto.Options{}, netproto.Options{})
		before := a.Stats()
		time.Sleep(10 * time.Minute)
		// 120 heartbeats, each at most PING and PONG in both directions, 30 bytes a frame with TLS.
		sent := a.Stats().BytesWritten - before.BytesWritten
		if sent < 60*30 || sent > 120*2*30 {
			t.Errorf("an end of an idle line sent %d bytes in 10 minutes", sent)
		}
		mustWrite(t, a, small, []byte("alive"))
		if f := mustRead(t, b); string(f.Payload) != "alive" {
			t.Errorf("got %q", f.Payload)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		_ = b.Close()
	})
}

// TestTimesNeedNotAgree: an end that is quick to give up hears enough from one whose heart beats slowly.
func TestTimesNeedNotAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quick, slow := connectLine(t, netproto.Options{Heartbeat: time.Second, Timeout: 2 * time.Second},
			netproto.Options{Heartbeat: time.Minute, Timeout: 2 * time.Minute})
		for range 100 { // the slow end has nothing to say while the quick one writes
			mustWrite(t, quick, small)
			mustRead(t, slow).Release()
			time.Sleep(500 * time.Millisecond)
		}
		mustWrite(t, slow, small)
		mustRead(t, quick).Release()
		_ = quick.Close()
		_ = slow.Close()
	})
}

// greetedLine is a connection whose other end the test plays after HELLO.
func greetedLine(t *testing.T) (*tls.Conn, *netproto.Conn) {
	t.Helper()
	dialed, listened := shortLine(t)
	return dialed, greet(t, dialed, listened)
}

func greet(t *testing.T, dialed, listened *tls.Conn) *netproto.Conn {
	t.Helper()
	accepted := make(chan result, 1)
	go func() {
		c, err := netproto.Server(t.Context(), listened, netproto.Options{})
		accepted <- result{c, err}
	}()
	write(t, dialed, netproto.Golden(t)["hello-dialer"])
	readRaw(t, dialed)
	r := <-accepted
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.conn
}

func TestSmallFramesCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialed, conn := greetedLine(t)
		before := conn.Stats().BytesWritten
		const frames = 1000
		mustWrite(t, conn, small, []byte("12345678"))
		synctest.Wait() // it is on the line, which stands still until the test reads
		for range frames {
			mustWrite(t, conn, small, []byte("12345678"))
		}
		for range frames + 1 {
			readRaw(t, dialed)
		}
		synctest.Wait()
		// 16 bytes a frame, and 22 a TLS record.
		if sent := conn.Stats().BytesWritten - before; sent > 16*(frames+1)+22*3 {
			t.Errorf("%d frames took %d bytes", frames+1, sent)
		}
		_ = dialed.NetConn().Close()
		_ = conn.Close()
	})
}

func TestSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialed, conn := greetedLine(t)
		swallowed := make(chan struct{})
		go func() { // the peer's kernel takes what is sent, its process is stopped
			defer close(swallowed)
			b := make([]byte, 1<<10)
			for {
				if _, err := dialed.NetConn().Read(b); err != nil {
					return
				}
			}
		}()
		start := time.Now()
		_, err := conn.ReadFrame(t.Context())
		wantError(t, "read", err, netproto.ErrPeerSilent)
		if took := time.Since(start); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("noticed after %v", took)
		}
		wantError(t, "write", conn.WriteFrame(t.Context(), small), netproto.ErrPeerSilent)
		_ = conn.Close()
		_ = dialed.NetConn().Close()
		<-swallowed
	})
}

// TestBusyApplication: an application that reads nothing for an hour loses neither frames nor the connection, though its
// inbox is full and the peer's PINGs lie behind what it has not read.
func TestBusyApplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := connectLine(t, netproto.Options{}, netproto.Options{})
		const frames = 2 * netproto.QueueLimit / (64 << 10)
		written := make(chan error, 1)
		go func() {
			var err error
			for range frames {
				if err == nil {
					err = a.WriteFrame(context.Background(), small, make([]byte, 64<<10))
				}
			}
			written <- err
		}()
		time.Sleep(time.Hour)
		for range frames {
			mustRead(t, b).Release()
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
		_ = a.Close()
		_ = b.Close()
	})
}
