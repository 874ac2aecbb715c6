package transfer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// part chooses which of the wanted blocks may come in parts, and tells the digests
// of those they have now. What is zero now has no parts worth keeping.
func (v *resolver) part(ctx context.Context, it *item, m *want) error {
	blocks := slices.Collect(ones(m.blocks))
	digests := make([][]partDigest, len(blocks))
	err := v.each(ctx, len(blocks), func(i, worker int) error {
		off, n := v.geometry.BlockRange(it.number*manifest.BlocksPerExtent + uint32(blocks[i]))
		h, old := v.copier.hashers[worker], v.copier.buffers[worker][:n]
		if !v.Trusted && it.blocks[blocks[i]] == h.ZeroBlock(n) {
			return nil
		}
		if err := v.get(old, off); err != nil {
			return fmt.Errorf("read an old block: %w", err)
		}
		if !manifest.IsZero(old) {
			digests[i] = digestParts(nil, h, old)
		}
		return nil
	})
	for i, d := range digests {
		if len(d) > 0 {
			m.parted |= 1 << blocks[i]
			m.parts = append(m.parts, d...)
		}
	}
	return err
}

// patch takes a DATA that has parts of blocks. It reads the old blocks once more
// and checks what becomes of them before it writes. A block that does not become
// what was offered, because parts that differ looked the same or the target
// changed meanwhile, is asked for once more, as a whole.
func (w *writer) patch(ctx context.Context, it *item, m dataHeader, content []byte) error {
	if w.old == nil {
		w.old = blockio.AlignedBuffer(manifest.BlockSize)
	}
	var again uint64
	i := 0
	for b := range ones(m.blocks) {
		off, n := w.geometry.BlockRange(it.number*manifest.BlocksPerExtent + uint32(b))
		parts := m.parts[i]
		i++
		length := partsLength(n, parts)
		block := content[:length]
		if length < n {
			block = w.old[:n]
			start := time.Now()
			err := w.get(block, off)
			w.progress.spend(StageWrite, start)
			if err != nil {
				return fmt.Errorf("read a block to patch: %w", err)
			}
			putParts(block, content, parts)
		}
		content = content[length:]
		d, right := w.check(it, b, block)
		if !right {
			if length == n {
				return fmt.Errorf("%w: block %d of extent %d as it arrived", ErrMismatch, b, it.number)
			}
			again |= 1 << b
			continue
		}
		if err := w.put(block, off); err != nil {
			return err
		}
		w.progress.sent.Add(int64(length))
		w.progress.spared.Add(int64(n - length))
		if err := w.spread(ctx, place{it, b}, d, block); err != nil {
			return err
		}
	}
	if again != 0 {
		w.mu.Lock()
		it.wanted |= again
		w.mu.Unlock()
		if err := w.Conn.WriteFrame(ctx, typeWant, (&want{extent: it.number, blocks: again}).append(nil)); err != nil {
			return err
		}
	}
	return w.settle(ctx, it, m.blocks&^again, w.hasher)
}
