package transfer

import (
	"context"
	"fmt"
	"math/bits"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// resolver decides what each offered block needs.
type resolver struct {
	*receiver
	hasher *manifest.Hasher
	copier copier
	chain  chain
	frame  []byte
}

// resolve answers offers, in order.
func (r *receiver) resolve(ctx context.Context) error {
	v := &resolver{receiver: r, hasher: r.Key.NewHasher(), copier: newCopier(r.Key)}
	for {
		select {
		case it, more := <-r.offers:
			if !more {
				return context.Cause(ctx)
			}
			if err := v.follow(ctx); err != nil {
				return err
			}
			if err := v.settleOffer(ctx, it); err != nil {
				return err
			}
		case <-r.look:
		}
		if err := v.follow(ctx); err != nil {
			return err
		}
		if err := v.overdue(ctx); err != nil {
			return err
		}
	}
}

// settleOffer answers an offer for the first time.
func (v *resolver) settleOffer(ctx context.Context, it *item) error {
	wanted, err := v.answer(ctx, it)
	if err != nil {
		return err
	}
	later, err := v.ask(ctx, it, wanted, true)
	if err != nil || later == 0 {
		return err
	}
	v.mu.Lock()
	it.told = true
	v.deferring = append(v.deferring, it)
	v.mu.Unlock()
	return v.closeAnswer(ctx, it)
}

// ask sends a WANT: the first of an extent, which says what is deferred, or the
// second one.
func (v *resolver) ask(ctx context.Context, it *item, wanted uint64, first bool) (later uint64, err error) {
	m := &want{extent: it.number, blocks: wanted}
	if it.offer.parts {
		if err := v.part(ctx, it, m); err != nil {
			return 0, err
		}
	}
	// Counted as wanted before the sender can know of it.
	v.mu.Lock()
	it.wanted |= m.blocks
	it.parted |= m.parted
	if first {
		m.later = it.deferred
	}
	v.mu.Unlock()
	v.frame = m.append(v.frame[:0])
	return m.later, v.Conn.WriteFrame(ctx, typeWant, v.frame)
}

// answer settles what needs no data and returns the blocks that do and are not
// deferred.
func (v *resolver) answer(ctx context.Context, it *item) (wanted uint64, err error) {
	m := it.offer
	var zero, same uint64
	var old [manifest.BlocksPerExtent]shortDigest // of an untrusted target
	source := 0
	var f found
	there, err := v.there(ctx, it)
	if err != nil {
		return 0, err
	}
	for b := range ones(m.blocks) {
		if !v.Trusted {
			old[b] = it.blocks[b].Short()
		}
		if m.zero>>b&1 == 1 {
			full := v.hasher.ZeroBlock(blockLength(v.geometry, it.number, b))
			if there>>b&1 == 1 || !v.Trusted && it.blocks[b] == full {
				same |= 1 << b
			} else {
				zero |= 1 << b
			}
			it.blocks[b] = full
			continue
		}
		if m.copied>>b&1 == 1 {
			f.set(b, m.sources[source])
			source++
		}
		if there>>b&1 == 1 || !v.Trusted && old[b] == it.short(b) {
			same |= 1 << b
		}
	}
	for b := range ones(same &^ m.zero) { // rather than what is overwritten
		v.seen.put(it.short(b), place{it, b}.position(), 0)
	}
	open := m.blocks &^ zero &^ same
	v.lookUp(&f, it, open)
	candidates := v.candidates(&f, it, open)
	inside, outside := v.divide(candidates)
	if err := v.copyInside(ctx, inside); err != nil {
		return 0, err
	}
	if err := v.zero(it, zero); err != nil {
		return 0, err
	}
	if err := v.copy(ctx, outside); err != nil {
		return 0, err
	}
	if !v.Trusted {
		for b := range ones(m.blocks &^ same) {
			v.seen.remove(old[b], place{it, b}.position())
		}
	}
	v.chain.left = 0
	for _, c := range candidates {
		v.judge(c)
		if c.held {
			f.from[c.b] = c.at
			v.chain.follow(&f, extentPosition(it.number), c.b)
			if err := v.finish(ctx, c); err != nil {
				return 0, err
			}
			open &^= 1 << c.b
		}
	}
	v.mu.Lock()
	v.allowance.alike += bits.OnesCount64(m.blocks &^ m.zero &^ open) // the same or copied
	v.mu.Unlock()
	if wanted, err = v.awaitAll(ctx, it, open, &f); err != nil {
		return 0, err
	}
	v.progress.same.Add(int64(contentLength(v.geometry, it.number, same)))
	v.progress.zero.Add(int64(contentLength(v.geometry, it.number, zero)))
	return wanted, v.settle(ctx, it, same|zero, v.hasher)
}

// awaitAll has blocks of an extent wait for their content, and returns those that
// must be asked for. Content that came to the target since it was looked for is copied.
func (v *resolver) awaitAll(ctx context.Context, it *item, open uint64, tried *found) (wanted uint64, err error) {
	for b := range ones(open) {
		p, short := place{it, b}, it.short(b)
		if !v.await(short, p) {
			v.lookAgain(p)
			continue
		}
		// A writer puts what came into the index before it ends the wait for it.
		from, ok := v.seen.find(short)
		if !ok || tried.known>>b&1 == 1 && tried.from[b] == from {
			wanted |= 1 << b
			continue
		}
		c := &candidate{place: p, short: short, from: []position{from}}
		if err := v.copyOne(ctx, c, v.copier.buffers[0], v.copier.hashers[0]); err != nil {
			return 0, err
		}
		if !c.held {
			wanted |= 1 << b
		} else if err := v.finish(ctx, c); err != nil {
			return 0, err
		}
	}
	return wanted, nil
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
	if r.dirty += int64(n); r.dirty >= flushBytes {
		signal(r.kick)
	}
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
