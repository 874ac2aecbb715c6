package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/transfer"
)

// marks maps the blocks for which want returns true.
func marks(size int, want func(off, end int) bool) *blockio.AllocationMap {
	m := blockio.NewAllocationMap(int64(size))
	for off := 0; off < size; off += manifest.BlockSize {
		if end := min(off+manifest.BlockSize, size); want(off, end) {
			m.Mark(int64(off), 1)
		}
	}
	return m
}

// changes marks the blocks in which two contents differ; allocated those that are not zero.
func changes(a, b []byte) *blockio.AllocationMap {
	return marks(len(a), func(off, end int) bool { return !bytes.Equal(a[off:end], b[off:end]) })
}

func allocated(p []byte) *blockio.AllocationMap {
	return marks(len(p), func(off, end int) bool { return !manifest.IsZero(p[off:end]) })
}

// TestHintProperty: whatever is hinted, truly, and however the baseline is known, the target becomes the source and the root
// is that of the source; on either side no more is read than what is marked, the slice and what the conversation needs.
func TestHintProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source, base := drawDisks(t)
		var hint transfer.Hint
		if rapid.Bool().Draw(t, "changed") {
			hint.Changed, hint.Base = changes(source, base), knownOf(base)
		}
		if rapid.Bool().Draw(t, "allocated") {
			hint.Allocated = allocated(source)
		}
		for _, m := range []*blockio.AllocationMap{hint.Changed, hint.Allocated} {
			if m != nil && rapid.Bool().Draw(t, "superset") { // as changed block tracking gives it
				m.Mark(rapid.Int64Range(0, m.Size()).Draw(t, "off"), rapid.Int64Range(0, m.Size()).Draw(t, "length"))
			}
		}
		hint.Slice = rapid.Uint32().Draw(t, "slice")

		target := base
		if rapid.IntRange(0, 4).Draw(t, "other target") == 0 {
			_, target = drawDisks(t)
			target = append(target, make([]byte, len(source))...)[:len(source)]
		}
		from, to := blockio.NewMeter(memory(t, source)), memory(t, target)
		var sent, received journal
		known := knownOf(target)
		send := transfer.SendSpec{Source: from, Hint: &hint, Size: int64(len(source)), Key: key, Known: known.extents}
		sink := transfer.SinkSpec{Records: sent.take}
		receive := transfer.ReceiveSpec{Target: to, Size: send.Size, Key: key}
		trusted := rapid.Bool().Draw(t, "trusted")
		if trusted {
			sink.Trusted, receive.Trusted = known, true
		} else {
			receive.Known, receive.Records = known.extents, received.take
			if rapid.Bool().Draw(t, "target's hint") {
				receive.Hint = &transfer.Hint{Allocated: allocated(target), Changed: changes(target, base), Base: knownOf(base)}
			}
		}
		a, b := pipe(t)
		o := run(context.Background(), a, b, send, sink, receive)
		if err := o.err(); err != nil {
			t.Fatalf("transfer: %v", err)
		}
		if !bytes.Equal(content(t, to), source) {
			t.Fatalf("the target differs from the source")
		}
		root, _, _ := manifestOf(source)
		if o.send.Root != root || !trusted && o.receive.Root != root {
			t.Fatalf("roots %v and %v, want %v", o.send.Root, o.receive.Root, root)
		}
		if got := sent.compose(known.extents, len(source)); got != root {
			t.Fatalf("the sender's records compose to %v, want %v", got, root)
		}
		if !trusted && received.compose(known.extents, len(source)) != root {
			t.Fatalf("the receiver's records do not compose to %v", root)
		}
		if o.send.Hint.Disabled != nil || o.receive.Hint.Disabled != nil {
			t.Fatalf("true hints were disabled: %v, %v", o.send.Hint.Disabled, o.receive.Hint.Disabled)
		}
		checkReads(t, from, hint, len(source), o.send, bytes.Equal(target, base))
	})
}

