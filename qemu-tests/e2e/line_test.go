//go:build e2e

package e2e_test

import (
	"flag"
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
	// leastFull is the share of the line that a transfer must take while data flows.
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
	rate := flow.rate(t, p.size)
	t.Logf("%.0f of %d bytes a second, %.1f %% of the line, %v in all", rate, spec.Rate, 100*rate/float64(spec.Rate), flow.last().Round(time.Millisecond))
	if share := rate / float64(spec.Rate); share < leastFull || share > 1.02 {
		t.Errorf("the transfer takes %.1f %% of the line while data flows", 100*share)
	}
}

// flow is what a machine has sent, again and again.
type flow struct {
	stop    chan struct{}
	done    chan struct{}
	samples []sample
}

// sample is how many bytes were sent by a time since the beginning.
type sample struct {
	at    time.Duration
	bytes int64
}

// measure looks at what a delegate sends until rate is asked for.
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
	t.Cleanup(func() {
		select {
		case <-f.done:
		default:
			close(f.stop)
			<-f.done
		}
	})
	return f
}

// last is when the last sample was taken. Only after rate.
func (f *flow) last() time.Duration { return f.samples[len(f.samples)-1].at }

// rate is how many bytes a second were sent while data flowed: between the first and the last tenth of so many bytes.
func (f *flow) rate(t *testing.T, bytes int64) float64 {
	t.Helper()
	close(f.stop)
	<-f.done
	var from, to sample
	for _, s := range f.samples {
		if s.bytes < bytes/10 {
			from = s
		}
		if to.bytes < bytes-bytes/10 {
			to = s
		}
	}
	if from.bytes == 0 || to.bytes < bytes-bytes/10 {
		t.Fatalf("only %d bytes of %d were seen", to.bytes, bytes)
	}
	return float64(to.bytes-from.bytes) / (to.at - from.at).Seconds()
}
