package transfer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

const (
	partSize      = 4 << 10
	partsPerBlock = manifest.BlockSize / partSize
)

// database is a disk of pages that compress as those of databases do.
func database(size int) []byte {
	p := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	few := make([]byte, 64*partSize)
	records(few, r)
	for off := 0; off < size; off += partSize {
		n := copy(p[off:], few[r.IntN(64)*partSize:][:partSize])
		for range 16 { // no two pages are the same
			p[off+r.IntN(n)] = byte(r.Uint32())
		}
	}
	return p
}

// records fills p with records.
func records(p []byte, r *rand.Rand) {
	names := []string{"customer", "order", "status=open", "amount", "NULL", "Berlin", "London"}
	for n := 0; n < len(p); {
		n += copy(p[n:], fmt.Sprintf("%s:%08x|%s|%d\n", names[r.IntN(len(names))], r.Uint32(), names[r.IntN(len(names))], r.IntN(1e6)))
	}
}

// scattered writes one page at random in a share of the blocks.
func scattered(disk []byte, share float64, seed uint64) (changed []byte, pages [][]byte) {
	changed = slices.Clone(disk)
	r := rand.New(rand.NewPCG(seed, 3))
	for off := 0; off+manifest.BlockSize <= len(disk); off += manifest.BlockSize {
		if r.Float64() < share {
			p := changed[off+r.IntN(partsPerBlock)*partSize:][:partSize]
			records(p, r)
			pages = append(pages, p)
		}
	}
	return changed, pages
}

// TestPartsOfDatabase: of pages written at random little more travels than what zstd makes of the pages.
func TestPartsOfDatabase(t *testing.T) {
	target := database(128 << 20)
	source, pages := scattered(target, 0.04, 2)
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	ideal := 0
	for _, p := range pages {
		ideal += len(encoder.EncodeAll(p, nil))
	}
	device := memory(t, target)
	a, b := pipe(t)
	o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, source), Size: device.Size(), Key: key, Tuning: transfer.Tuning{Parts: transfer.PartsOn, Compression: transfer.CompressionOn}},
		transfer.SinkSpec{Trusted: knownOf(target)}, transfer.ReceiveSpec{Target: device, Size: device.Size(), Key: key, Trusted: true})
	if err := o.err(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(device.Bytes(), source) {
		t.Fatal("the target differs from the source")
	}
	c := o.send.Sinks[0].Counters
	t.Logf("%d pages changed, zstd makes %d bytes of them; %d on the wire (%+.1f %%)", len(pages), ideal, c.Wire, 100*(float64(c.Wire)/float64(ideal)-1))
	if c.Wire > int64(ideal)*11/10 {
		t.Errorf("%d bytes on the wire, %d pages need %d", c.Wire, len(pages), ideal)
	}
	if want := int64(len(pages) * partSize); c.Sent != want || c.Spared != int64(len(pages)*manifest.BlockSize)-want {
		t.Errorf("%d bytes sent and %d spared of %d pages", c.Sent, c.Spared, len(pages))
	}
}

// partial is a source and a target whose blocks differ in some parts each, the last block being short.
func partial(t *testing.T, parts ...int) (source []byte, target *blockio.Memory) {
	t.Helper()
	source = random(manifest.ExtentSize+3*manifest.BlockSize+5*partSize+100, 1)
	old := slices.Clone(source)
	for off := 0; off < len(source); off += manifest.BlockSize {
		for _, p := range parts {
			if at := off + p*partSize; at < len(source) {
				old[at] ^= 1
			}
		}
	}
	return source, memory(t, old)
}

