//go:build e2e

package e2e_test

import (
	"flag"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto/line"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/lan"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// thinLine is one that emulated processors fill easily.
var thinLine = flag.String("line", "10mbit,100ms", "the line of TestThinLine")

const (
	// leastFull is the share of the line that a transfer must take, in the best half of what it sends.
	leastFull = 0.95
	// thinTime is for how long data shall flow.
	thinTime = 12 * time.Second
	// thinMTU keeps the packets few: each costs an emulated processor several interrupts.
	thinMTU = 9000
)

// Both delegates imitate a thin and long line, in the kernel: a transfer fills it, never runs faster, and the disks end up equal. It runs
// beside no other test, for the emulated processors must keep up.
func TestThinLine(t *testing.T) {
	spec, err := line.ParseSpec(*thinLine)
	if err != nil {
		t.Fatal(err)
	}
	key, err := manifest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	l := network(t)
	start := func(address string) *disks {
		a := boot(t, qemu.Options{Network: l.Socket(), Direct: direct(t)}, address, func(m *xapisim.Machine) {
			m.Data[control.InputPrefix+control.InputLine] = *thinLine
			m.VIFs[0].MTU = thinMTU
		})
		return &disks{appliance: a, folder: folder(t), key: key}
	}
	source, target := start("10.77.0.70/24"), start("10.77.0.71/24")
	for _, d := range []*disks{source, target} {
		d.client = d.meet(l)
		if err := d.client.SetKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	// A machine's answer to a connection comes half a round trip late.
	began := time.Now()
	connection, err := l.DialContext(limit(t, time.Minute), "tcp", source.client.Address())
	if err != nil {
		t.Fatal(err)
	}
	_ = connection.Close() // nothing was said
	if took := time.Since(began); took < spec.RTT/2 {
		t.Errorf("the source answers within %v; the line takes %v", took, spec.RTT/2)
	}

	p := pair{source: source, target: target, size: int64(thinTime.Seconds()*float64(spec.Rate)) &^ (mib - 1), tuning: control.Tuning{Parallel: 1}}
	source.plug(1, p.size, true)
	target.plugWith(2, make([]byte, p.size), false)
	target.device(2)
	flow := measure(t, l, source)
	p.copy()
	flow.end()
	whole, best := flow.rates(t, p.size)
	full := float64(spec.Rate)
	t.Logf("%.0f bytes a second of %d: %.1f %% of the line, %.1f %% in the best half, %v in all",
		whole, spec.Rate, 100*whole/full, 100*best/full, flow.samples[len(flow.samples)-1].at.Round(time.Millisecond))
	if share := best / full; share < leastFull || share > 1.02 {
		t.Errorf("the transfer takes %.1f %% of the line", 100*share)
	}
}

// flow is what a machine has sent, again and again.
type flow struct {
	stop    chan struct{}
	done    chan struct{}
	end     func()
	samples []sample // complete after end
}

// sample is how many bytes were sent by a time since the beginning.
type sample struct {
	at    time.Duration
	bytes int64
}

// measure looks at what a delegate sends until end.
func measure(t *testing.T, l *lan.LAN, d *disks) *flow {
	f := &flow{stop: make(chan struct{}), done: make(chan struct{})}
	began, before := time.Now(), l.Sent(d.mac)
	go func() {
		defer close(f.done)
		for {
			f.samples = append(f.samples, sample{time.Since(began), l.Sent(d.mac) - before})
			select {
			case <-time.After(20 * time.Millisecond):
			case <-f.stop:
				return
			}
		}
	}()
	f.end = sync.OnceFunc(func() {
		close(f.stop)
		<-f.done
	})
	t.Cleanup(f.end)
	return f
}

// rates are bytes a second, of a transfer of so many bytes: while data flowed, which is between the first and the last tenth of them, and in
// the stretch of a half of them that was the fastest. A busy computer stops its machines now and then, which the second hardly shows; a
// sender that waits for answers, or loses packets, does so all the time.
func (f *flow) rates(t *testing.T, bytes int64) (whole, best float64) {
	t.Helper()
	between := func(from, to sample) float64 { return float64(to.bytes-from.bytes) / (to.at - from.at).Seconds() }
	first := 0
	for first < len(f.samples) && f.samples[first].bytes < bytes/10 {
		first++
	}
	last := first
	for i, from := first, first; i < len(f.samples) && f.samples[last].bytes < bytes-bytes/10; i++ {
		last = i
		for f.samples[i].bytes-f.samples[from].bytes >= bytes/2 {
			best = max(best, between(f.samples[from], f.samples[i]))
			from++
		}
	}
	if last == len(f.samples) || best == 0 {
		t.Fatalf("%d bytes were to be seen at the switch, in %d samples", bytes, len(f.samples))
	}
	return between(f.samples[first], f.samples[last]), best
}
