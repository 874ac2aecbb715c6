package transfer_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

var (
	chaosTime = flag.Duration("chaos", 2*time.Second, "how long TestChaos goes on")
	chaosSeed = flag.Uint64("chaos-seed", 0, "repeat one world of TestChaos; 0: draw seeds")
)

// volatile is a disk with a cache: what was written since the last flush may be lost, in part, when its host dies.
type volatile struct {
	*blockio.Memory
	mu       sync.Mutex
	unstable []earlier
}

// earlier is what stood in a page of the disk before it was written.
type earlier struct {
	off  int64
	data []byte
}

const page = 4 << 10

func (v *volatile) keep(off, length int64) {
	for start := off / page * page; start < off+length; start += page {
		old := make([]byte, min(page, v.Size()-start))
		copy(old, v.Bytes()[start:])
		v.unstable = append(v.unstable, earlier{start, old})
	}
}

func (v *volatile) WriteAt(p []byte, off int64) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keep(off, int64(len(p)))
	return v.Memory.WriteAt(p, off)
}

func (v *volatile) WriteZeroes(off, length int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keep(off, length)
	return v.Memory.WriteZeroes(off, length)
}

func (v *volatile) Flush() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unstable = nil
	return v.Memory.Flush()
}

// crash loses some of what is not durable. Nobody uses the disk meanwhile.
func (v *volatile) crash(rnd *rand.Rand) {
	for i := len(v.unstable) - 1; i >= 0; i-- {
		if rnd.IntN(2) == 0 {
			copy(v.Bytes()[v.unstable[i].off:], v.unstable[i].data)
		}
	}
	v.unstable = nil
}

// cut is a line that breaks after some frames.
type cut struct {
	transfer.Conn
	left *atomic.Int64
}

func (c cut) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	if c.left.Add(-1) < 0 {
		_ = c.Conn.Close()
	}
	return c.Conn.WriteFrame(ctx, t, payload...)
}

// chaosWorld is a VM's disk, its replica, and what an orchestrator would know of it.
type chaosWorld struct {
	rnd     *rand.Rand
	source  []byte
	replica *volatile
	clean   *known // nil when the cached manifest is dirty
}

// guest lets the VM's guest write: new content, zeroes, copies of what is there, and small changes.
func (w *chaosWorld) guest() {
	size := len(w.source)
	for range w.rnd.IntN(20) {
		length := min(size, 1+w.rnd.IntN(1<<w.rnd.IntN(21)))
		off := w.rnd.IntN(size - length + 1)
		piece := w.source[off : off+length]
		switch w.rnd.IntN(4) {
		case 0:
			clear(piece)
		case 1:
			from := w.rnd.IntN(size-length+1) / manifest.BlockSize * manifest.BlockSize
			copy(w.source[off/manifest.BlockSize*manifest.BlockSize:], w.source[from:from+length])
		case 2:
			for i := range piece {
				piece[i] = byte(w.rnd.Uint32())
			}
		default:
			text := fmt.Sprintf("record %d, ", w.rnd.IntN(1000))
			for i := range piece {
				piece[i] = text[i%len(text)]
			}
		}
	}
}

// replicate makes one run, in which something may go wrong, and says what of its promises did not hold.
func (w *chaosWorld) replicate(t *testing.T) error {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	size := int64(len(w.source))
	near, far := pipe(t)
	var a, b transfer.Conn = near, far
	var source transfer.Source = memory(t, w.source)
	var target blockio.Device = w.replica
	fault := "none"
	switch w.rnd.IntN(6) {
	case 0:
		fault = "cut"
		left := new(atomic.Int64)
		left.Store(w.rnd.Int64N(200))
		a, b = cut{a, left}, cut{b, left}
	case 1:
		rule := blockio.Rule{Op: []blockio.Op{blockio.OpRead, blockio.OpWrite, blockio.OpZero, blockio.OpFlush}[w.rnd.IntN(4)], After: w.rnd.IntN(30)}
		if rule.Op == blockio.OpWrite {
			rule.Torn = w.rnd.IntN(manifest.BlockSize)
		}
		fault = "target's " + string(rule.Op)
		target = blockio.NewFaulty(w.replica, rule)
	case 2:
		fault = "source's read"
		source = blockio.NewFaulty(memory(t, w.source), blockio.Rule{Op: blockio.OpRead, After: w.rnd.IntN(12)})
	case 3:
		fault = "cancel"
		timer := time.AfterFunc(time.Duration(w.rnd.Int64N(int64(30*time.Millisecond))), cancel)
		defer timer.Stop()
	}
	var done journal
	sink := transfer.SinkSpec{Records: done.take}
	receive := transfer.ReceiveSpec{Target: target, Size: size, Key: key}
	var base []manifest.Digest
	if w.clean != nil {
		base = w.clean.extents
		if w.rnd.IntN(3) > 0 {
			sink.Trusted, receive.Trusted = w.clean, true
		}
	}
	w.clean = nil // dirty before the first write
	o := run(ctx, a, b, transfer.SendSpec{Source: source, Size: size, Key: key, Known: base}, sink, receive)
	if o.err() == nil {
		if !bytes.Equal(w.replica.Bytes(), w.source) {
			return fmt.Errorf("fault %s, trusted %v: the run succeeded, and the replica differs", fault, receive.Trusted)
		}
		w.clean = knownOf(w.source)
		if root, _, _ := manifestOf(w.source); o.send.Root != root || base != nil && done.compose(base, len(w.source)) != root {
			return fmt.Errorf("fault %s, trusted %v: the manifest is not the source's", fault, receive.Trusted)
		}
	}
	if w.rnd.IntN(2) == 0 {
		w.replica.crash(w.rnd)
	}
	if durable := min(size, int64(done.watermark)*manifest.ExtentSize); !bytes.Equal(w.replica.Bytes()[:durable], w.source[:durable]) {
		return fmt.Errorf("fault %s, trusted %v, error %v: what the watermark of %d promised is lost", fault, receive.Trusted, o.err(), done.watermark)
	}
	if w.clean != nil && !bytes.Equal(w.replica.Bytes(), w.source) {
		return fmt.Errorf("fault %s, trusted %v: a crash after the run's end lost what it wrote", fault, receive.Trusted)
	}
	return nil
}

// TestChaos replays writes of a guest, and runs in which lines are cut, disks fail and hosts die, over and over: a run
// that succeeds leaves an equal and durable replica, one that fails leaves true what its watermark promised. make chaos goes on for minutes.
func TestChaos(t *testing.T) {
	runs, succeeded := 0, 0
	for end := time.Now().Add(*chaosTime); time.Now().Before(end); {
		seed := *chaosSeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		rnd := rand.New(rand.NewPCG(seed, 0))
		size := 1 + rnd.IntN(5*manifest.ExtentSize)
		w := &chaosWorld{rnd: rnd, source: make([]byte, size), replica: &volatile{Memory: blockio.NewMemory(int64(size))}}
		for range 12 {
			w.guest()
			if err := w.replicate(t); err != nil {
				t.Fatalf("-chaos-seed %d, run %d: %v", seed, runs, err)
			}
			runs++
			if w.clean != nil {
				succeeded++
			}
		}
		if *chaosSeed != 0 {
			break
		}
	}
	t.Logf("%d runs, %d of them succeeded", runs, succeeded)
	if succeeded == 0 || succeeded == runs {
		t.Errorf("%d of %d runs succeeded: the faults are not what they are meant to be", succeeded, runs)
	}
}
