package transfer_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

const part = 4 << 10

// TestMovedProperty: runs that moved by any number of parts, over themselves too, and
// of which pieces were overwritten, arrive as they are.
func TestMovedProperty(t *testing.T) {
	pool := random(manifest.ExtentSize+16*manifest.BlockSize, 5)
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.IntRange(1, len(pool)/part).Draw(t, "parts")
		size := parts*part - rapid.IntRange(0, part-1).Draw(t, "cut")
		target := slices.Clone(pool[:size])
		source := slices.Clone(target)
		for range rapid.IntRange(1, 4).Draw(t, "moves") {
			n := rapid.IntRange(1, parts).Draw(t, "length") * part
			from, to := rapid.IntRange(0, parts-1).Draw(t, "from")*part, rapid.IntRange(0, parts-1).Draw(t, "to")*part
			copy(source[to:], slices.Clone(source[from:min(from+n, size)]))
			cut := rapid.IntRange(0, parts-1).Draw(t, "overwritten") * part
			copy(source[cut:min(cut+part, size)], pool[size/2:])
		}
		tuning := transfer.Tuning{
			Memory: transfer.MinMemory,
			Index:  rapid.SampledFrom([]int64{0, 1, 1 << 12}).Draw(t, "index"),
			Defer:  rapid.SampledFrom([]int64{0, -1, 20 * manifest.BlockSize}).Draw(t, "defer"),
		}
		device := memory(t, target)
		send := transfer.SendSpec{Source: memory(t, source), Size: int64(size), Key: key, Tuning: tuning}
		receive := transfer.ReceiveSpec{Target: device, Size: int64(size), Key: key, Tuning: tuning}
		sink := transfer.SinkSpec{}
		switch rapid.SampledFrom([]string{"scan", "trusted", "seed"}).Draw(t, "mode") {
		case "trusted":
			sink.Trusted, receive.Trusted = knownOf(target), true
		case "seed":
			receive.Seeds = []transfer.Seed{{Source: memory(t, target), Size: int64(size)}}
			device = blockio.NewMemory(int64(size))
			receive.Target, receive.Trusted = device, true
			sink.Trusted = transfer.ZeroBaseline(key, int64(size))
		}
		a, b := pipe(t)
		o := run(t.Context(), a, b, send, sink, receive)
		if err := o.err(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content(t, device), source) {
			t.Fatal("the target differs")
		}
	})
}

// TestMovedIsFound: hardly anything travels of a file that lies elsewhere, by whatever
// number of parts, or that moved over itself a little.
func TestMovedIsFound(t *testing.T) {
	const (
		file = 2 * manifest.ExtentSize
		size = 7 * manifest.ExtentSize
	)
	old := random(size, 1)
	for _, c := range []struct {
		name     string
		from, to int // parts
	}{
		{"forward", 1024 + 3, 4*1024 + 10},
		{"backward", 4*1024 + 9, 1024 + 2},
		{"over itself, forward", 2048, 2048 + 5},
		{"over itself, backward", 2048 + 5, 2048},
	} {
		source := slices.Clone(old)
		copy(source[c.to*part:], old[c.from*part:][:file])
		for _, mode := range []string{"scan", "trusted", "seed"} {
			t.Run(c.name+", "+mode, func(t *testing.T) {
				device := memory(t, old)
				tuning := transfer.Tuning{Memory: transfer.MinMemory, Parts: transfer.PartsOff}
				send := transfer.SendSpec{Source: memory(t, source), Size: size, Key: key, Tuning: tuning}
				receive := transfer.ReceiveSpec{Target: device, Size: size, Key: key, Tuning: tuning}
				sink := transfer.SinkSpec{}
				switch mode {
				case "trusted":
					sink.Trusted, receive.Trusted = knownOf(old), true
				case "seed":
					receive.Seeds = []transfer.Seed{{Source: memory(t, old), Size: size}}
					device = blockio.NewMemory(size)
					receive.Target, receive.Trusted = device, true
					sink.Trusted = transfer.ZeroBaseline(key, size)
				}
				a, b := pipe(t)
				o := run(t.Context(), a, b, send, sink, receive)
				if err := o.err(); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(content(t, device), source) {
					t.Error("the target differs")
				}
				if sent := o.send.Sinks[0].Counters.Sent; sent > file*3/100 {
					t.Errorf("%d of %d KiB were sent", sent>>10, file>>10)
				}
			})
		}
	}
}

