package transfer

import (
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/understudy-dr/understudy/manifest"
)

// maxContent is the most that one DATA unpacks to.
const maxContent = gatherBlocks * manifest.BlockSize

// packer compresses the content of DATA when that makes the transfer faster. It
// is used by one goroutine.
//
// It compares two measured rates, in bytes of content a second: that of the
// line, and that of compressing and sending the smaller result. Content that
// does not shrink is sent as it is, and then fewer samples are taken.
type packer struct {
	mode    Compression
	encoder *zstd.Encoder
	out     []byte

	line     rate // wire bytes a second
	compress rate // content bytes a second of one core
	ratio    float64
	skip     int // frames to send raw before the next sample
	backoff  int
}

// maxBackoff bounds the frames between two samples.
const maxBackoff = 64

func newPacker(mode Compression) *packer {
	if mode == "" {
		mode = CompressionAuto
	}
	return &packer{mode: mode, ratio: 1}
}

// pack returns the content as it shall travel. The result is valid until the
// next call.
func (k *packer) pack(content []byte, p *Progress) (encoding, []byte, error) {
	if k.mode == CompressionOff || (k.mode == CompressionAuto && !k.worthwhile()) {
		return encodingRaw, content, nil
	}
	if k.encoder == nil {
		var err error
		k.encoder, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false), zstd.WithWindowSize(maxContent))
		if err != nil {
			return 0, nil, err
		}
	}
	start := time.Now()
	k.out = k.encoder.EncodeAll(content, k.out[:0])
	took := time.Since(start)
	p.spent(StageCompress, took)
	k.compress.add(len(content), took)
	ratio := float64(len(k.out)) / float64(len(content))
	k.ratio += (ratio - k.ratio) / 4
	if len(k.out) >= len(content)*15/16 {
		k.backoff = min(max(1, 2*k.backoff), maxBackoff)
		k.skip = k.backoff
		return encodingRaw, content, nil
	}
	k.backoff = 0
	return encodingZstd, k.out, nil
}

// sent tells how long the line took for so many bytes.
func (k *packer) sent(n int, took time.Duration) { k.line.add(n, took) }

// worthwhile decides for one DATA.
func (k *packer) worthwhile() bool {
	if k.skip > 0 {
		k.skip--
		return false
	}
	line, known := k.line.value()
	if !known {
		return false // the first blocks measure the line
	}
	compress, known := k.compress.value()
	if !known {
		// A sample is worth its time on all but the fastest lines.
		return line < 200<<20
	}
	return min(compress, line/k.ratio) > line
}

// rate is a moving average of bytes a second.
type rate struct{ bytes, seconds float64 }

func (r *rate) add(n int, took time.Duration) {
	const keep = 0.9
	r.bytes = r.bytes*keep + float64(n)
	r.seconds = r.seconds*keep + took.Seconds()
}

// value is known after a megabyte or so.
func (r *rate) value() (float64, bool) {
	return r.bytes / max(r.seconds, 1e-9), r.bytes > 1<<20
}

// unpacker is the receiver's side; one goroutine uses it.
type unpacker struct{ decoder *zstd.Decoder }

// unpack puts the content of a DATA, which must have length bytes, into dst,
// which has room for maxContent.
func (u *unpacker) unpack(dst []byte, e encoding, packed []byte, length int, p *Progress) ([]byte, error) {
	if e == encodingRaw {
		return dst[:copy(dst[:length], packed)], nil // decodeData has checked its length
	}
	if u.decoder == nil {
		var err error
		// The decoder refuses what would unpack to more, before it takes memory.
		u.decoder, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(maxContent), zstd.WithDecoderMaxWindow(maxContent))
		if err != nil {
			return nil, err
		}
	}
	start := time.Now()
	out, err := u.decoder.DecodeAll(packed, dst[:0:maxContent])
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