// checkReads: what was read and what was assumed make up the disk, and what was assumed is no less than the hint allows.
func checkReads(t *rapid.T, from *blockio.Meter, hint transfer.Hint, size int, got transfer.SendResult, sameAsBase bool) {
	marked := blockio.NewAllocationMap(int64(size))
	marked.Mark(0, int64(size))
	for _, m := range []*blockio.AllocationMap{hint.Changed, hint.Allocated} {
		if m != nil {
			if err := marked.Intersect(m); err != nil {
				t.Fatalf("%v", err)
			}
		}
	}
	read := from.Counters().ReadBytes
	slice := int64(size) - marked.Bytes() - got.Hint.Assumed // read of what is not marked
	if got.Hint.Assumed < 0 || slice < 0 || slice > manifest.ExtentSize {
		t.Fatalf("%d bytes were assumed; %d of %d are marked, and the slice has an extent", got.Hint.Assumed, marked.Bytes(), size)
	}
	if sameAsBase && hint.Changed != nil && read != marked.Bytes()+slice {
		t.Fatalf("%d bytes were read, want the %d that are marked and %d of the slice", read, marked.Bytes(), slice)
	}
}

// TestHintMissesABit: a hint without a block that changed is noticed when the slice comes to it, and then the run is as good as
// one without.
func TestHintMissesABit(t *testing.T) {
	for name, lie := range map[string]func(hint *transfer.Hint, source, base []byte){
		"changed": func(hint *transfer.Hint, source, base []byte) {
			hint.Base, hint.Changed = knownOf(base), marks(len(base), func(off, _ int) bool { return off < manifest.ExtentSize })
		},
		"changed, extent in part": func(hint *transfer.Hint, source, base []byte) {
			hint.Base = knownOf(base)
			hint.Changed = marks(len(base), func(off, _ int) bool { return off/manifest.BlockSize == 2*manifest.BlocksPerExtent+9 })
		},
		"allocated": func(hint *transfer.Hint, source, base []byte) {
			hint.Allocated = marks(len(base), func(off, _ int) bool { return off < manifest.ExtentSize })
		},
	} {
		t.Run(name, func(t *testing.T) {
			base := make([]byte, 4*manifest.ExtentSize)
			copy(base, random(manifest.ExtentSize, 1))
			source := slices.Clone(base)
			source[2*manifest.ExtentSize+5*manifest.BlockSize] = 1
			for slice := range uint32(4) {
				hint := transfer.Hint{Slice: slice}
				lie(&hint, source, base)
				target := memory(t, base)
				meter := blockio.NewMeter(memory(t, source))
				a, b := pipe(t)
				o := run(t.Context(), a, b, transfer.SendSpec{Source: meter, Hint: &hint, Size: int64(len(source)), Key: key},
					transfer.SinkSpec{Trusted: knownOf(base)}, transfer.ReceiveSpec{Target: target, Size: int64(len(source)), Key: key, Trusted: true})
				if o.err() != nil {
					t.Fatal(o.err())
				}
				root, _, _ := manifestOf(source)
				var wrong *transfer.HintError
				switch noticed := slice == 2; {
				case noticed && (!errors.As(o.send.Hint.Disabled, &wrong) || wrong.Extent != 2 || !errors.Is(wrong, transfer.ErrMismatch)):
					t.Errorf("slice %d: disabled by %v, want extent 2", slice, o.send.Hint.Disabled)
				case noticed && (o.send.Root != root || !bytes.Equal(target.Bytes(), source) || o.send.Hint.Assumed != 0):
					t.Errorf("slice %d: not everything was read: %+v", slice, o.send.Hint)
				case !noticed && (o.send.Hint.Assumed == 0 || meter.Counters().ReadBytes >= int64(len(source))):
					t.Errorf("slice %d: %+v after %d bytes", slice, o.send.Hint, meter.Counters().ReadBytes)
				}
			}
		})
	}
}

// zeroes is a disk that reads as zeroes, but for a byte, and notes which extents were read.
type zeroes struct {
	size int64
	odd  int64 // where a byte is not zero; 0: nowhere
	mu   sync.Mutex
	read map[int64]int64 // extent → bytes
}

func (z *zeroes) Size() int64 { return z.size }

