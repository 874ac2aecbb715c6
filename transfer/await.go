package transfer

import (
	"context"
	"math/bits"

	"github.com/understudy-dr/understudy/manifest"
)

// awaited is content that the target does not hold, as far as is known.
type awaited struct {
	first  place   // for which it is asked, or will be
	others []place // that get it too
	asked  bool
}

// await puts a place among those that wait for a content. It reports whether that
// content must be asked for: not when it is on its way already, nor when it may
// still be found and so is deferred.
func (r *receiver) await(d shortDigest, p place) (wanted bool) {
	r.lack.Do(func() { close(r.missing) })
	r.mu.Lock()
	defer r.mu.Unlock()
	if w, waits := r.waiting[d]; waits {
		w.others = append(w.others, p)
		r.waiting[d] = w
		return false
	}
	deferred := r.searches > 0 && r.allowance.admit()
	if deferred {
		p.it.deferred |= 1 << p.b
		r.moor(p)
	}
	r.waiting[d] = awaited{first: p, asked: !deferred}
	return !deferred
}

// coming tells whether content was asked for and has not come.
func (r *receiver) coming(d shortDigest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting[d].asked
}

// awaits tells whether content is looked for.
func (r *receiver) awaits(d shortDigest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, waits := r.waiting[d]
	return waits && !w.asked
}

// match serves those who wait for a block of an extent that was just read. What
// was assumed of it is found when they are overdue.
func (r *receiver) match(ctx context.Context, e *extent, h *manifest.Hasher) error {
	if !r.anyWaits(e) {
		return nil
	}
	for b, d := range e.blocks {
		if e.zero>>b&1 == 1 || !r.awaits(d.Short()) || !e.has(b) {
			continue
		}
		if err := r.serve(ctx, d, e.block(b), h); err != nil {
			return err
		}
	}
	return nil
}

// anyWaits tells whether some content is waited for at all, and counts what the
// disk holds.
func (r *receiver) anyWaits(e *extent) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allowance.content += len(e.blocks) - bits.OnesCount64(e.zero)
	return r.allowance.waiting > 0
}

// serve writes content that was found to every place that waits for it, unless
// it was asked for in the meantime.
func (r *receiver) serve(ctx context.Context, d manifest.Digest, content []byte, h *manifest.Hasher) error {
	r.mu.Lock()
	w, waits := r.waiting[d.Short()]
	if !waits || w.asked {
		r.mu.Unlock()
		return nil
	}
	delete(r.waiting, d.Short()) // from now on the index knows it
	w.first.it.deferred &^= 1 << w.first.b
	r.castOff(w.first)
	r.allowance.found()
	r.mu.Unlock()
	if err := r.closeAnswer(ctx, w.first.it); err != nil {
		return err
	}
	for _, p := range append(w.others, w.first) {
		if err := r.alias(ctx, p, d, content, h); err != nil {
			return err
		}
	}
	return nil
}

// closeAnswer tells the sender that the blocks which it was told of as deferred
// were found, when none is left.
func (r *receiver) closeAnswer(ctx context.Context, it *item) error {
	r.mu.Lock()
	due := it.told && it.deferred == 0
	if due {
		it.told = false
	}
	r.mu.Unlock()
	if !due {
		return nil
	}
	return r.Conn.WriteFrame(ctx, typeWant, (&want{extent: it.number}).append(nil))
}

// searchOver says that one of the scans has ended, in which content is looked for.
func (r *receiver) searchOver() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.searches--
	signal(r.look)
}

// due takes the oldest extent with deferred blocks when they have waited long
// enough: nothing more is searched, there are too many of them, or the sender
// would be held back. The blocks count as asked for from then on.
func (r *receiver) due() (it *item, blocks uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.deferring) > 0 && r.deferring[0].deferred == 0 {
		r.deferring = r.deferring[1:]
	}
	if len(r.deferring) == 0 {
		return nil, 0
	}
	it = r.deferring[0]
	if r.searches > 0 && !r.allowance.exceeded() && r.reached-it.number <= deferExtents {
		return nil, 0
	}
	r.deferring = r.deferring[1:]
	blocks, it.deferred, it.told = it.deferred, 0, false
	for b := range ones(blocks) {
		r.allowance.asked()
		r.castOff(place{it, b})
		w := r.waiting[it.short(b)]
		w.asked = true
		r.waiting[it.short(b)] = w
	}
	return it, blocks
}

// overdue asks for what has been deferred long enough, after a last look at what
// came to the target since.
func (v *resolver) overdue(ctx context.Context) error {
	for {
		it, blocks := v.due()
		if it == nil {
			return nil
		}
		var f found
		chain := v.chain // which goes on with the next offer
		v.chain.left = 0
		v.lookUp(&f, it, blocks)
		v.chain = chain
		var candidates []*candidate
		for b := range ones(f.known | f.guess) {
			candidates = append(candidates, &candidate{place: place{it, b}, short: it.short(b), from: []position{f.from[b]}})
		}
		inside, outside := v.divide(candidates)
		if err := v.copyInside(ctx, inside); err != nil {
			return err
		}
		if err := v.copy(ctx, outside); err != nil {
			return err
		}
		wanted := blocks
		v.mu.Lock()
		for _, c := range candidates {
			if c.held {
				wanted &^= 1 << c.b
				v.allowance.spared()
			}
		}
		v.mu.Unlock()
		if _, err := v.ask(ctx, it, wanted, false); err != nil {
			return err
		}
		for _, c := range candidates {
			if c.held {
				if err := v.finish(ctx, c); err != nil {
					return err
				}
			}
		}
	}
}
