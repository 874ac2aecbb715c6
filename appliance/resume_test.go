package appliance_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// proxy is a line between two delegates that can be cut.
type proxy struct {
	address string
	target  string
	moved   chan int // bytes that passed

	mu    sync.Mutex
	down  bool
	conns []net.Conn
	met   int
}

// newProxy passes what comes on to an address, until the test ends.
func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: l.Addr().String(), target: target, moved: make(chan int, 1)}
	p.moved <- 0
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", target)
			if err != nil || !p.take(near, far) {
				_ = near.Close()
				continue
			}
			passing.Go(func() { p.pass(near, far) })
			passing.Go(func() { p.pass(far, near) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.cut(true)
		passing.Wait()
	})
	return p
}

func (p *proxy) take(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		for _, c := range conns {
			_ = c.Close()
		}
		return false
	}
	p.conns = append(p.conns, conns...)
	p.met++
	return true
}

func (p *proxy) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.moved <- n + <-p.moved
		if _, failed := to.Write(buf[:n]); err != nil || failed != nil {
			return
		}
	}
}

// cut resets all connections; when down, it refuses others until it is up.
func (p *proxy) cut(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	p.conns, p.down = nil, down
}

func (p *proxy) up() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

// cutAt cuts the line each time when so many bytes have passed.
func (p *proxy) cutAt(ctx context.Context, marks ...int) {
	for _, mark := range marks {
		for ctx.Err() == nil {
			n := <-p.moved
			p.moved <- n
			if n >= mark {
				break
			}
			time.Sleep(time.Millisecond)
		}
		p.cut(false)
	}
}

// throughProxy has whoever dials go through a line, and both ends persist when it is cut.
func throughProxy(t *testing.T, send, receive *control.TaskSpec, seconds int) *proxy {
	t.Helper()
	address := &receive.Peer.Address
	if *address == "" {
		address = &send.Sinks[0].Address
	}
	line := newProxy(t, *address)
	*address = line.address
	send.ResumeSeconds, receive.ResumeSeconds = seconds, seconds
	return line
}

// TestCutLine: a line that is cut in the middle is met again by both ends, which go on from the last acknowledgement. What both
// ends say in the end is as if nothing had happened, but for the cuts, which are told.
func TestCutLine(t *testing.T) {
	const size = 24<<20 + 777
	content := noise(1, size)
	for name, c := range map[string]struct{ push, trusted bool }{
		"push":          {push: true},
		"pull":          {},
		"push, trusted": {push: true, trusted: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			p.source.plug(4, image(t, content))
			target := image(t, make([]byte, size))
			p.target.plug(4, target)
			send, receive := p.specs("cut", size, c.push)
			if c.trusted {
				send.Sinks[0].Trusted, receive.Trusted = control.TrustZero, control.TrustPeer
			}
			send.Sinks[0].Records = true
			line := throughProxy(t, &send, &receive, 30)
			var cutting sync.WaitGroup
			cutting.Go(func() { line.cutAt(t.Context(), 4<<20, 10<<20, 16<<20) })
			sent, received := p.replicate(t, send, receive)
			cutting.Wait()
			expectContent(t, target, content)
			want := root(t, p.key, content)
			if sent.Root != want || !c.trusted && received.Root != want {
				t.Errorf("roots are %s and %s, want %s", sent.Root, received.Root, want)
			}
			if sent.Cuts != 3 || received.Cuts != 3 || sent.CutCause == "" {
				t.Errorf("the sender tells of %d cuts, the last by %q; the receiver of %d", sent.Cuts, sent.CutCause, received.Cuts)
			}
			counters := sent.Sinks[0].Counters
			if counters.Sent != size+counters.Resent || counters.Resent > 3*netproto.DefaultWindow || counters.Processed != size {
				t.Errorf("of %d bytes %d were sent, %d of them again", size, counters.Sent, counters.Resent)
			}
			if received.Counters.Sent > counters.Sent || received.Counters.Sent < size {
				t.Errorf("the receiver took %d bytes, the sender sent %d", received.Counters.Sent, counters.Sent)
			}
			_, records := extents(p.key, content)
			if got := fetchJournal(t, p.source, "cut"); !slices.EqualFunc(got, records, func(a, b manifest.Record) bool {
				return a.Extent == b.Extent && slices.Equal(a.Blocks, b.Blocks)
			}) {
				t.Errorf("the journal has %d records that are not the %d of the disk", len(got), len(records))
			}
		})
	}
}

func fetchJournal(t *testing.T, d *delegate, id string) (records []manifest.Record) {
	t.Helper()
	var sequence int64
	for {
		page, err := d.Journal(t.Context(), id, 0, sequence, time.Second, 0)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, page.Records...)
		if sequence = page.Sequence; page.End {
			return records
		}
	}
}

