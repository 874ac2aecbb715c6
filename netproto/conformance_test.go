package netproto_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/netproto"
)

const (
	small netproto.Type = 0x10
	bulk  netproto.Type = 0x80
)

// options give the smallest window, so that tests reach its end soon.
var options = netproto.Options{
	Software: "conformance", Features: 6, Window: netproto.MinWindow, Token: []byte("token"),
}

// TestConn is the conformance suite that every kind of connection passes.
func TestConn(t *testing.T) {
	kinds := map[string]func(testing.TB) (a, b *netproto.Conn){
		"TLS": func(t testing.TB) (a, b *netproto.Conn) { return loopback(t, options, options) },
		"Pipe": func(t testing.TB) (a, b *netproto.Conn) {
			a, b, err := netproto.Pipe(options)
			if err != nil {
				t.Fatal(err)
			}
			closeLater(t, a, b)
			return a, b
		},
	}
	tests := map[string]func(*testing.T, *netproto.Conn, *netproto.Conn){
		"greeting":                testGreeting,
		"frames in order":         testOrder,
		"bad frames":              testBadFrames,
		"window":                  testWindow,
		"releasing twice":         testReleaseTwice,
		"queue limit":             testQueueLimit,
		"cancelled calls":         testCancel,
		"close":                   testClose,
		"close of both":           testCloseBoth,
		"close wakes":             testCloseWakes,
		"close with error":        testCloseWithError,
		"error while peer writes": testErrorWhilePeerWrites,
		"many writers":            testManyWriters,
	}
	for kind, connect := range kinds {
		t.Run(kind, func(t *testing.T) {
			for name, test := range tests {
				t.Run(name, func(t *testing.T) {
					a, b := connect(t)
					t.Run("forth", func(t *testing.T) { test(t, a, b) })
					a, b = connect(t)
					t.Run("back", func(t *testing.T) { test(t, b, a) })
				})
			}
		})
	}
}

func TestPipeCountsFrames(t *testing.T) {
	a, b, err := netproto.Pipe(options)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, a, b)
	mustWrite(t, a, small, make([]byte, 100))
	mustWrite(t, a, bulk)
	if sent, got := a.Stats().BytesWritten, b.Stats().BytesRead; sent != 116 || got != 116 {
		t.Errorf("%d bytes written, %d read", sent, got)
	}
}

func TestBadOptions(t *testing.T) {
	for name, o := range map[string]netproto.Options{
		"long token":        {Token: make([]byte, netproto.MaxToken+1)},
		"long software":     {Software: strings.Repeat("x", netproto.MaxSoftware+1)},
		"binary software":   {Software: "\xff"},
		"small window":      {Window: netproto.MinWindow - 1},
		"large window":      {Window: netproto.MaxWindow + 1},
		"negative time":     {HandshakeTimeout: -1},
		"timeout too short": {Heartbeat: time.Second, Timeout: time.Second},
	} {
		_, _, err := netproto.Pipe(o)
		wantError(t, name, err, netproto.ErrOptions)
	}
}

func testGreeting(t *testing.T, a, b *netproto.Conn) {
	for _, c := range []*netproto.Conn{a, b} {
		if !c.Features().Has(6) || c.Features().Has(1) || string(c.Token()) != "token" || c.Peer().Software != "conformance" ||
			c.Peer().Protocol != (netproto.Version{Major: netproto.VersionMajor, Minor: netproto.VersionMinor}) {
			t.Errorf("features %x, token %q, peer %+v", c.Features(), c.Token(), c.Peer())
		}
	}
}

func testOrder(t *testing.T, a, b *netproto.Conn) {
	large := bytes.Repeat([]byte("0123456789abcdef"), netproto.MaxPayload/16)
	mustWrite(t, a, small)
	mustWrite(t, a, bulk, large[:100], nil, large[100:])
	mustWrite(t, a, 0x7f, []byte("one "), []byte("two"))
	mustWrite(t, a, 0xff)
	for _, want := range []struct {
		typ     netproto.Type
		payload []byte
	}{{small, nil}, {bulk, large}, {0x7f, []byte("one two")}, {0xff, nil}} {
		f := mustRead(t, b)
		if f.Type != want.typ || !bytes.Equal(f.Payload, want.payload) {
			t.Errorf("got type %v with %d bytes, want %v with %d", f.Type, len(f.Payload), want.typ, len(want.payload))
		}
		f.Release()
	}
	if sent, got := a.Stats().BytesWritten, b.Stats().BytesRead; sent != got || sent < netproto.MaxPayload {
		t.Errorf("%d bytes written, %d read", sent, got)
	}
}

