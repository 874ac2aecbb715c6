package transfer

import (
	"context"

	"github.com/understudy-dr/understudy/manifest"
)

// hit is a place that waits for content, and where a scan saw it.
type hit struct {
	place
	at position
}

// followBlocks is how far beyond a hit a run is looked for against the order in which
// it is copied, and across how many blocks that do not wait.
const followBlocks = 256

// sinkSurveys tells whether the sink looks for anchors: it does while it scans itself, and on
// seeds, which new disks have.
func (s *sendSession) sinkSurveys() bool {
	if s.Trusted == nil {
		return true
	}
	_, fresh := s.Trusted.(*zeroBaseline)
	return fresh
}

// sight indexes windows that a scan saw, and notes those whose content somebody
// waits for; as for keep, see index.
func (r *receiver) sight(seen []sighting, keep uint32) {
	r.anchors.putAll(seen, keep)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.moored) == 0 {
		return
	}
	for _, s := range seen {
		if p, ok := r.moored[s.anchor]; ok {
			delete(r.moored, s.anchor)
			r.hits = append(r.hits, hit{p, s.position})
			signal(r.look)
		}
	}
}

// putAll remembers windows.
func (x *index) putAll(seen []sighting, keep uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range seen {
		x.putOne(s.key(), s.position, keep)
	}
}

// sighted finds a wanted block by its anchor.
func (r *receiver) sighted(it *item, b int) (at position, ok bool) {
	if a, has := it.offer.anchors.at(b); has && r.anchors != nil {
		return r.anchors.find(a.key())
	}
	return 0, false
}

// moor notes the anchor of a place that waits. r.mu is held.
func (r *receiver) moor(p place) {
	if a, ok := p.it.offer.anchors.at(p.b); ok {
		r.moored[a] = p
	}
}

// castOff forgets it. r.mu is held.
func (r *receiver) castOff(p place) {
	if a, ok := p.it.offer.anchors.at(p.b); ok && r.moored[a] == p {
		delete(r.moored, a)
	}
}

// lookAgain notes a hit that a scan made since a place was looked for and before it
// was moored.
func (v *resolver) lookAgain(p place) {
	at, ok := v.sighted(p.it, p.b)
	if !ok {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if p.it.deferred>>p.b&1 == 1 {
		v.castOff(p)
		v.hits = append(v.hits, hit{p, at})
		signal(v.look)
	}
}

// follow serves those that wait near hits, before anything is done that could overwrite
// what was seen there: a later offer is answered after this.
func (v *resolver) follow(ctx context.Context) error {
	for {
		v.mu.Lock()
		if len(v.hits) == 0 {
			v.mu.Unlock()
			return nil
		}
		h := v.hits[0]
		v.hits = v.hits[1:]
		v.mu.Unlock()
		if err := v.followOne(ctx, h); err != nil {
			return err
		}
	}
}

// followOne serves the places beside a hit as far as they wait for what lies beside
// what was seen. A run that moved down is copied upwards, and the other way round,
// so that what it overlaps of itself is read before it is overwritten; where it begins is looked for first.
func (v *resolver) followOne(ctx context.Context, h hit) error {
	shift := int64(h.place.position()) - int64(h.at)
	step := 1
	if shift > 0 {
		step = -1
	}
	first := h.place
	for range followBlocks {
		p, ok := v.deferredBeside(first, -step)
		if !ok {
			break
		}
		if _, held, err := v.beside(p, shift); err != nil {
			return err
		} else if !held {
			break
		}
		first = p
	}
	for p, ok := first, v.isDeferred(first); ok; p, ok = v.deferredBeside(p, step) {
		full, held, err := v.beside(p, shift)
		if err != nil {
			return err
		}
		if !held {
			break
		}
		_, n := v.geometry.BlockRange(p.position().block())
		if err := v.serve(ctx, full, v.copier.buffers[0][:n], v.copier.hashers[0]); err != nil {
			return err
		}
		v.chain.goOn(shift)
	}
	return ctx.Err()
}

// beside reads into the first buffer what lies a shift away from a place, and tells whether it is what the place waits for.
func (v *resolver) beside(p place, shift int64) (full manifest.Digest, held bool, err error) {
	at := int64(p.position()) - shift
	if at < 0 || at >= int64(v.limit) {
		return full, false, nil
	}
	_, n := v.geometry.BlockRange(p.position().block())
	return v.try(p.it.short(p.b), position(at), v.copier.buffers[0][:n], v.copier.hashers[0])
}

func (v *resolver) isDeferred(p place) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return p.it.deferred>>p.b&1 == 1
}

// deferredBeside is the next place in a direction that waits and is deferred.
func (v *resolver) deferredBeside(p place, step int) (place, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for range followBlocks {
		if p.b += step; p.b < 0 || p.b >= manifest.BlocksPerExtent {
			it := v.open[uint32(int64(p.it.number)+int64(step))]
			if it == nil {
				return p, false
			}
			p = place{it, (p.b + manifest.BlocksPerExtent) % manifest.BlocksPerExtent}
		}
		if p.it.deferred>>p.b&1 == 1 {
			return p, true
		}
	}
	return p, false
}
