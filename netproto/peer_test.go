package netproto_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/netproto"
)

// Here the test plays one end by hand, byte for byte.

func readRaw(t testing.TB, c net.Conn) (typ byte, payload []byte) {
	t.Helper()
	header := make([]byte, netproto.HeaderSize)
	if _, err := io.ReadFull(c, header); err != nil {
		t.Fatal(err)
	}
	payload = make([]byte, binary.BigEndian.Uint32(header[4:]))
	if _, err := io.ReadFull(c, payload); err != nil {
		t.Fatal(err)
	}
	return header[0], payload
}

func frame(typ netproto.Type, payload ...byte) []byte {
	header := binary.BigEndian.AppendUint32([]byte{byte(typ), 0, 0, 0}, uint32(len(payload)))
	return append(header, payload...)
}

func TestForbiddenFrames(t *testing.T) {
	golden := netproto.Golden(t)
	window := bytes.Repeat(frame(bulk, make([]byte, 1<<20)...), netproto.MinWindow>>20)
	for name, sent := range map[string][]byte{
		"oversized":            {0x80, 0, 0, 0, 0x00, 0x10, 0x10, 0x01},
		"huge":                 {0x10, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
		"type 0":               frame(0),
		"unknown control type": frame(0x0f),
		"flags":                {0x10, 1, 0, 0, 0, 0, 0, 0},
		"reserved, high byte":  {0x10, 0, 1, 0, 0, 0, 0, 0},
		"reserved, low byte":   {0x10, 0, 0, 1, 0, 0, 0, 0},
		"second HELLO":         golden["hello-dialer"],
		"PING with payload":    frame(2, 0),
		"CLOSE with payload":   frame(6, 0),
		"long ERROR":           frame(4, make([]byte, 1027)...),
		"ERROR not UTF-8":      frame(4, 0, 1, 0xff),
		"short ERROR":          frame(4, 0),
		"short WINDOW":         frame(5, 0, 0, 1),
		"empty WINDOW":         frame(5, 0, 0, 0, 0),
		"large WINDOW":         frame(5, 0x40, 0, 0, 1),
		"WINDOW too wide":      frame(5, 0, 0x80, 0, 1), // HELLO offered 8 MiB
		"overrun window":       slices.Concat(window, frame(bulk, make([]byte, 64<<10)...)),
	} {
		t.Run(name, func(t *testing.T) {
			raw, conn := greeted(t, options)
			write(t, raw, frame(small, 'o', 'k'))
			write(t, raw, sent)
			if f := mustRead(t, conn); string(f.Payload) != "ok" {
				t.Errorf("frame before it: %q", f.Payload)
			}
			var err error
			for err == nil {
				_, err = conn.ReadFrame(t.Context())
			}
			wantError(t, "read", err, netproto.ErrProtocol)
			wantError(t, "write", conn.WriteFrame(t.Context(), small), netproto.ErrProtocol)
			if typ, payload := readRaw(t, raw); typ != 4 || binary.BigEndian.Uint16(payload) != uint16(netproto.CodeProtocol) {
				t.Errorf("the peer is told type %d, % x", typ, payload)
			}
			_ = raw.NetConn().Close()
		})
	}
}

func TestCutLine(t *testing.T) {
	for name, sent := range map[string][]byte{
		"between frames": nil,
		"in a header":    {0x10, 0, 0},
		"in a payload":   {0x80, 0, 0, 0, 0, 0, 0, 9, 1},
		"in a control":   {0x05, 0, 0, 0, 0, 0, 0, 4, 1},
	} {
		for _, farewell := range []string{"with", "without"} { // TLS's own farewell says nothing of ours
			t.Run(name+" "+farewell+" close_notify", func(t *testing.T) {
				raw, conn := greeted(t, options)
				write(t, raw, frame(small))
				write(t, raw, sent)
				if farewell == "with" {
					if err := raw.CloseWrite(); err != nil {
						t.Fatal(err)
					}
				}
				if err := raw.NetConn().Close(); err != nil {
					t.Fatal(err)
				}
				mustRead(t, conn).Release()
				_, err := conn.ReadFrame(t.Context())
				wantError(t, "read", err, io.ErrUnexpectedEOF)
			})
		}
	}
}

func TestPingIsAnswered(t *testing.T) {
	golden := netproto.Golden(t)
	raw, conn := greeted(t, options)
	write(t, raw, golden["ping"])
	if typ, payload := readRaw(t, raw); !bytes.Equal(frame(netproto.Type(typ), payload...), golden["pong"]) {
		t.Errorf("PING is answered by type %d", typ)
	}
	write(t, raw, golden["close"])
	if _, err := conn.ReadFrame(t.Context()); err != io.EOF {
		t.Errorf("CLOSE reads as %v", err)
	}
}

func TestForeignHello(t *testing.T) {
	good := netproto.Golden(t)["hello-dialer"]
	patch := func(at int, value ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[netproto.HeaderSize+at:], value)
		return b
	}
	for name, test := range map[string]struct {
		sent []byte
		want error
	}{
		"another major version": {patch(8, 0, netproto.VersionMajor+1), netproto.ErrVersion},
		"not ours":              {patch(0, 'H'), netproto.ErrProtocol},
		"tiny window":           {patch(20, 0, 0, 0, 1), netproto.ErrProtocol},
		"long token":            {patch(24, 65), netproto.ErrProtocol},
		"not HELLO":             {frame(small), netproto.ErrProtocol},
		"empty HELLO":           {frame(1), netproto.ErrProtocol},
		"HTTP":                  {[]byte("GET / HTTP/1.1\r\n"), netproto.ErrProtocol},
		"truncated":             {good[:20], io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			raw, accepted := rawDialer(t, options)
			write(t, raw, test.sent)
			if test.want == io.ErrUnexpectedEOF {
				_ = raw.Close()
			}
			wantError(t, "listener", (<-accepted).err, test.want)
		})
	}
}

