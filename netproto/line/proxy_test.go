package line_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/netproto/line"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers each connection by f, until the test ends.
func serve(t testing.TB, f func(*net.TCPConn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); serving.Wait() })
	return l.Addr().String()
}

// echo sends back what comes, and then the end.
func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

func start(t testing.TB, s line.Spec, target string, o line.Options) *line.Proxy {
	t.Helper()
	p, err := line.Start(s, target, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // a test that hangs says where
	return c.(*net.TCPConn)
}

func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p) // never fails
	return p
}

// roundTrip sends a byte and waits for its echo.
func roundTrip(t testing.TB, c net.Conn) time.Duration {
	t.Helper()
	began := time.Now()
	if _, err := c.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

func TestContentAndEndPassUnchanged(t *testing.T) {
	for name, s := range map[string]line.Spec{"open": {}, "thin and long": {Rate: 40 << 20, RTT: 20 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			p := start(t, s, serve(t, echo), line.Options{})
			want := noise(3<<20 + 17)
			var clients sync.WaitGroup
			for range 3 {
				clients.Go(func() {
					c := dial(t, p.Addr())
					go func() {
						_, _ = c.Write(want)
						_ = c.CloseWrite()
					}()
					if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%d bytes came back of %d, %v", len(got), len(want), err)
					}
				})
			}
			clients.Wait()
			if there, back := p.Bytes(); there != 3*int64(len(want)) || back != there {
				t.Errorf("%d bytes counted there, %d back, want %d", there, back, 3*len(want))
			}
		})
	}
}

func TestDelayIsTheRoundTrip(t *testing.T) {
	const rtt = 80 * time.Millisecond
	p := start(t, line.Spec{RTT: rtt}, serve(t, echo), line.Options{})
	c := dial(t, p.Addr())
	if first := roundTrip(t, c); first < 2*rtt {
		t.Errorf("the first answer took %v: connecting takes a round trip, and asking another", first)
	}
	best := time.Hour
	for range 5 {
		best = min(best, roundTrip(t, c))
	}
	if best < rtt || best > rtt+40*time.Millisecond {
		t.Errorf("round trip %v, want %v", best, rtt)
	}
}

// TestRateIsShared: two connections together get what the line has, and no more.
func TestRateIsShared(t *testing.T) {
	const rate = 8 << 20
	received := make(chan int64, 2)
	target := serve(t, func(c *net.TCPConn) {
		n, _ := io.Copy(io.Discard, c)
		received <- n
	})
	p := start(t, line.Spec{Rate: rate, RTT: 20 * time.Millisecond}, target, line.Options{})
	began := time.Now()
	var senders sync.WaitGroup
	for range 2 {
		c := dial(t, p.Addr())
		senders.Go(func() {
			_, _ = c.Write(make([]byte, 6<<20))
			_ = c.CloseWrite()
		})
	}
	senders.Wait()
	total := <-received + <-received
	took := time.Since(began)
	if total != 12<<20 || took < 1500*time.Millisecond || took > 3*time.Second {
		t.Errorf("%d bytes in %v, want 12 MiB in 1.5 s", total, took)
	}
}

func TestSenderIsHeldUpByTheQueue(t *testing.T) {
	p := start(t, line.Spec{Rate: 1 << 20, RTT: 10 * time.Millisecond}, serve(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }), line.Options{})
	c := dial(t, p.Addr())
	_ = c.SetWriteBuffer(128 << 10)
	_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	n, err := c.Write(make([]byte, 16<<20))
	if err == nil || n > 4<<20 {
		t.Errorf("%d bytes were taken in half a second by a line of 1 MiB/s, error %v", n, err)
	}
}

func TestResetReachesBothEnds(t *testing.T) {
	far := make(chan error, 1)
	target := serve(t, func(c *net.TCPConn) {
		_, err := io.Copy(c, c)
		far <- err
	})
	p := start(t, line.Spec{RTT: time.Millisecond}, target, line.Options{})
	c := dial(t, p.Addr())
	roundTrip(t, c)
	p.Reset()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the dialer read %v, want a reset", err)
	}
	if err := <-far; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target read %v, want a reset", err)
	}
	roundTrip(t, dial(t, p.Addr())) // the line itself is whole
}

func TestResetByAnEndPasses(t *testing.T) {
	target := serve(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.SetLinger(0)
	})
	c := dial(t, start(t, line.Spec{RTT: time.Millisecond}, target, line.Options{}).Addr())
	_, _ = c.Write([]byte{1})
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %v, want a reset", err)
	}
}

func TestNobodyListensBehindTheLine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := l.Addr().String()
	_ = l.Close()
	c := dial(t, start(t, line.Spec{RTT: 50 * time.Millisecond}, target, line.Options{}).Addr())
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %v, want a reset", err)
	}
}

func TestGateRationsAndBreaks(t *testing.T) {
	broken := errors.New("broken")
	var mu sync.Mutex
	left := 1000
	gate := func(_ context.Context, n int) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if left == 0 {
			return 0, broken
		}
		n = min(n, left, 300)
		left -= n
		return n, nil
	}
	var got int64
	done := make(chan struct{})
	target := serve(t, func(c *net.TCPConn) {
		defer close(done)
		got, _ = io.Copy(io.Discard, c)
	})
	p := start(t, line.Spec{}, target, line.Options{Gate: gate})
	c := dial(t, p.Addr())
	_, _ = c.Write(make([]byte, 4000))
	<-done
	// A reset drops what the target had not read yet.
	if there, _ := p.Bytes(); got > 1000 || there > 4000 {
		t.Errorf("%d bytes came through a gate of 1000", got)
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	p, err := line.Start(line.Spec{Rate: 1 << 10, RTT: 10 * time.Second}, serve(t, echo), line.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, p.Addr())
	_, _ = c.Write(make([]byte, 100<<10))
	began := time.Now()
	p.Close()
	if took := time.Since(began); took > time.Second {
		t.Errorf("closing took %v", took)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives")
	}
}

func TestStartRefuses(t *testing.T) {
	for _, s := range []line.Spec{{Rate: -1}, {RTT: -1}, {RTT: time.Minute}, {Buffer: -1}} {
		if p, err := line.Start(s, "127.0.0.1:1", line.Options{}); err == nil {
			p.Close()
			t.Errorf("%+v is taken", s)
		}
	}
	if p, err := line.Start(line.Spec{}, "127.0.0.1:1", line.Options{Listen: "nonsense"}); err == nil {
		p.Close()
		t.Error("a listener at 'nonsense'")
	}
}
