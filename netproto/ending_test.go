package netproto_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/netproto"
)

// TestPeerWritesOnAfterAViolation: what the peer has still on its way is swallowed, so that it comes round to reading the
// ERROR that tells it what it did.
func TestPeerWritesOnAfterAViolation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialed, conn := greetedLine(t)
		write(t, dialed, frame(0))
		for range 5 {
			write(t, dialed, frame(bulk, make([]byte, 1<<20)...))
		}
		if typ, _ := readRaw(t, dialed); typ != 4 {
			t.Errorf("the peer is told type %d", typ)
		}
		_ = dialed.NetConn().Close()
		_ = conn.Close()
	})
}

// halfDead is a line whose writes fail while its reads go on, as after a peer's RST.
type halfDead struct {
	net.Conn
	dead atomic.Bool
}

func (c *halfDead) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

func TestABrokenWriteDoesNotHideThePeersError(t *testing.T) {
	for _, told := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			left, right := net.Pipe()
			line := &halfDead{Conn: right}
			dialed, listened := lineOf(t, left, line)
			conn := greet(t, dialed, listened)
			line.dead.Store(true)
			mustWrite(t, conn, small)
			synctest.Wait() // the write has failed
			if told {
				write(t, dialed, frame(4, 1, 0, 'f', 'u', 'l', 'l'))
			}
			start := time.Now()
			_, err := conn.ReadFrame(t.Context())
			var remote *netproto.RemoteError
			if told && (!errors.As(err, &remote) || remote.Message != "full") {
				t.Errorf("read: %v", err)
			}
			if !told {
				wantError(t, "read", err, syscall.EPIPE)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("took %v", took)
			}
			_ = dialed.NetConn().Close()
			_ = conn.Close()
		})
	}
}

// fillLine writes small frames to a line that nobody reads until no more fit, and returns how many went.
func fillLine(t *testing.T, conn *netproto.Conn) (sent int) {
	t.Helper()
	for ; ; sent++ {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := conn.WriteFrame(ctx, small, make([]byte, 64<<10))
		cancel()
		if err != nil {
			wantError(t, "write to a full line", err, context.DeadlineExceeded)
			return sent
		}
	}
}

func TestACancelledBulkWriteTakesNothingOfTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialed, conn := greetedLine(t)
		sent := fillLine(t, conn)
		for range 2 * netproto.DefaultWindow >> 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			wantError(t, "bulk write to a full line", conn.WriteFrame(ctx, bulk, make([]byte, 1<<20)), context.DeadlineExceeded)
			cancel()
		}
		written := make(chan error, 1)
		go func() { written <- conn.WriteFrame(context.Background(), bulk, make([]byte, 1<<20)) }()
		for range sent + 1 {
			readRaw(t, dialed)
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
		_ = dialed.NetConn().Close()
		_ = conn.Close()
	})
}

// TestAnErrorOvertakesPendingFrames: Close sends what is pending, CloseWithError does not.
func TestAnErrorOvertakesPendingFrames(t *testing.T) {
	for _, failed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			dialed, conn := greetedLine(t)
			mustWrite(t, conn, small)
			synctest.Wait() // it is on the line, the next ones are pending
			for range 5 {
				mustWrite(t, conn, small)
			}
			closed := make(chan error, 1)
			want := []byte{byte(small), byte(small), byte(small), byte(small), byte(small), byte(small), 6}
			if failed {
				want = []byte{byte(small), 4}
				go func() { closed <- conn.CloseWithError(0x100, "failed") }()
			} else {
				go func() { closed <- conn.Close() }()
			}
			synctest.Wait()
			for _, typ := range want {
				if got, _ := readRaw(t, dialed); got != typ {
					t.Fatalf("got type %d, want %d", got, typ)
				}
			}
			_ = dialed.NetConn().Close()
			if err := <-closed; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCloseSaysWhatWasNotSent: a line that takes nothing for a second loses pending frames, and Close says so.
func TestCloseSaysWhatWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dialed, conn := greetedLine(t)
		fillLine(t, conn)
		start := time.Now()
		if err := conn.Close(); err == nil {
			t.Error("pending frames were lost, and Close is content")
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("close took %v", took)
		}
		_ = dialed.NetConn().Close()
	})
}
