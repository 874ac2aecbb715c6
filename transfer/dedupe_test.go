package transfer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/transfer"
)

// blocksOf returns a disk of which each block's content has a number; 0 is zero.
func blocksOf(numbers []uint16) []byte {
	p := make([]byte, len(numbers)*manifest.BlockSize)
	fill(p, numbers)
	return p
}

// fill puts the contents of as many blocks into p as it has room for.
func fill(p []byte, numbers []uint16) {
	for _, n := range numbers[:len(p)/manifest.BlockSize] {
		block := p[:manifest.BlockSize]
		p = p[manifest.BlockSize:]
		if n == 0 {
			clear(block)
			continue
		}
		copy(block, filling)
		for at := 0; at < len(block); at += 4096 { // every part is another one
			binary.LittleEndian.PutUint64(block[at:], uint64(n)<<32|uint64(at))
		}
	}
}

var filling = random(manifest.BlockSize, 9)

// drawMoved draws a target, and a source that holds much of it elsewhere.
func drawMoved(t *rapid.T) (source, target, seed []uint16) {
	const extents = 4
	rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	fresh := uint16(0)
	next := func() uint16 { fresh++; return fresh }
	size := rapid.IntRange(1, extents*manifest.BlocksPerExtent).Draw(t, "blocks")
	target = make([]uint16, size)
	for i := range target {
		switch rnd.IntN(10) {
		case 0:
		case 1:
			target[i] = uint16(1 + rnd.IntN(max(1, int(fresh)))) // again
		default:
			target[i] = next()
		}
	}
	source = slices.Clone(target)
	seed = make([]uint16, rapid.IntRange(1, extents*manifest.BlocksPerExtent).Draw(t, "seed's blocks"))
	for i := range seed {
		seed[i] = next()
	}
	for range rapid.IntRange(0, 6).Draw(t, "changes") {
		n := 1 + rnd.IntN(size)
		from, to := rnd.IntN(size-n+1), rnd.IntN(size-n+1)
		switch rapid.SampledFrom([]string{"move", "shift", "new", "zero", "repeat", "seed"}).Draw(t, "change") {
		case "move":
			copy(source[to:to+n], target[from:from+n])
		case "shift":
			copy(source[to:], target[min(size, to+1+rnd.IntN(4)):])
		case "new":
			for i := range min(n, 20) {
				source[to+i] = next()
			}
		case "zero":
			clear(source[to : to+n])
		case "repeat":
			for i := range n {
				source[to+i] = target[from]
			}
		case "seed":
			copy(source[to:to+n], seed[rnd.IntN(len(seed)):])
		}
	}
	return source, target, seed
}

// nowhere counts the contents that must travel, each once: those that neither
// seeds hold nor the target, at a place that stays as it is, or that is overwritten
// only with a later extent.
func nowhere(source, target, seed []uint16) (blocks int) {
	held := map[uint16]int{} // content → the last extent for which it is there
	const always = 1 << 30
	for _, n := range seed {
		held[n] = always
	}
	for i, n := range target {
		if source[i] == n {
			held[n] = always
		} else if last, ok := held[n]; !ok || last < i/manifest.BlocksPerExtent-1 {
			held[n] = i/manifest.BlocksPerExtent - 1
		}
	}
	sent := map[uint16]bool{}
	for i, n := range source {
		if n == 0 || target[i] == n || sent[n] {
			continue
		}
		if last, ok := held[n]; !ok || last < i/manifest.BlocksPerExtent {
			sent[n] = true
			blocks++
		} else {
			held[n] = always
		}
	}
	return blocks
}

