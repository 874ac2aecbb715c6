package dataset

import (
	"bytes"
	"context"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/manifest"
)

// Ideal is what a tool would have to send that knew beforehand what differs: of the blocks that differ, are not zero, and whose content
// neither the target nor an earlier block holds.
type Ideal struct {
	Differing  int64 // blocks that differ, of whatever kind
	Extents    int64 // extents that they lie in
	Copies     int64 // blocks whose content the target or an earlier block holds
	Raw        int64 // bytes of the blocks to send
	Compressed int64 // the same, each block by itself by zstd
	// Parts are the 4 KiB parts in which those blocks differ from what the target holds there, raw and by zstd a block's parts at a time.
	Parts           int64
	PartsCompressed int64
}

// Level is zstd's level of the ideal.
const Level = zstd.SpeedDefault

// Ideal compares source and target, which must be prepared.
func (w *Workload) Ideal(ctx context.Context) (Ideal, error) {
	type content [16]byte
	digest := func(p []byte) (c content) {
		sum := blake3.Sum256(p)
		copy(c[:], sum[:])
		return c
	}
	known := make(map[content]bool)
	src, dst := w.set.path(w.source), w.set.path(w.Target())
	if !w.empty {
		err := eachBlock([]string{dst}, func(_ int64, c [][]byte) error { known[digest(c[0])] = true; return ctx.Err() })
		if err != nil {
			return Ideal{}, err
		}
	}
	var ideal Ideal
	last := int64(-1)
	pack := newPacker(ctx)
	err := eachBlock([]string{src, dst}, func(block int64, c [][]byte) error {
		if bytes.Equal(c[0], c[1]) {
			return nil
		}
		ideal.Differing++
		if e := block * manifest.BlockSize / manifest.ExtentSize; e != last {
			ideal.Extents, last = ideal.Extents+1, e
		}
		if isZero(c[0]) {
			return nil
		}
		sum := digest(c[0])
		if known[sum] {
			ideal.Copies++
			return nil
		}
		known[sum] = true
		var parts []byte
		for at := 0; at < len(c[0]); at += pageSize {
			if part := c[0][at:min(at+pageSize, len(c[0]))]; !bytes.Equal(part, c[1][at:at+len(part)]) {
				parts = append(parts, part...)
			}
		}
		ideal.Raw += int64(len(c[0]))
		ideal.Parts += int64(len(parts))
		return pack.add(bytes.Clone(c[0]), parts)
	})
	whole, parts, packErr := pack.sum()
	if err == nil {
		err = packErr
	}
	ideal.Compressed, ideal.PartsCompressed = whole, parts
	return ideal, err
}

// packer compresses on two cores beside the reading.
type packer struct {
	group *errgroup.Group
	ctx   context.Context
	work  chan [2][]byte
	sums  chan [2]int64
}

const packers = 2

func newPacker(ctx context.Context) *packer {
	p := &packer{work: make(chan [2][]byte, 8), sums: make(chan [2]int64, packers)}
	p.group, p.ctx = errgroup.WithContext(ctx)
	for range packers {
		p.group.Go(func() error {
			e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(Level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
			if err != nil {
				return err
			}
			defer e.Close() //nolint:errcheck // writes nowhere
			var sum [2]int64
			var out []byte
			for w := range p.work {
				for i, content := range w {
					out = e.EncodeAll(content, out[:0])
					// What does not shrink travels as it is.
					sum[i] += int64(min(len(out), len(content)))
				}
			}
			p.sums <- sum
			return nil
		})
	}
	return p
}

func (p *packer) add(whole, parts []byte) error {
	select {
	case p.work <- [2][]byte{whole, parts}:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// sum ends the work.
func (p *packer) sum() (whole, parts int64, err error) {
	close(p.work)
	err = p.group.Wait()
	close(p.sums)
	for s := range p.sums {
		whole, parts = whole+s[0], parts+s[1]
	}
	return whole, parts, err
}
