package transfer

import (
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/manifest"
)

// hold keeps offers to a trusted sink back, in order, while content that they lack
// may still be met: in extents that the sink holds and that are compared later, or in
// what such an extent held before it is overwritten.
type hold struct {
	mu        sync.Mutex
	fifo      []*described
	sought    map[shortDigest]spot
	windows   map[shortDigest]windowSpot
	limit     position // where the disk ends
	shift     int64    // of the last window that was met; 0: none since it was asked for
	allowance allowance
	spent     bool // the allowance, so that nothing is held back any longer
}

// described is an extent with all that its offer says.
type described struct {
	*pending
	blocks uint64 // that differ
	look   bool   // nobody knows what the sink holds
	zero   uint64
	found  found
	lacks  uint64 // blocks that are sought
	// windows are sought, too, while lacks are.
	windows []sought
}

// spot is a block of an extent that is held back.
type spot struct {
	d *described
	b int
}

// windowSpot is a window of one: it begins at a part.
type windowSpot struct {
	d    *described
	part int
}

// newHold makes one for a sink. In extents that are all zero there is nothing to wait for.
func newHold(t Tuning, g manifest.Geometry, sink Baseline, key manifest.Key) *hold {
	h := &hold{sought: make(map[shortDigest]spot), windows: make(map[shortDigest]windowSpot), limit: blockPosition(g.Blocks()), allowance: newAllowance(t, g)}
	hasher := key.NewHasher()
	zero, last := newZeroExtent(hasher, manifest.Geometry{Size: manifest.ExtentSize}, 0), newZeroExtent(hasher, g, g.Extents()-1)
	for number, digest := range sink.Extents() {
		if digest != zero.digest && digest != last.digest {
			h.allowance.content += g.BlocksIn(uint32(number))
		}
	}
	return h
}

// push puts an extent behind the others. Content that one of those lacks too will
// be there by the time of this offer.
func (h *hold) push(d *described) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fifo = append(h.fifo, d)
	for b := range ones(d.blocks &^ d.zero &^ d.found.known &^ d.found.guess) {
		short := d.extent.blocks[b].Short()
		if s, ok := h.sought[short]; ok {
			if s.d != d { // of its own extent the sink reads before it writes, and sees that they are alike
				d.found.set(b, s.position())
			}
		} else if h.allowance.admit() {
			h.sought[short] = spot{d, b}
			d.lacks |= 1 << b
		} else {
			h.spent = true // holding the others would hold this one, too
		}
	}
	for _, w := range d.windows {
		if len(h.windows) < soughtWindows {
			h.windows[w.digest] = windowSpot{d, w.part}
		}
	}
}

func (s spot) position() position { return extentPosition(s.d.number) + position(s.b)*partsPerBlock }

// meet says what the sink holds in an extent, and will hold until every offer that
// is held back now was answered. It reports whether the oldest of these lacks nothing
// any more.
func (h *hold) meet(extent uint32, blocks []manifest.Digest, listed uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.sought) == 0 {
		return false
	}
	for b := range ones(listed & (1<<len(blocks) - 1)) {
		short := blocks[b].Short()
		if s, ok := h.sought[short]; ok {
			delete(h.sought, short)
			s.d.lacks &^= 1 << s.b
			s.d.found.set(s.b, extentPosition(extent)+position(b)*partsPerBlock)
			h.allowance.found()
		}
		if w, ok := h.windows[short]; ok {
			h.align(w, extentPosition(extent)+position(b)*partsPerBlock)
		}
	}
	return len(h.fifo) > 0 && h.fifo[0].lacks == 0
}

// align guesses what is lacking around a window that the sink has at a position, in the
// extents beside it too. h.mu is held.
func (h *hold) align(w windowSpot, at position) {
	h.shift = int64(extentPosition(w.d.number)) + int64(w.part) - int64(at)
	b := w.part / partsPerBlock
	h.alignFrom(w.d, b+1, 1)
	h.alignFrom(w.d, b, -1)
}

// alignFrom goes on from a block in one direction, as long as blocks are lacking. h.mu is held.
func (h *hold) alignFrom(d *described, b, step int) {
	i := slices.Index(h.fifo, d)
	if i < 0 {
		return
	}
	for {
		if b < 0 || b >= len(d.extent.blocks) {
			next := i + step
			if next < 0 || next >= len(h.fifo) || int64(h.fifo[next].number) != int64(d.number)+int64(step) {
				return
			}
			i, d = next, h.fifo[next]
			b = (b + manifest.BlocksPerExtent) % manifest.BlocksPerExtent
		}
		if d.lacks>>b&1 == 0 {
			return
		}
		d.suppose(b, h.shift, d.lacks, h.limit)
		d.lacks &^= 1 << b
		delete(h.sought, d.extent.blocks[b].Short())
		h.allowance.found()
		b += step
	}
}

// newShift is that of a window which was met since the last call, if any was.
func (h *hold) newShift() (shift int64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	shift, h.shift = h.shift, 0
	return shift, shift != 0
}

// same says that so many blocks are alike at both ends.
func (h *hold) same(blocks int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.allowance.alike += blocks
}

// next takes the oldest extent when its offer is due: it lacks nothing, too much is
// held back, or the comparison is far beyond it or over.
func (h *hold) next(compared uint32, over bool) *described {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.fifo) == 0 {
		return nil
	}
	d := h.fifo[0]
	if !over && d.lacks != 0 && !h.spent && !h.allowance.exceeded() && compared <= d.number+deferExtents {
		return nil
	}
	h.fifo = h.fifo[1:]
	h.spent = h.spent && len(h.fifo) > 0
	for b := range ones(d.lacks) {
		short := d.extent.blocks[b].Short()
		delete(h.sought, short)
		h.allowance.asked()
	}
	for _, w := range d.windows {
		if h.windows[w.digest].d == d {
			delete(h.windows, w.digest)
		}
	}
	d.windows = nil
	return d
}

// holds tells whether an extent is held back.
func (h *hold) holds(d *described) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.fifo, d)
}

// oldest is the first extent that is held back.
func (h *hold) oldest() (extent uint32, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.fifo) == 0 {
		return 0, false
	}
	return h.fifo[0].number, true
}
