package transfer

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// maxContent is the most that one DATA unpacks to.
const maxContent = gatherBlocks * manifest.BlockSize

// Level says how content travels.
type Level string

// The levels, from the least work to the most.
const (
	LevelRaw     Level = "raw"
	LevelFastest Level = "fastest"
	LevelDefault Level = "default"
	LevelBetter  Level = "better"
)

// level is an index into levels.
type level int

const (
	raw level = iota
	fastest
	standard
	better
	levelCount
)

var levels = [levelCount]struct {
	name Level
	zstd zstd.EncoderLevel
}{{name: LevelRaw}, {LevelFastest, zstd.SpeedFastest}, {LevelDefault, zstd.SpeedDefault}, {LevelBetter, zstd.SpeedBetterCompression}}

// encoderPool lends encoders. An encoder takes up to encoderBytes, so all transfers of the process share as many as there are cores to run
// them and memory to hold them, whatever their levels are.
type encoderPool struct {
	turns chan struct{} // one for each encoder that may exist
	mu    sync.Mutex
	idle  []leveledEncoder
}

type leveledEncoder struct {
	level level
	*zstd.Encoder
}

// encoderBytes is what an encoder takes at the highest level.
const encoderBytes = 6 << 20

// encoders is made when it is first needed: a main program has set its memory limit by then.
var encoders = sync.OnceValue(func() *encoderPool { return &encoderPool{turns: make(chan struct{}, maxPackers())} })

// maxPackers is how many cores compress, for all transfers together. Where the runtime's memory is limited, encoders take up to a sixth of it.
func maxPackers() int {
	fit := debug.SetMemoryLimit(-1) / 6 / encoderBytes
	return int(max(1, min(int64(runtime.GOMAXPROCS(0)), 4, fit)))
}

// parcelBytes is how much content is packed at once for a transfer that has so much memory. A parcel takes it twice, as it is and packed.
func parcelBytes(memory int64) int {
	if scarce(memory) {
		return maxContent / 2
	}
	return maxContent
}

// packers is how many goroutines compress for a transfer that has so much memory.
func packers(memory int64) int {
	if scarce(memory) {
		return 1
	}
	return maxPackers()
}

// take waits for an encoder.
func (p *encoderPool) take(ctx context.Context, l level) (leveledEncoder, error) {
	select {
	case p.turns <- struct{}{}:
	case <-ctx.Done():
		return leveledEncoder{}, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, e := range p.idle {
		if e.level == l {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			return e, nil
		}
	}
	if len(p.idle) > 0 && len(p.idle)+len(p.turns) > cap(p.turns) {
		p.idle = p.idle[1:] // gives way to one of another level
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(levels[l].zstd), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false), zstd.WithWindowSize(maxContent))
	if err != nil {
		<-p.turns
		return leveledEncoder{}, err
	}
	return leveledEncoder{l, e}, nil
}

func (p *encoderPool) giveBack(e leveledEncoder) {
	p.mu.Lock()
	p.idle = append(p.idle, e)
	p.mu.Unlock()
	<-p.turns
}

// packer compresses the content of DATA when that makes the transfer faster, at the level that its pace chooses. One goroutine uses it.
type packer struct {
	pace     *pace
	progress *Progress
	sample   []byte
	out      [2][]byte
	packed   [1][]byte
}

// A sample of long content tells whether it is worth compressing at all: a few pieces of it, so that mixed content is seen as such. It is taken where
// the cores are the bottleneck: encoders pass over noise fast enough for a line that is.
const (
	samplePieces = 4
	samplePiece  = 4 << 10
	sampleFrom   = 2 * manifest.BlockSize // shorter content is tried as a whole
)

// worthwhile is the longest that content packed at a level may be to travel packed. The higher ones are for lines that are slower than the
// cores, on which every byte counts.
func worthwhile(l level, content int) int {
	if l == fastest {
		return content * 15 / 16
	}
	return content * 127 / 128
}

// pack returns the content as it shall travel. The result is valid until the next call.
func (k *packer) pack(ctx context.Context, c *content) (level, [][]byte, error) {
	k.out[1] = nil // trials are rare
	l, trial := k.pace.choose(c.length)
	if l == raw {
		return raw, c.pieces, nil
	}
	if l == fastest && c.length >= sampleFrom {
		k.sample = slices.Grow(k.sample[:0], samplePieces*samplePiece)[:samplePieces*samplePiece]
		for i := range samplePieces {
			c.copyAt(k.sample[i*samplePiece:][:samplePiece], i*(c.length/samplePieces))
		}
		out, _, err := k.compress(ctx, fastest, k.sample, k.out[0])
		if err != nil {
			return raw, nil, err
		}
		if k.out[0] = out; len(out) > worthwhile(l, len(k.sample)) {
			return raw, c.pieces, nil
		}
	}
	content := c.joined()
	out, took, err := k.compress(ctx, l, content, k.out[0])
	if err != nil {
		return raw, nil, err
	}
	k.out[0] = out
	if len(out) > worthwhile(l, len(content)) { // nothing that pace shall judge other content by
		return raw, c.pieces, nil
	}
	k.pace.packed(l, len(content), len(out), took)
	if trial != raw && trial != l {
		other, took, err := k.compress(ctx, trial, content, k.out[1])
		if err != nil {
			return raw, nil, err
		}
		k.out[1] = other
		k.pace.tried(l, trial, len(content), len(out), len(other), took)
		if len(other) < len(out) {
			l, out = trial, other
		}
	}
	k.packed[0] = out
	return l, k.packed[:], nil
}

// compress appends to out[:0]. The time it took has the wait for an encoder in it: cores that others use are no cores.
func (k *packer) compress(ctx context.Context, l level, content, out []byte) ([]byte, time.Duration, error) {
	asked := time.Now()
	e, err := encoders().take(ctx, l)
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	out = e.EncodeAll(content, out[:0])
	encoders().giveBack(e)
	k.progress.spend(StageCompress, start)
	return out, time.Since(asked), nil
}

// unpacker is the receiver's side; one goroutine uses it.
type unpacker struct {
	decoder *zstd.Decoder
	buffer  []byte
}

// unpack returns the content of a packed DATA, which must have length bytes. It is valid until the next call.
func (u *unpacker) unpack(packed []byte, length int, p *Progress) ([]byte, error) {
	if u.decoder == nil {
		var err error
		// The decoder refuses what would unpack to more, before it takes memory.
		u.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(maxContent), zstd.WithDecoderMaxWindow(maxContent))
		if err != nil {
			return nil, err
		}
		u.buffer = blockio.AlignedBuffer(maxContent)
	}
	start := time.Now()
	out, err := u.decoder.DecodeAll(packed, u.buffer[:0])
	p.spend(StageCompress, start)
	if err != nil {
		return nil, fmt.Errorf("%w: unpack DATA: %w", ErrProtocol, err)
	}
	if len(out) != length {
		return nil, malformed("DATA", "it unpacks to %d bytes; its blocks have %d", len(out), length)
	}
	return out, nil
}

func (u *unpacker) close() {
	if u.decoder != nil {
		u.decoder.Close()
	}
}