func (z *zeroes) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if at := z.odd - off; z.odd > 0 && at >= 0 && at < int64(len(p)) {
		p[at] = 1
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.read[off/manifest.ExtentSize] += int64(len(p))
	return len(p), nil
}

// TestRollingSlice: each run reads a 64th of the disk's extents, and so many runs all that is assumed.
func TestRollingSlice(t *testing.T) {
	const size = 65*manifest.ExtentSize + 5000
	all := map[int64]bool{}
	hint := transfer.Hint{Allocated: blockio.NewAllocationMap(size), Slice: 77}
	hint.Allocated.Mark(10*manifest.ExtentSize, 20*manifest.ExtentSize)
	want, _ := transfer.Scan(t.Context(), transfer.ScanSpec{Source: &zeroes{size: size, read: map[int64]int64{}}, Size: size, Key: key})
	for range 33 {
		disk := &zeroes{size: size, read: map[int64]int64{}}
		got, err := transfer.Scan(t.Context(), transfer.ScanSpec{Source: disk, Hint: &hint, Size: size, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		for e, n := range disk.read {
			all[e] = true
			total += n
		}
		if len(disk.read) > 20+2 || got.Root != want.Root || got.Hint.Assumed+total != size {
			t.Fatalf("%d extents were read, %d bytes assumed, %d read, root %v", len(disk.read), got.Hint.Assumed, total, got.Root)
		}
		hint.Slice = got.Hint.Slice
	}
	if len(all) != 66 {
		t.Errorf("33 runs read %d extents of 66", len(all))
	}
}

// counted counts what is asked of a baseline.
type counted struct {
	*known
	mu    sync.Mutex
	asked map[uint32]int
}

func (c *counted) Blocks(ctx context.Context, e uint32) ([]manifest.Digest, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked[e]++
	return c.known.Blocks(ctx, e)
}

// TestHintBudget: of a disk of which little changed, little is read, and block digests come once for each extent that changed.
func TestHintBudget(t *testing.T) {
	const extents = 24
	base := random(extents*manifest.ExtentSize, 1)
	source := slices.Clone(base)
	rnd := rand.New(rand.NewPCG(1, 2))
	touched := map[uint32]bool{}
	for range 20 {
		b := rnd.IntN(extents * manifest.BlocksPerExtent)
		source[b*manifest.BlockSize] ^= 1
		touched[uint32(b/manifest.BlocksPerExtent)] = true
	}
	meter, target := blockio.NewMeter(memory(t, source)), memory(t, base)
	manifest := &counted{known: knownOf(base), asked: map[uint32]int{}}
	hint := transfer.Hint{Changed: changes(source, base), Base: manifest, Slice: extents - 1}
	a, b := pipe(t)
	o := run(t.Context(), a, b, transfer.SendSpec{Source: meter, Hint: &hint, Size: int64(len(source)), Key: key, Known: manifest.extents},
		transfer.SinkSpec{Trusted: manifest, Records: new(journal).take}, transfer.ReceiveSpec{Target: target, Size: int64(len(source)), Key: key, Trusted: true})
	if o.err() != nil || !bytes.Equal(target.Bytes(), source) {
		t.Fatalf("%v; equal: %v", o.err(), bytes.Equal(target.Bytes(), source))
	}
	const slice = 4 << 20
	if read := meter.Counters().ReadBytes; read > hint.Changed.Bytes()*102/100+slice {
		t.Errorf("%d bytes were read, %d changed", read, hint.Changed.Bytes())
	}
	delete(manifest.asked, extents-1) // the slice's
	for e, n := range manifest.asked {
		if n != 1 || !touched[e] {
			t.Errorf("the block digests of extent %d were asked for %d times", e, n)
		}
	}
}

// TestHintOverGaps: what a manifest does not know is read, and the rest is spared, whatever the sink is taken for.
func TestHintOverGaps(t *testing.T) {
	const extents, gap = 6, 2
	base := random(extents*manifest.ExtentSize, 1)
	source := slices.Clone(base)
	source[gap*manifest.ExtentSize+7] ^= 1
	source[4*manifest.ExtentSize] ^= 1
	for _, trusted := range []bool{true, false} {
		hint := transfer.Hint{Changed: changes(source, base), Slice: gap}
		hint.Changed.Mark(gap*manifest.ExtentSize, manifest.ExtentSize)
		gaps := knownOf(base)
		gaps.extents[gap] = manifest.Digest{}
		hint.Base = gaps
		meter, target := blockio.NewMeter(memory(t, source)), memory(t, base)
		sink := transfer.SinkSpec{}
		if trusted {
			sink.Trusted = gaps
		}
		a, b := pipe(t)
		o := run(t.Context(), a, b, transfer.SendSpec{Source: meter, Hint: &hint, Size: int64(len(source)), Key: key}, sink,
			transfer.ReceiveSpec{Target: target, Size: int64(len(source)), Key: key, Trusted: trusted})
		root, _, _ := manifestOf(source)
		if o.err() != nil || !bytes.Equal(target.Bytes(), source) || o.send.Root != root {
			t.Errorf("trusted %v: %v; equal: %v", trusted, o.err(), bytes.Equal(target.Bytes(), source))
		}
		if read := meter.Counters().ReadBytes; read != 2*manifest.ExtentSize+manifest.BlockSize {
			t.Errorf("trusted %v: %d bytes were read", trusted, read)
		}
	}
}

// TestHintThatLiesIsFound: whichever block of a disk a bitmap leaves out, the slices of 64 runs find it, wherever they begin and
// whatever else is marked, which is no part of them.
func TestHintThatLiesIsFound(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, extents := range []int64{1, 2, 63, 64, 65, 100} {
		size := extents*manifest.ExtentSize - rnd.Int64N(3*manifest.BlockSize)
		disk := &zeroes{size: size, read: map[int64]int64{}, odd: 1 + rnd.Int64N(size-1)}
		hint := transfer.Hint{Changed: blockio.NewAllocationMap(size), Base: transfer.ZeroBaseline(key, size), Slice: rnd.Uint32()}
		for range rnd.IntN(4) {
			if at := rnd.Int64N(extents) * manifest.ExtentSize; at/manifest.ExtentSize != disk.odd/manifest.ExtentSize {
				hint.Changed.Mark(at, manifest.ExtentSize)
			}
		}
		for run := 1; ; run++ {
			got, err := transfer.Scan(t.Context(), transfer.ScanSpec{Source: disk, Hint: &hint, Size: size, Key: key})
			if err != nil {
				t.Fatal(err)
			}
			if got.Hint.Disabled != nil {
				if got.Hint.Assumed != 0 {
					t.Errorf("%d extents: %d bytes were assumed in the run that found the lie", extents, got.Hint.Assumed)
				}
				break
			}
			if run == 64 {
				t.Fatalf("%d extents: 64 runs did not find the byte at %d", extents, disk.odd)
			}
			hint.Slice = got.Hint.Slice
		}
	}
}

// TestHintRefused: a hint that cannot be of the disk is an error before anything is read.
func TestHintRefused(t *testing.T) {
	const size = 2 * manifest.ExtentSize
	gaps := knownOf(make([]byte, size))
	gaps.extents[1] = manifest.Digest{}
	for name, hint := range map[string]transfer.Hint{
		"map of another size":      {Allocated: blockio.NewAllocationMap(size + 1)},
		"no base":                  {Changed: blockio.NewAllocationMap(size)},
		"base of another size":     {Changed: blockio.NewAllocationMap(size), Base: knownOf(make([]byte, 3*size))},
		"base with unknown extent": {Changed: blockio.NewAllocationMap(size), Base: gaps},
	} {
		meter := blockio.NewMeter(blockio.NewMemory(size))
		a, b := pipe(t)
		o := run(t.Context(), a, b, transfer.SendSpec{Source: meter, Hint: &hint, Size: size, Key: key}, transfer.SinkSpec{},
			transfer.ReceiveSpec{Target: blockio.NewMemory(size), Size: size, Key: key})
		if !errors.Is(o.sendErr, transfer.ErrTask) || o.recvErr == nil || meter.Counters().ReadBytes > 0 {
			t.Errorf("%s: %v, %v after %d bytes", name, o.sendErr, o.recvErr, meter.Counters().ReadBytes)
		}
	}
}
