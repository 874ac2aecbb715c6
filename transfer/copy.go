package transfer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// copiers is how many candidates for a copy are read at a time.
const copiers = 8

// copier has what reading candidates takes.
type copier struct {
	buffers [copiers][]byte
	hashers [copiers]*manifest.Hasher
}

func newCopier(key manifest.Key) (c copier) {
	for i := range c.buffers {
		c.buffers[i] = blockio.AlignedBuffer(manifest.BlockSize)
		c.hashers[i] = key.NewHasher()
	}
	return c
}

// candidate is a block that may be held elsewhere: at one of from, in this order.
type candidate struct {
	place
	short shortDigest
	from  []position

	// The outcome.
	held bool
	at   position
}

// lookUp finds the wanted blocks of an extent in the index, as far as the peer
// has not named them, and guesses others beside them.
func (v *resolver) lookUp(f *found, it *item, wanted uint64) {
	for b := range ones(wanted &^ f.known) {
		from, ok, gap := v.seen.lookUp(it.short(b))
		if !ok {
			from, ok = v.sighted(it, b)
		}
		if ok {
			f.set(b, from)
		} else if len(v.seeds) == 0 && gap {
			f.gaps |= 1 << b
		}
	}
	if sampled := v.seen.sampling() || len(v.seeds) > 0; sampled || v.anchors != nil { // else the sender has guessed
		v.chain.extend(f, extentPosition(it.number), wanted, v.limit, sampled)
	}
}

// candidates lists where to look for the wanted blocks of an extent.
func (v *resolver) candidates(f *found, it *item, wanted uint64) (list []*candidate) {
	for b := range ones(wanted) {
		named := (f.known|f.guess)>>b&1 == 1
		if !named && len(v.seeds) == 0 {
			continue
		}
		c := &candidate{place: place{it, b}, short: it.short(b)}
		if named {
			c.from = append(c.from, f.from[b])
		}
		if f.known>>b&1 == 0 {
			v.tryBeside(c)
		}
		if len(c.from) == 0 {
			continue
		}
		if v.coming(c.short) {
			f.known &^= 1 << b // not tried
			continue
		}
		list = append(list, c)
	}
	return list
}

// divide tells the candidates that lie in the extent which they are wanted in, if only
// with a part, from others.
func (v *resolver) divide(candidates []*candidate) (inside, outside []*candidate) {
	for _, c := range candidates {
		if first, last := c.from[0], c.from[0]+partsPerBlock-1; first.extent() == c.it.number || last.extent() == c.it.number {
			inside = append(inside, c)
		} else {
			outside = append(outside, c)
		}
	}
	return inside, outside
}

// copyInside moves blocks within their extent before anything else is written
// there: one after the other, so that what shifts is read before it is
// overwritten.
func (v *resolver) copyInside(ctx context.Context, candidates []*candidate) error {
	slices.SortStableFunc(candidates, func(a, b *candidate) int {
		down := func(c *candidate) bool { return c.from[0] > extentPosition(c.it.number)+position(c.b)*partsPerBlock }
		switch {
		case down(a) && down(b):
			return cmp.Compare(a.b, b.b)
		case !down(a) && !down(b):
			return cmp.Compare(b.b, a.b)
		case down(a):
			return -1
		default:
			return 1
		}
	})
	start := time.Now()
	defer v.progress.spend(StageRead, start)
	for _, c := range candidates {
		if err := v.copyOne(ctx, c, v.copier.buffers[0], v.copier.hashers[0]); err != nil {
			return err
		}
	}
	return nil
}

// copy reads candidates, checks them and writes them where they are wanted. One
// that holds something else by now is no error: the block is asked for.
func (v *resolver) copy(ctx context.Context, candidates []*candidate) error {
	return v.each(ctx, len(candidates), func(i, worker int) error {
		return v.copyOne(ctx, candidates[i], v.copier.buffers[worker], v.copier.hashers[worker])
	})
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

// copyOne looks for a candidate's content; where it is found, every place that
// waits for it gets it too.
func (v *resolver) copyOne(ctx context.Context, c *candidate, buf []byte, h *manifest.Hasher) error {
	target := firstBlock(c.it.number) + uint32(c.b)
	off, length := v.geometry.BlockRange(target)
	for _, from := range c.from {
		full, ok, err := v.try(c.short, from, buf[:length], h)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := v.put(buf[:length], off); err != nil {
			return err
		}
		c.it.blocks[c.b] = full
		v.seen.put(c.short, blockPosition(target), 0)
		c.held, c.at = true, from
		return v.share(ctx, c, full, buf[:length], h)
	}
	return nil
}

// try reads what lies at a position, as much as buf has room for, and tells whether it
// is the content of a digest.
func (r *receiver) try(short shortDigest, from position, buf []byte, h *manifest.Hasher) (full manifest.Digest, ok bool, err error) {
	src, off, rest := r.locate(from)
	if rest < int64(len(buf)) {
		return full, false, nil
	}
	if err := readFull(src, buf, off); err != nil {
		return full, false, fmt.Errorf("read a block to copy: %w", err)
	}
	r.progress.read.Add(int64(len(buf)))
	full = h.Block(buf)
	return full, full.Short() == short, nil
}

// share writes what was found for a candidate to the places that wait for the
// same content.
func (v *resolver) share(ctx context.Context, c *candidate, d manifest.Digest, content []byte, h *manifest.Hasher) error {
	v.mu.Lock()
	w, waits := v.waiting[c.short]
	mine := waits && w.first == c.place
	if mine {
		delete(v.waiting, c.short)
	}
	v.mu.Unlock()
	if !mine {
		return v.serve(ctx, d, content, h)
	}
	for _, p := range w.others {
		if err := v.alias(ctx, p, d, content, h); err != nil {
			return err
		}
	}
	return nil
}

// finish settles a candidate that was held.
func (v *resolver) finish(ctx context.Context, c *candidate) error {
	v.progress.copied.Add(int64(blockLength(v.geometry, c.it.number, c.b)))
	return v.settle(ctx, c.it, 1<<c.b, v.hasher)
}

// alias writes checked content to a place that waited for it, and settles it.
func (r *receiver) alias(ctx context.Context, p place, d manifest.Digest, content []byte, h *manifest.Hasher) error {
	target := firstBlock(p.it.number) + uint32(p.b)
	off, n := r.geometry.BlockRange(target)
	if n != len(content) {
		return fmt.Errorf("%w: one digest for blocks of %d and %d bytes", ErrMismatch, n, len(content))
	}
	if err := r.put(content, off); err != nil {
		return err
	}
	p.it.blocks[p.b] = d
	r.seen.put(d.Short(), blockPosition(target), 0)
	r.progress.copied.Add(int64(n))
	return r.settle(ctx, p.it, 1<<p.b, h)
}