// TestDedupeProperty: whatever moved, and however little may be remembered or wait,
// the target becomes the source; and while there is room, only content travels that is
// nowhere at the receiver.
func TestDedupeProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source, target, seed := drawMoved(t)
		mode := rapid.SampledFrom([]string{"scan", "trusted", "zero"}).Draw(t, "mode")
		if mode == "zero" {
			clear(target)
		}
		tuning := transfer.Tuning{
			Memory: transfer.MinMemory,
			Index:  rapid.SampledFrom([]int64{0, 1, 1 << 10}).Draw(t, "index"),
			Defer:  rapid.SampledFrom([]int64{0, -1, manifest.BlockSize, 20 * manifest.BlockSize}).Draw(t, "defer"),
		}
		from, to := blocksOf(source), blocksOf(target)
		send := transfer.SendSpec{Source: memory(t, from), Size: int64(len(from)), Key: key, Tuning: tuning}
		device := memory(t, to)
		receive := transfer.ReceiveSpec{Target: device, Size: send.Size, Key: key, Tuning: tuning}
		sink := transfer.SinkSpec{}
		switch mode {
		case "trusted":
			sink.Trusted, receive.Trusted = knownOf(to), true
		case "zero":
			sink.Trusted, receive.Trusted = transfer.ZeroBaseline(key, send.Size), true
		}
		switch rapid.SampledFrom([]string{"no", "to be read", "known"}).Draw(t, "seeded") {
		case "no":
			seed = nil
		case "to be read":
			receive.Seeds = []transfer.Seed{{Source: memory(t, blocksOf(seed)), Size: int64(len(seed)) * manifest.BlockSize}}
		case "known":
			receive.Seeds = []transfer.Seed{{Source: memory(t, blocksOf(seed)), Size: int64(len(seed)) * manifest.BlockSize, Digests: viewOf(blocksOf(seed))}}
		}
		a, b := pipe(t)
		o := run(context.Background(), a, b, send, sink, receive)
		if err := o.err(); err != nil {
			t.Fatalf("transfer: %v", err)
		}
		if !bytes.Equal(content(t, device), from) {
			t.Fatalf("the target differs from the source")
		}
		c := o.send.Sinks[0].Counters
		if got := c.Same + c.Zero + c.Copied + c.Sent; got != send.Size || c.Processed != send.Size || o.receive.Counters.Processed != send.Size {
			t.Fatalf("the verdicts add up to %d, processed are %d and %d of %d", got, c.Processed, o.receive.Counters.Processed, send.Size)
		}
		if want := int64(nowhere(source, target, seed)) * manifest.BlockSize; tuning.Index == 0 && tuning.Defer == 0 && c.Sent > want {
			t.Fatalf("%d blocks were sent, %d are nowhere at the receiver; source %v, target %v, seed %v", c.Sent/manifest.BlockSize, want/manifest.BlockSize, source, target, seed)
		}
	})
}

// TestMovedFile: a file that was moved inside the disk is hardly sent, in either
// direction, in both modes, though the index knows but one block in some.
func TestMovedFile(t *testing.T) {
	const blocks, file = 38 * manifest.BlocksPerExtent, 3 * manifest.BlocksPerExtent
	const low, high = 131, blocks - file - 27
	disk := newBlocks(1, blocks)
	clear(disk[7*manifest.BlocksPerExtent : 33*manifest.BlocksPerExtent]) // which is quickly hashed
	move := func(to, from int, old []uint16) []uint16 {
		source := slices.Clone(disk)
		copy(source[from:from+file], old)
		copy(source[to:to+file], disk[from:])
		return source
	}
	for name, c := range map[string]struct {
		source []uint16
		index  int64
		limit  int64
	}{
		"backward, old place kept":    {move(low, high, nil), 0, 0},
		"backward, old place zeroed":  {move(low, high, make([]uint16, file)), 0, 0},
		"forward, old place kept":     {move(high, low, nil), 0, file / 100 * manifest.BlockSize},
		"forward, with a small index": {move(high, low, nil), 6 << 10, manifest.ExtentSize}, // what comes before the first find
	} {
		for _, trusted := range []bool{false, true} {
			mode := map[bool]string{false: "scan", true: "trusted"}[trusted]
			t.Run(name+"/"+mode, func(t *testing.T) {
				// The scan is only just ahead of the offers.
				device := newTape(disk, 32*manifest.ExtentSize)
				tuning := transfer.Tuning{Index: c.index, Memory: transfer.MinMemory}
				send := transfer.SendSpec{Source: newTape(c.source, 1<<40), Size: device.Size(), Key: key, Tuning: tuning}
				receive := transfer.ReceiveSpec{Target: device, Size: device.Size(), Key: key, Tuning: tuning}
				sink := transfer.SinkSpec{}
				if trusted {
					sink.Trusted, receive.Trusted = knownOf(blocksOf(disk)), true
				}
				a, b := pipe(t)
				counted := &deferrals{Conn: b}
				o := run(t.Context(), a, counted, send, sink, receive)
				if err := o.err(); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(device.numbers, c.source) {
					t.Error("the target differs")
				}
				if sent := o.send.Sinks[0].Counters.Sent; sent > c.limit {
					t.Errorf("%d blocks were sent of %d that were moved", sent/manifest.BlockSize, file)
				}
				if backward := name[0] == 'b'; backward && (counted.n.Load() > 0) != !trusted {
					t.Errorf("%d blocks were left for later", counted.n.Load())
				}
			})
		}
	}
}