// gated is a disk whose reads from an offset on wait until its owner has answered an offer.
type gated struct {
	blockio.Device
	from     int64
	answered chan struct{}
}

func (d gated) ReadAt(p []byte, off int64) (int, error) {
	if off >= d.from {
		<-d.answered
	}
	return d.Device.ReadAt(p, off)
}

// answering opens a gate with the first WANT.
type answering struct {
	transfer.Conn
	answered chan struct{}
	once     *sync.Once
}

func (c answering) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	if t == 0x14 {
		c.once.Do(func() { close(c.answered) })
	}
	return c.Conn.WriteFrame(ctx, t, payload...)
}

// TestMovedFromAhead: what moved is found where the sink has not looked yet when it is offered, before
// it is overwritten there; also when it lies where the sink's digests are not known yet.
func TestMovedFromAhead(t *testing.T) {
	const (
		extents, high = 36, 33 // content lies in the first ones, and from high on
		low           = 2
		file          = 2*manifest.ExtentSize + 5*part
		from, to      = high*manifest.ExtentSize + 11*part, 100 * part
		size          = extents * manifest.ExtentSize
	)
	disk := func(head, tail []byte) *blockio.Memory {
		m := blockio.NewMemory(size)
		for off, p := range map[int64][]byte{0: head, high * manifest.ExtentSize: tail} {
			if _, err := m.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
		return m
	}
	head, tail := random((low+1)*manifest.ExtentSize, 1), random((extents-high)*manifest.ExtentSize, 2)
	content := blockio.NewAllocationMap(size)
	content.Mark(0, int64(len(head)))
	content.Mark(high*manifest.ExtentSize, int64(len(tail)))
	moved := slices.Clone(head)
	copy(moved[to:], tail[from-high*manifest.ExtentSize:][:file])
	for name, rest := range map[string][]byte{"kept": tail, "overwritten": make([]byte, len(tail))} {
		for _, mode := range []string{"scan", "trusted"} {
			t.Run(name+", "+mode, func(t *testing.T) {
				target, source := disk(head, tail), disk(moved, rest)
				tuning := transfer.Tuning{Memory: transfer.MinMemory, Parts: transfer.PartsOff}
				hint := &transfer.Hint{Allocated: content}
				send := transfer.SendSpec{Source: source, Hint: hint, Size: size, Key: key, Tuning: tuning}
				gate := make(chan struct{})
				receive := transfer.ReceiveSpec{Target: gated{target, high * manifest.ExtentSize, gate}, Hint: hint, Size: size, Key: key, Tuning: tuning}
				sink := transfer.SinkSpec{}
				if mode == "trusted" {
					old := make([]byte, size)
					copy(old, head)
					copy(old[high*manifest.ExtentSize:], tail)
					sink.Trusted, receive.Trusted, receive.Hint = knownOf(old), true, nil
					receive.Target = target
				}
				a, b := pipe(t)
				counted := &deferrals{Conn: b}
				o := run(t.Context(), a, answering{counted, gate, new(sync.Once)}, send, sink, receive)
				if err := o.err(); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(target.Bytes(), source.Bytes()) {
					t.Error("the target differs")
				}
				if sent := o.send.Sinks[0].Counters.Sent; sent > file*3/100 {
					t.Errorf("%d of %d KiB were sent", sent>>10, file>>10)
				}
				if later := counted.n.Load(); mode == "scan" && later == 0 {
					t.Errorf("%d blocks were left for later", later)
				}
			})
		}
	}
}