// TestPartsThatLookTheSame: when a part that differs has the digest of the old one, the block is asked for once more.
func TestPartsThatLookTheSame(t *testing.T) {
	for _, trusted := range []bool{false, true} {
		t.Run(fmt.Sprintf("trusted %v", trusted), func(t *testing.T) {
			source, target := partial(t, 0, 3)
			var collisions atomic.Int64
			h := key.NewHasher()
			a, b := pipe(t)
			collide := tamperer{b, func(typ netproto.Type, p []byte) []byte {
				if typ != 0x14 || len(p) < 28 {
					return p
				}
				extent, parted := binary.BigEndian.Uint32(p), binary.BigEndian.Uint64(p[20:])
				digests := p[28:]
				for i := range 64 {
					if parted>>i&1 == 0 {
						continue
					}
					off := int(extent)*manifest.ExtentSize + i*manifest.BlockSize
					block := source[off:min(off+manifest.BlockSize, len(source))]
					if i%3 == 0 {
						d := h.Block(block[:partSize])
						copy(digests, d[:2])
						collisions.Add(1)
					}
					digests = digests[(len(block)+partSize-1)/partSize*2:]
				}
				return p
			}}
			sink, receive := transfer.SinkSpec{}, transfer.ReceiveSpec{Target: target, Size: target.Size(), Key: key, Trusted: trusted}
			if trusted {
				sink.Trusted = knownOf(target.Bytes())
			}
			o := run(t.Context(), a, collide, transfer.SendSpec{Source: memory(t, source), Size: target.Size(), Key: key, Tuning: transfer.Tuning{Parts: transfer.PartsOn}}, sink, receive)
			if err := o.err(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(target.Bytes(), source) {
				t.Error("the target differs from the source")
			}
			blocks := (len(source) + manifest.BlockSize - 1) / manifest.BlockSize
			short := len(source) % manifest.BlockSize
			whole := int(collisions.Load())
			want := int64(whole*manifest.BlockSize + (blocks-whole)*2*partSize)
			if last := (blocks - 1) % manifest.BlocksPerExtent; last%3 == 0 {
				want -= int64(manifest.BlockSize - short)
			}
			if c := o.send.Sinks[0].Counters; whole == 0 || c.Sent != want || c.Sent+c.Spared != int64(len(source)) {
				t.Errorf("%d collisions of %d blocks; sent %d, want %d; spared %d", whole, blocks, c.Sent, want, c.Spared)
			}
		})
	}
}

// fickle is a disk that somebody else writes: an old block is another one when it is read again.
type fickle struct {
	*blockio.Memory
	mu   sync.Mutex
	read map[int64]bool
}

func (f *fickle) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.Memory.ReadAt(p, off)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(p) <= manifest.BlockSize && f.read[off] {
		p[len(p)-1] ^= 0x80
	}
	f.read[off] = true
	return n, err
}

// TestPartsOfWhatChanges: a target that changes between the two reads gets whole blocks, and nothing wrong is written.
func TestPartsOfWhatChanges(t *testing.T) {
	source, target := partial(t, 1)
	base := knownOf(target.Bytes())
	device := &fickle{Memory: target, read: make(map[int64]bool)}
	a, b := pipe(t)
	o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, source), Size: target.Size(), Key: key, Tuning: transfer.Tuning{Parts: transfer.PartsOn}},
		transfer.SinkSpec{Trusted: base}, transfer.ReceiveSpec{Target: device, Size: target.Size(), Key: key, Trusted: true})
	if err := o.err(); err != nil {
		t.Fatal(err)
	}
	if c := o.receive.Counters; !bytes.Equal(target.Bytes(), source) || c.Sent != target.Size() || c.Spared != 0 {
		t.Errorf("equal: %v; sent %d, spared %d", bytes.Equal(target.Bytes(), source), c.Sent, c.Spared)
	}
}

// TestWholeBlockInPlaceOfParts: when most parts differ, when the old block is zero, or when the offer does not ask, whole blocks travel.
func TestWholeBlockInPlaceOfParts(t *testing.T) {
	source, changed := partial(t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
	for name, c := range map[string]struct {
		target *blockio.Memory
		parts  transfer.Parts
	}{
		"three quarters differ": {changed, transfer.PartsOn},
		"zero":                  {blockio.NewMemory(int64(len(source))), transfer.PartsOn},
		"off": {func() *blockio.Memory {
			_, few := partial(t, 1)
			return few
		}(), transfer.PartsOff},
	} {
		t.Run(name, func(t *testing.T) {
			wants := make(map[int]bool) // by length
			a, b := pipe(t)
			spy := tamperer{b, func(typ netproto.Type, p []byte) []byte {
				if typ == 0x14 {
					wants[len(p)] = true
				}
				return p
			}}
			o := run(t.Context(), a, spy, transfer.SendSpec{Source: memory(t, source), Size: c.target.Size(), Key: key, Tuning: transfer.Tuning{Parts: c.parts}},
				transfer.SinkSpec{}, transfer.ReceiveSpec{Target: c.target, Size: c.target.Size(), Key: key})
			if err := o.err(); err != nil {
				t.Fatal(err)
			}
			k := o.receive.Counters
			if !bytes.Equal(c.target.Bytes(), source) || k.Sent != c.target.Size() || k.Spared != 0 {
				t.Errorf("equal: %v; sent %d, spared %d", bytes.Equal(c.target.Bytes(), source), k.Sent, k.Spared)
			}
			if asked := len(wants) > 1 || !wants[12]; asked != (name == "three quarters differ") {
				t.Errorf("WANTs of %v bytes", wants)
			}
		})
	}
}

// TestLiesAboutParts: what breaks the rules of parts ends the transfer.
func TestLiesAboutParts(t *testing.T) {
	wanted := func(p []byte) []byte { // as the answer to an offer that allows parts
		blocks := binary.BigEndian.Uint64(p[4:])
		p = append(p[:12:12], make([]byte, 16)...)
		binary.BigEndian.PutUint64(p[20:], blocks)
		n := bits.OnesCount64(blocks) * partsPerBlock
		if binary.BigEndian.Uint32(p) == 1 {
			n -= partsPerBlock - 6 // the last block has six parts
		}
		return append(p, make([]byte, 2*n)...)
	}
	for name, c := range map[string]struct {
		receiver bool // who lies
		t        netproto.Type
		parts    transfer.Parts
		change   func([]byte) []byte
		want     error
	}{
		"parts not asked for": {true, 0x14, transfer.PartsOff, wanted, transfer.ErrProtocol},
		"parts not answered": {false, 0x80, transfer.PartsOff, func(p []byte) []byte {
			p[5] = 1
			clear(p[8:16])
			p[15] = 1
			return append(p[:16:16], append([]byte{0, 1}, p[16:16+partSize]...)...)
		}, transfer.ErrProtocol},
		"wrong content in parts": {false, 0x80, transfer.PartsOn, func(p []byte) []byte { p[len(p)-1] ^= 1; return p }, transfer.ErrMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			source, target := partial(t, 0, 2)
			old := slices.Clone(target.Bytes())
			a, b := pipe(t)
			sender, receiver := transfer.Conn(a), transfer.Conn(b)
			lie := func(typ netproto.Type, p []byte) []byte {
				if typ == c.t {
					return c.change(p)
				}
				return p
			}
			if c.receiver {
				receiver = tamperer{b, lie}
			} else {
				sender = tamperer{a, lie}
			}
			o := run(t.Context(), sender, receiver,
				transfer.SendSpec{Source: memory(t, source), Size: target.Size(), Key: key, Tuning: transfer.Tuning{Parts: c.parts, Compression: transfer.CompressionOff}},
				transfer.SinkSpec{}, transfer.ReceiveSpec{Target: target, Size: target.Size(), Key: key})
			victim := o.recvErr
			if c.receiver {
				victim = o.sendErr
			}
			if !errors.Is(victim, c.want) {
				t.Errorf("the victim says %v, want %v", victim, c.want)
			}
			for off := 0; off < len(source); off += manifest.BlockSize {
				end := min(off+manifest.BlockSize, len(source))
				if got := target.Bytes()[off:end]; !bytes.Equal(got, old[off:end]) && !bytes.Equal(got, source[off:end]) {
					t.Fatalf("wrong content was written at %d", off)
				}
			}
		})
	}
}