func testBadFrames(t *testing.T, a, b *netproto.Conn) {
	wantError(t, "reserved type", a.WriteFrame(t.Context(), 0x0f), netproto.ErrFrame)
	wantError(t, "large payload", a.WriteFrame(t.Context(), bulk, make([]byte, netproto.MaxPayload), []byte{0}), netproto.ErrFrame)
	mustWrite(t, a, small, []byte("still well"))
	if f := mustRead(t, b); string(f.Payload) != "still well" {
		t.Errorf("got %q", f.Payload)
	}
}

// fillWindow writes bulk frames until the window is exhausted, and returns how many went.
func fillWindow(t *testing.T, c *netproto.Conn, payload []byte) (sent int) {
	t.Helper()
	for {
		before := c.Stats().WindowBlocked
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := c.WriteFrame(ctx, bulk, payload)
		cancel()
		switch {
		case err == nil:
			sent++
		case !errors.Is(err, context.DeadlineExceeded):
			t.Fatal(err)
		case c.Stats().WindowBlocked-before >= 40*time.Millisecond: // the window it was, not a busy machine
			return sent
		}
	}
}

func testWindow(t *testing.T, a, b *netproto.Conn) {
	payload := make([]byte, 256<<10)
	sent := fillWindow(t, a, payload)
	if want := netproto.MinWindow / (len(payload) + 256); sent != want {
		t.Fatalf("%d frames sent within the window, want %d", sent, want)
	}
	mustWrite(t, a, small, []byte("passes a full window"))
	frames := make([]netproto.Frame, sent)
	for i := range frames {
		frames[i] = mustRead(t, b) // reading grants nothing, releasing does
	}
	if f := mustRead(t, b); f.Type != small {
		t.Errorf("got type %v", f.Type)
	}
	if more := fillWindow(t, a, payload); more != 0 {
		t.Errorf("%d frames sent before any was released", more)
	}
	if a.Stats().WindowBlocked < 50*time.Millisecond {
		t.Errorf("WindowBlocked %v", a.Stats().WindowBlocked)
	}
	for _, f := range frames[:sent/2+1] {
		f.Release()
	}
	for range sent / 2 {
		mustWrite(t, a, bulk, payload)
	}
	if more := fillWindow(t, a, payload); more > 1 { // the last release may not be granted yet
		t.Errorf("%d frames more than were released", more-1)
	}
}

func testReleaseTwice(t *testing.T, a, b *netproto.Conn) {
	mustWrite(t, a, bulk, []byte("first"))
	stale := mustRead(t, b)
	stale.Release()
	for range 100 { // whatever buffer comes next, the stale frame must not touch it
		mustWrite(t, a, bulk, []byte("fresh"))
		f := mustRead(t, b)
		stale.Release()
		mustWrite(t, a, bulk, []byte("other"))
		other := mustRead(t, b)
		if string(f.Payload) != "fresh" || string(other.Payload) != "other" {
			t.Fatalf("%q and %q share a buffer", f.Payload, other.Payload)
		}
		f.Release()
		other.Release()
	}
}

func testQueueLimit(t *testing.T, a, b *netproto.Conn) {
	payload := make([]byte, 64<<10)
	number := func(i int) []byte { binary.BigEndian.PutUint64(payload, uint64(i)); return payload }
	sent := 0
	for ; sent < netproto.QueueLimit/(len(payload)+256); sent++ {
		mustWrite(t, a, small, number(sent))
	}
	for ; ; sent++ { // sockets' buffers take some more
		if sent == 16<<10 {
			t.Fatal("1 GiB fits into the inbox")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := a.WriteFrame(ctx, small, number(sent))
		cancel()
		if err != nil {
			wantError(t, "write", err, context.DeadlineExceeded)
			break
		}
	}
	mustWrite(t, b, small, []byte("the other direction moves"))
	if f := mustRead(t, a); f.Type != small {
		t.Errorf("got type %v", f.Type)
	}
	for i := range sent {
		f := mustRead(t, b)
		if got := binary.BigEndian.Uint64(f.Payload); got != uint64(i) {
			t.Fatalf("frame %d, want %d", got, i)
		}
		f.Release()
	}
}

func testCancel(t *testing.T, a, b *netproto.Conn) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the disk is gone") // a peer is told why, not that something was cancelled
	time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
	within(t, "cancelled read", func() {
		_, err := b.ReadFrame(ctx)
		wantError(t, "cancelled read", err, cause)
	})
	_, err := b.ReadFrame(ctx)
	wantError(t, "read with a dead context", err, cause)
	wantError(t, "write with a dead context", a.WriteFrame(ctx, small), cause)
	sent := fillWindow(t, a, make([]byte, 64<<10)) // ends by a cancelled write
	for range sent {
		mustRead(t, b).Release()
	}
	mustWrite(t, a, bulk, []byte("usable"))
	if f := mustRead(t, b); string(f.Payload) != "usable" {
		t.Errorf("got %q after a cancelled write", f.Payload)
	}
}

