package line_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/qemu-tests/line"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// broken is a line to a server that sends back what comes.
func broken(t *testing.T) *line.Line {
	t.Helper()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { _ = server.Close(); serving.Wait() })
	l, err := line.Start(line.Spec{Rate: 64 << 20, RTT: 2 * time.Millisecond}, server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func dial(t *testing.T, l *line.Line) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask sends bytes and waits for their echo.
func ask(t *testing.T, c net.Conn, content []byte, patience time.Duration) (int, error) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(content); err != nil {
		return 0, err
	}
	got := make([]byte, len(content))
	n, err := io.ReadFull(c, got)
	if !bytes.Equal(got[:n], content[:n]) {
		t.Error("the echo differs")
	}
	return n, err
}

func TestCutIsSilenceUntilMended(t *testing.T) {
	l := broken(t)
	c := dial(t, l)
	if _, err := ask(t, c, []byte("hello"), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	l.Cut()
	if n, err := ask(t, c, []byte("anybody?"), 100*time.Millisecond); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes and %v over a cut line", n, err)
	}
	if n, err := ask(t, dial(t, l), []byte("a new one?"), 100*time.Millisecond); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes and %v over a new connection on a cut line", n, err)
	}
	l.Mend()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, len("anybody?"))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "anybody?" {
		t.Errorf("%q and %v after mending", got, err)
	}
}

func TestCutAfter(t *testing.T) {
	l := broken(t)
	c := dial(t, l)
	l.CutAfter(15000) // 10000 there, half of them back
	if n, err := ask(t, c, make([]byte, 10000), 500*time.Millisecond); n > 5000 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes and %v over a line that was cut", n, err)
	}
	if there, back := l.Bytes(); there+back > 15000 {
		t.Errorf("%d bytes passed, then %d back", there, back)
	}
}

func TestResetAfterBreaksOnce(t *testing.T) {
	l := broken(t)
	c := dial(t, l)
	l.ResetAfter(1 << 20)
	if n, err := ask(t, c, make([]byte, 2<<20), 10*time.Second); n > 1<<20 || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%d bytes and %v, want a reset", n, err)
	}
	if n, err := ask(t, dial(t, l), make([]byte, 2<<20), 10*time.Second); err != nil {
		t.Errorf("%d bytes and %v after the reset", n, err)
	}
}
