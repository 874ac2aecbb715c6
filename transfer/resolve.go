package transfer

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// copiers is how many candidates for a copy are read at a time.
const copiers = 8

// resolver decides what each offered block needs.
type resolver struct {
	*receiver
	hasher  *manifest.Hasher
	buffers [copiers][]byte
	hashers [copiers]*manifest.Hasher
}

// candidate is a block that the target may hold elsewhere.
type candidate struct {
	place
	short shortDigest
	from  uint32
	held  bool // the outcome
}

// resolve answers offers, in order.
func (r *receiver) resolve(ctx context.Context) error {
	v := &resolver{receiver: r, hasher: r.Key.NewHasher()}
	for i := range v.buffers {
		v.buffers[i] = blockio.AlignedBuffer(manifest.BlockSize)
		v.hashers[i] = r.Key.NewHasher()
	}
	var frame []byte
	for it := range r.offers {
		wanted, err := v.answer(ctx, it)
		if err != nil {
			return err
		}
		m := &want{extent: it.number, blocks: wanted}
		if it.offer.parts {
			if err := v.part(ctx, it, m); err != nil {
				return err
			}
		}
		// Counted as wanted before the sender can know of it.
		r.mu.Lock()
		it.wanted, it.parted = m.blocks, m.parted
		r.mu.Unlock()
		frame = m.append(frame[:0])
		if err := r.Conn.WriteFrame(ctx, typeWant, frame); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// answer settles what needs no data and returns the blocks that do.
func (v *resolver) answer(ctx context.Context, it *item) (wanted uint64, err error) {
	m := it.offer
	var zero, same uint64
	var candidates []*candidate
	digest, source := 0, 0
	there, err := v.there(ctx, it)
	if err != nil {
		return 0, err
	}
	for b := range ones(m.blocks) {
		length := blockLength(v.geometry, it.number, b)
		if m.zero>>b&1 == 1 {
			full := v.hasher.ZeroBlock(length)
			if there>>b&1 == 1 || !v.Trusted && it.blocks[b] == full {
				same |= 1 << b
			} else {
				zero |= 1 << b
			}
			it.blocks[b] = full
			continue
		}
		short := m.digests[digest]
		digest++
		from, held := uint32(0), false
		if m.copied>>b&1 == 1 {
			from, held = m.sources[source], true
			source++
		}
		if there>>b&1 == 1 || !v.Trusted && it.blocks[b].Short() == short {
			same |= 1 << b
			continue
		}
		if !held {
			from, held = v.seen.find(short)
		}
		if held {
			candidates = append(candidates, &candidate{place: place{it, b}, short: short, from: from})
		} else if v.await(short, place{it, b}) {
			wanted |= 1 << b
		}
	}
	if err := v.zero(it, zero); err != nil {
		return 0, err
	}
	copied, err := v.copy(ctx, candidates)
	if err != nil {
		return 0, err
	}
	for _, c := range candidates {
		if !c.held && v.await(c.short, c.place) {
			wanted |= 1 << c.b
		}
	}
	v.progress.same.Add(int64(contentLength(v.geometry, it.number, same)))
	v.progress.zero.Add(int64(contentLength(v.geometry, it.number, zero)))
	v.progress.copied.Add(int64(contentLength(v.geometry, it.number, copied)))
	return wanted, v.settle(ctx, it, same|zero|copied, v.hasher)
}

// await puts a place among those that wait for a content. It reports whether
// that content must be asked for: it must not when it is on its way already.
func (r *receiver) await(d shortDigest, p place) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, coming := r.waiting[d]
	if !coming {
		r.waiting[d] = nil
		return true
	}
	r.waiting[d] = append(r.waiting[d], p)
	return false
}

// zero writes zeroes over blocks of an extent, in as few calls as they allow.
func (r *receiver) zero(it *item, blocks uint64) error {
	return r.runs(it.number, blocks, func(off int64, length int) error {
		start := time.Now()
		defer r.progress.spend(StageWrite, start)
		if err := r.Target.WriteZeroes(off, int64(length)); err != nil {
			return fmt.Errorf("zero the target: %w", err)
		}
		r.soil(length)
		return nil
	})
}

// runs calls do for each run of adjacent blocks.
func (r *receiver) runs(extent uint32, blocks uint64, do func(off int64, length int) error) error {
	var off int64
	length := 0
	for b := range ones(blocks) {
		o, n := r.geometry.BlockRange(extent*manifest.BlocksPerExtent + uint32(b))
		if length > 0 && o == off+int64(length) {
			length += n
			continue
		}
		if length > 0 {
			if err := do(off, length); err != nil {
				return err
			}
		}
		off, length = o, n
	}
	if length == 0 {
		return nil
	}
	return do(off, length)
}

// soil counts what the next flush makes durable.
func (r *receiver) soil(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirty += int64(n)
}

// copy reads each candidate, checks it and writes it where it is wanted. A
// candidate that holds something else by now is no error: the block is asked for.
func (v *resolver) copy(ctx context.Context, candidates []*candidate) (copied uint64, err error) {
	err = v.each(ctx, len(candidates), func(i, worker int) error {
		return v.copyOne(candidates[i], v.buffers[worker], v.hashers[worker])
	})
	if err != nil {
		return 0, err
	}
	for _, c := range candidates {
		if c.held {
			copied |= 1 << c.b
		}
	}
	return copied, nil
}

// each calls do for 0 to n-1, on several goroutines that have a buffer and a
// hasher each. Together they count as one that reads.
func (v *resolver) each(ctx context.Context, n int, do func(i, worker int) error) error {
	if n == 0 {
		return nil
	}
	start := time.Now()
	defer v.progress.spend(StageRead, start)
	group, ctx := newGroup(ctx)
	var next atomic.Int64
	for w := range min(copiers, n) {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := do(i, w); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

func (v *resolver) copyOne(c *candidate, buf []byte, h *manifest.Hasher) error {
	target := c.it.number*manifest.BlocksPerExtent + uint32(c.b)
	off, length := v.geometry.BlockRange(target)
	from, n := v.geometry.BlockRange(c.from)
	if n != length {
		return nil
	}
	if err := v.get(buf[:n], from); err != nil {
		return fmt.Errorf("read a block to copy: %w", err)
	}
	full := h.Block(buf[:n])
	if full.Short() != c.short {
		return nil
	}
	if err := v.put(buf[:n], off); err != nil {
		return err
	}
	c.it.blocks[c.b] = full
	v.seen.put(c.short, target)
	c.held = true
	return nil
}

// get reads a block of the target.
func (r *receiver) get(p []byte, off int64) error {
	if err := readFull(r.Target, p, off); err != nil {
		return err
	}
	r.progress.read.Add(int64(len(p)))
	return nil
}

// put writes checked content.
func (r *receiver) put(p []byte, off int64) error {
	start := time.Now()
	defer r.progress.spend(StageWrite, start)
	if _, err := r.Target.WriteAt(p, off); err != nil {
		return fmt.Errorf("write the target: %w", err)
	}
	r.progress.written.Add(int64(len(p)))
	r.soil(len(p))
	return nil
}

// settle marks blocks of an extent as done; with the last one the extent is.
func (r *receiver) settle(ctx context.Context, it *item, blocks uint64, h *manifest.Hasher) error {
	r.mu.Lock()
	it.missing &^= blocks
	last := it.missing == 0 && blocks != 0
	r.mu.Unlock()
	if !last {
		return nil
	}
	if !r.Trusted {
		it.digest = h.Extent(it.blocks)
		if err := r.records.add(ctx, it.number, it.digest, it.blocks); err != nil {
			return err
		}
	}
	_, length := r.geometry.ExtentRange(it.number)
	r.progress.processed.Add(int64(length))
	r.mu.Lock()
	defer r.mu.Unlock()
	it.settled = true
	delete(r.open, it.number)
	r.pop()
	return nil
}