// insistent asks for every block again that it got whole.
type insistent struct{ transfer.Conn }

func (c insistent) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	if err := c.Conn.WriteFrame(ctx, t, payload...); err != nil || t != 0x14 {
		return err
	}
	return c.Conn.WriteFrame(ctx, t, payload...)
}

// TestAskingTwice: a sink may not ask again for what it got whole.
func TestAskingTwice(t *testing.T) {
	source := random(manifest.ExtentSize, 1)
	a, b := pipe(t)
	o := run(t.Context(), a, insistent{b}, transfer.SendSpec{Source: memory(t, source), Size: int64(len(source)), Key: key}, transfer.SinkSpec{},
		transfer.ReceiveSpec{Target: blockio.NewMemory(int64(len(source))), Size: int64(len(source)), Key: key})
	if !errors.Is(o.sendErr, transfer.ErrProtocol) {
		t.Errorf("the sender says %v, want ErrProtocol", o.sendErr)
	}
}

// thin is a line of so many bytes a second, which swallows a second's worth at once.
type thin struct {
	transfer.Conn
	rate float64

	mu   sync.Mutex
	free time.Time
}

func (c *thin) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	n := 0
	for _, p := range payload {
		n += len(p)
	}
	c.mu.Lock()
	if now := time.Now(); c.free.Before(now.Add(-time.Second)) {
		c.free = now.Add(-time.Second)
	}
	c.free = c.free.Add(time.Duration(float64(n) / c.rate * float64(time.Second)))
	wait := time.Until(c.free)
	c.mu.Unlock()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.Conn.WriteFrame(ctx, t, payload...)
}

// TestThinLine: over a line that is slow beside the cores, parts travel, and compressed, without being told to.
func TestThinLine(t *testing.T) {
	target := database(48 << 20)
	source, pages := scattered(target, 1, 2)
	device := memory(t, target)
	a, b := pipe(t)
	o := run(t.Context(), &thin{Conn: a, rate: 512 << 10}, b, transfer.SendSpec{Source: memory(t, source), Size: device.Size(), Key: key}, transfer.SinkSpec{},
		transfer.ReceiveSpec{Target: device, Size: device.Size(), Key: key})
	if err := o.err(); err != nil {
		t.Fatal(err)
	}
	c := o.send.Sinks[0].Counters
	if !bytes.Equal(device.Bytes(), source) || c.Sent != int64(len(pages)*partSize) {
		t.Errorf("equal: %v; %d bytes were sent for %d pages", bytes.Equal(device.Bytes(), source), c.Sent, len(pages))
	}
	if c.Levels[transfer.LevelRaw] > c.Sent/10 {
		t.Errorf("content by level: %v", c.Levels)
	}
}