func testClose(t *testing.T, a, b *netproto.Conn) {
	for range 10 {
		mustWrite(t, a, bulk, make([]byte, 100<<10))
	}
	within(t, "close", func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	for range 10 {
		if f := mustRead(t, b); len(f.Payload) != 100<<10 {
			t.Errorf("%d bytes", len(f.Payload))
		}
	}
	_, err := b.ReadFrame(t.Context())
	if err != io.EOF { // itself, as io.Reader's callers expect
		t.Errorf("read after the peer's close: %v", err)
	}
	wantError(t, "write to a closed peer", b.WriteFrame(t.Context(), small), io.ErrClosedPipe)
	_, err = a.ReadFrame(t.Context())
	wantError(t, "read after close", err, net.ErrClosed)
	wantError(t, "write after close", a.WriteFrame(t.Context(), small), net.ErrClosed)
	if err := errors.Join(a.Close(), b.Close(), b.Close()); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

func testCloseBoth(t *testing.T, a, b *netproto.Conn) {
	var group sync.WaitGroup
	within(t, "close of both", func() {
		group.Go(func() { _ = a.Close() })
		group.Go(func() { _ = b.Close() })
		group.Wait()
	})
}

func testCloseWakes(t *testing.T, a, _ *netproto.Conn) {
	fillWindow(t, a, make([]byte, 1<<20))
	var group sync.WaitGroup
	group.Go(func() {
		_, err := a.ReadFrame(context.Background())
		wantError(t, "blocked read", err, net.ErrClosed)
	})
	for range 3 {
		group.Go(func() {
			wantError(t, "blocked write", a.WriteFrame(context.Background(), bulk, make([]byte, 1<<20)), net.ErrClosed)
		})
	}
	time.Sleep(20 * time.Millisecond)
	within(t, "close with blocked calls", func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		group.Wait()
	})
}

func testCloseWithError(t *testing.T, a, b *netproto.Conn) {
	mustWrite(t, b, bulk, make([]byte, 100<<10)) // unread data must not reset the line before the error arrives
	within(t, "close with error", func() {
		if err := a.CloseWithError(0x123, "disk full"); err != nil {
			t.Error(err)
		}
	})
	_, err := a.ReadFrame(t.Context())
	wantError(t, "read after close", err, net.ErrClosed)
	_, err = b.ReadFrame(t.Context())
	var remote *netproto.RemoteError
	if !errors.As(err, &remote) || *remote != (netproto.RemoteError{Code: 0x123, Message: "disk full"}) {
		t.Errorf("peer reads %v", err)
	}
	if err := b.WriteFrame(t.Context(), small); !errors.As(err, &remote) {
		t.Errorf("peer writes: %v", err)
	}
}

func testErrorWhilePeerWrites(t *testing.T, a, b *netproto.Conn) {
	var group sync.WaitGroup
	group.Go(func() {
		payload := make([]byte, 32<<10)
		var remote *netproto.RemoteError
		for {
			if err := b.WriteFrame(context.Background(), small, payload); err != nil {
				if !errors.As(err, &remote) {
					t.Errorf("a broken write hides the peer's error: %v", err)
				}
				return
			}
		}
	})
	for range 20 {
		mustRead(t, a).Release()
	}
	if err := a.CloseWithError(0x100, strings.Repeat("x", 2000)); err != nil {
		t.Error(err)
	}
	group.Wait()
}

// testManyWriters checks that frames of concurrent writers arrive whole and in each writer's order, in both directions at once.
func testManyWriters(t *testing.T, a, b *netproto.Conn) {
	rapid.Check(t, func(t *rapid.T) {
		lengths := rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(10, 64<<10), 0, 8), 1, 4).Draw(t, "lengths")
		var group sync.WaitGroup
		for _, ends := range [][2]*netproto.Conn{{a, b}, {b, a}} {
			total := 0
			for writer, sizes := range lengths {
				total += len(sizes)
				group.Go(func() {
					for i, size := range sizes {
						payload := bytes.Repeat([]byte{byte(writer), byte(i)}, size/2)
						typ := small
						if size%2 == 0 {
							typ = bulk
						}
						if err := ends[0].WriteFrame(context.Background(), typ, payload[:size/3], payload[size/3:]); err != nil {
							t.Errorf("write: %v", err)
						}
					}
				})
			}
			group.Go(func() {
				next := make([]int, len(lengths))
				for range total {
					f, err := ends[1].ReadFrame(context.Background())
					if err != nil {
						t.Errorf("read: %v", err)
						return
					}
					writer := int(f.Payload[0])
					i := next[writer]
					if !bytes.Equal(f.Payload, bytes.Repeat([]byte{byte(writer), byte(i)}, lengths[writer][i]/2)) {
						t.Errorf("writer %d's frame %d is mangled", writer, i)
					}
					next[writer]++
					f.Release()
				}
			})
		}
		group.Wait()
	})
}