func TestVersionMismatchIsNamedOnBothEnds(t *testing.T) {
	golden := netproto.Golden(t)
	raw, accepted := rawDialer(t, options)
	future := bytes.Clone(golden["hello-dialer"])
	future[netproto.HeaderSize+9] = netproto.VersionMajor + 1
	write(t, raw, future)
	if typ, payload := readRaw(t, raw); typ != 1 || payload[9] != netproto.VersionMajor {
		t.Errorf("the listener answers a foreign version by type %d, % x", typ, payload)
	}
	check := func(what string, err error) {
		var mismatch *netproto.VersionError
		if !errors.As(err, &mismatch) || mismatch.Remote.Major != netproto.VersionMajor+1 || mismatch.Local.Major != netproto.VersionMajor {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("listener", (<-accepted).err)

	a, b := newIdentity(t), newIdentity(t)
	l := playListener(t, b.ServerTLS(only(a.Fingerprint()), netproto.ALPN), func(c *tls.Conn) {
		readRaw(t, c)
		future := bytes.Clone(golden["hello-listener"])
		future[netproto.HeaderSize+9] = netproto.VersionMajor + 1
		write(t, c, future)
	})
	_, err := netproto.Dial(t.Context(), l.Addr().String(), a, b.Fingerprint(), options)
	check("dialer", err)
}

// playListener lets a function play the listener of one connection, until the test ends.
func playListener(t *testing.T, config *tls.Config, play func(*tls.Conn)) net.Listener {
	t.Helper()
	l := listen(t)
	done, ended := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(ended); _ = l.Close(); <-done })
	go func() {
		defer close(done)
		socket, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { <-ended; _ = socket.Close() }()
		c := tls.Server(socket, config)
		if err := c.Handshake(); err == nil {
			play(c)
		}
	}()
	return l
}

func TestHungPeer(t *testing.T) {
	a, b := newIdentity(t), newIdentity(t)
	o := netproto.Options{HandshakeTimeout: 100 * time.Millisecond}
	mute := listen(t) // its kernel accepts, nobody speaks
	within(t, "dialling a mute listener", func() {
		_, err := netproto.Dial(t.Context(), mute.Addr().String(), a, b.Fingerprint(), o)
		wantError(t, "no TLS", err, netproto.ErrPeerSilent)
	})
	l := playListener(t, b.ServerTLS(only(a.Fingerprint()), netproto.ALPN), func(*tls.Conn) {})
	within(t, "dialling a listener that never says HELLO", func() {
		_, err := netproto.Dial(t.Context(), l.Addr().String(), a, b.Fingerprint(), o)
		wantError(t, "no HELLO", err, netproto.ErrPeerSilent)
	})
	_, accepted := rawDialer(t, o)
	within(t, "a dialer that never says HELLO", func() {
		wantError(t, "listener", (<-accepted).err, netproto.ErrPeerSilent)
	})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	within(t, "cancelled dial", func() {
		_, err := netproto.Dial(ctx, mute.Addr().String(), a, b.Fingerprint(), netproto.Options{})
		wantError(t, "cancelled dial", err, context.Canceled)
	})
}

func TestCloseToAHungPeer(t *testing.T) {
	_, conn := greeted(t, options) // the raw end neither reads nor closes
	for range 8 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_ = conn.WriteFrame(ctx, small, make([]byte, 1<<20))
		cancel()
	}
	within(t, "close", func() { _ = conn.Close() })
}