// stall brings a transfer to the moment after a cut whose line stays down.
func stall(t *testing.T, seconds int) (p pair, send, receive control.TaskSpec, line *proxy) {
	t.Helper()
	const size = 64 << 20
	p = newPair(t)
	p.source.plug(4, image(t, noise(1, size)))
	p.target.plug(4, image(t, make([]byte, size)))
	send, receive = p.specs("stalled", size, true)
	line = throughProxy(t, &send, &receive, seconds)
	p.source.post(send)
	p.target.post(receive)
	for n := 0; n < 4<<20; time.Sleep(time.Millisecond) {
		n = <-line.moved
		line.moved <- n
	}
	line.cut(true)
	for _, d := range []*delegate{p.source, p.target} {
		if seconds > 0 {
			expectWaiting(t, d, "stalled", "after a cut")
		}
	}
	return p, send, receive, line
}

// TestLineDownWhenGoingOn: a line that is down when a transfer begins is waited for when that goes on from a watermark, since its ends
// have met before; else whoever dials gives up soon, and says so.
func TestLineDownWhenGoingOn(t *testing.T) {
	const size = 3 * manifest.ExtentSize
	content := noise(1, size)
	for _, push := range []bool{true, false} {
		p := newPairWith(t, impatient)
		p.source.plug(4, image(t, content))
		target := image(t, append(slices.Clone(content[:manifest.ExtentSize]), make([]byte, size-manifest.ExtentSize)...))
		p.target.plug(4, target)
		send, receive := p.specs("apart", size, push)
		line := throughProxy(t, &send, &receive, 30)
		line.cut(true)
		p.target.post(receive)
		p.source.post(send)
		dialler := p.source
		if !push {
			dialler = p.target
		}
		if status := dialler.wait("apart"); status.State != control.StateFailed || !status.Unmet || !strings.Contains(status.Error, line.address) {
			t.Errorf("push %v: the task is %s, unmet %v: %s", push, status.State, status.Unmet, status.Error)
		}
		for _, d := range []*delegate{p.source, p.target} {
			if _, err := d.CancelTask(t.Context(), "apart"); err != nil {
				t.Fatal(err)
			}
		}
		send, receive = p.specs("goes-on", size, push)
		line = throughProxy(t, &send, &receive, 30)
		line.cut(true)
		send.Start, receive.Start = 1, 1
		p.target.post(receive)
		p.source.post(send)
		time.Sleep(700 * time.Millisecond) // longer than whoever dials is patient else
		line.up()
		for _, d := range []*delegate{p.source, p.target} {
			d.expectDone(d.wait("goes-on"))
		}
		expectContent(t, target, content)
	}
}

// TestCancelAfterCut: who waits to meet again is cancelled at once.
func TestCancelAfterCut(t *testing.T) {
	p, send, _, _ := stall(t, 60)
	for _, d := range []*delegate{p.source, p.target} {
		start := time.Now()
		if status, err := d.CancelTask(t.Context(), send.ID); err != nil || status.State != control.StateCancelled {
			t.Errorf("the task is %s: %v", status.State, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("cancelling took %v", took)
		}
	}
}

// TestResumeWindowEnds: when both ends cannot meet again in time, they say so, and by what they were parted.
func TestResumeWindowEnds(t *testing.T) {
	p, send, _, line := stall(t, 1)
	for _, d := range []*delegate{p.source, p.target} {
		if status := d.wait(send.ID); status.State != control.StateFailed || !strings.Contains(status.Error, "did not meet again within 1s") {
			t.Errorf("the task is %s: %s", status.State, status.Error)
		}
	}
	if line.met != 1 {
		t.Errorf("they met %d times", line.met)
	}
}

// TestCutWithoutWindow: a task that has no window fails with the first cut.
func TestCutWithoutWindow(t *testing.T) {
	p, send, _, _ := stall(t, 0)
	for _, d := range []*delegate{p.source, p.target} {
		if status := d.wait(send.ID); status.State != control.StateFailed || !strings.Contains(status.Error, "cut") {
			t.Errorf("the task is %s: %s", status.State, status.Error)
		}
	}
}

// TestFailureIsNoCut: what one end finds wrong ends both at once, however long they would wait for each other.
func TestFailureIsNoCut(t *testing.T) {
	p, send, receive, line := stall(t, 60)
	start := time.Now()
	if _, err := p.target.CancelTask(t.Context(), receive.ID); err != nil {
		t.Fatal(err)
	}
	receive.ID = "another"
	p.target.post(receive)
	line.up()
	if status := p.source.wait(send.ID); status.State != control.StateFailed || !strings.Contains(status.Error, "told different things") {
		t.Errorf("the sender is %s: %s", status.State, status.Error)
	}
	if status := p.target.wait(receive.ID); status.State != control.StateFailed {
		t.Errorf("the receiver is %s: %s", status.State, status.Error)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}
