package transfer

import (
	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// search finds content that moved by other than whole blocks at a trusted sink, of which only
// the digests of whole blocks are known: it looks for these among the windows of the source.
//
//	source  │  block b  │ block b+1 │  two blocks that the sink lacks as they are
//	            └─ window ─┘           is block j of the sink: what stands beside it does so here, too
//	sink     ···│  block j  │···
//
// A search takes 15 digests of windows, so that it is made of all blocks only until
// some were searched in vain, then of one in a few, and always where one was found. Behind a find it takes one
// digest a block.
type search struct {
	hasher *manifest.Hasher
	room   []byte
	shift  int64 // of the last find, as in chain
	likely int   // how many times more it is tried without another find
	vain   int   // searches since
	passed int   // blocks that might have been searched since
}

const (
	// searchAll is how many searches in vain are made of block after block, and
	// searchThin and searchFast of how many blocks one is searched then.
	searchAll  = 32
	searchThin = 4
	searchFast = 32
	// searchLikely is how many times a shift is tried in vain.
	searchLikely = 4
	// soughtWindows bounds the windows that offers which are held back look for: one in soughtEvery while all blocks are searched.
	soughtWindows = 1 << 15
	soughtEvery   = 8
)

// sought is a window that an extent which is held back looks for: it begins at a part
// of that extent.
type sought struct {
	digest shortDigest
	part   int
}

// search looks for what the sink lacks of an extent. What it finds is a guess: of the
// blocks at both ends of a run only a part may be there.
func (s *sendSession) search(d *described, held []manifest.Digest) {
	lacking := d.lacking()
	runs := lacking & (lacking >> 1) & d.read & (d.read >> 1)
	if runs == 0 || !s.searches() {
		return
	}
	x := &s.moved
	if x.hasher == nil {
		x.hasher, x.room = s.key.NewHasher(), blockio.AlignedBuffer(manifest.BlockSize)
	}
	if shift, ok := s.hold.newShift(); ok {
		x.find(shift)
	}
	every := searchFast
	if s.pace.thin() {
		every = searchThin
	}
	at := func(b, phase int) (full manifest.Digest, shift int64, ok bool) {
		full = x.hasher.Block(d.window(b, phase, x.room))
		from, ok := s.holder(d, full, held)
		return full, int64(extentPosition(d.number)) + int64(b*partsPerBlock+phase) - int64(from), ok
	}
	try := func(b int) bool { // where the last find lets it be
		phase := int((x.shift%partsPerBlock + partsPerBlock) % partsPerBlock)
		if phase == 0 {
			return false
		}
		_, shift, ok := at(b, phase)
		if ok {
			x.find(shift)
			d.beside(b, shift, lacking, s.limit())
		}
		return ok
	}
	for b := range ones(runs) {
		if x.likely > 0 {
			if try(b) {
				continue
			}
			x.likely--
		}
		if x.passed++; x.vain >= searchAll && x.passed%every != 0 {
			continue
		}
		x.vain++
		for phase := 1; phase < partsPerBlock; phase++ {
			full, shift, ok := at(b, phase)
			if ok {
				x.find(shift)
				d.beside(b, shift, lacking, s.limit())
				for p := b - 1; p >= 0 && runs>>p&1 == 1 && d.found.guess>>p&1 == 0 && try(p); p-- {
					continue
				}
				break
			}
			if short := full.Short(); x.vain > searchAll || short[0]%soughtEvery == 0 {
				d.windows = append(d.windows, sought{short, b*partsPerBlock + phase})
			}
		}
	}
}

// find takes note of a shift.
func (x *search) find(shift int64) { x.shift, x.likely, x.vain = shift, searchLikely, 0 }

// holder finds where the sink has a block with a digest, when this extent is offered.
func (s *sendSession) holder(d *described, full manifest.Digest, held []manifest.Digest) (position, bool) {
	if from, ok := s.seen.find(full.Short()); ok {
		return from, true
	}
	for i := range held {
		if held[i] == full {
			return extentPosition(d.number) + position(i)*partsPerBlock, true
		}
	}
	return 0, false
}

// limit is where the disk ends.
func (s *sendSession) limit() position { return blockPosition(s.geometry.Blocks()) }

// lacking are the blocks of which nobody knows yet where the sink has them.
func (d *described) lacking() uint64 {
	return d.blocks &^ d.zero &^ d.found.known &^ d.found.guess
}

// beside guesses the two blocks over which a window lies that was found, as far as they are lacking.
func (d *described) beside(b int, shift int64, lacking uint64, limit position) {
	for c := b; c <= b+1; c++ {
		d.suppose(c, shift, lacking, limit)
	}
}

// suppose guesses a block that is lacking.
func (d *described) suppose(b int, shift int64, lacking uint64, limit position) {
	from := int64(extentPosition(d.number)) + int64(b)*partsPerBlock - shift
	if lacking>>b&1 == 1 && d.found.guess>>b&1 == 0 && from >= 0 && from < int64(limit) {
		d.found.from[b] = position(from)
		d.found.guess |= 1 << b
	}
}

// window returns the content of a block's length that begins with a part of block b. The room is
// for one that does not lie in one piece.
func (e *extent) window(b, phase int, room []byte) []byte {
	const perChunk = blockio.RequestSize / manifest.BlockSize
	if off := b%perChunk*manifest.BlockSize + phase*partSize; e.sparse == nil && b%perChunk < perChunk-1 {
		data := e.chunks[b/perChunk].Data
		return data[off:min(off+manifest.BlockSize, len(data))]
	}
	n := copy(room, e.block(b)[phase*partSize:])
	return room[:n+copy(room[n:], e.block(b+1))]
}

// searches tells whether moved content is searched: the sink is trusted, and holds something.
func (s *sendSession) searches() bool { return s.hold != nil && s.hold.allowance.content > 0 }

// borrow makes sure that the data of an extent stays until it is searched.
func (s *sendSession) borrow(p *pending) {
	if s.searches() {
		p.answers++
	}
}

// giveBack ends that.
func (s *sendSession) giveBack(p *pending) {
	if !s.searches() {
		return
	}
	s.mu.Lock()
	p.answers--
	s.mu.Unlock()
	signal(s.freed)
}

// thin tells whether the line carries less than is searched in the same time.
func (k *pace) thin() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.capacity == 0 {
		return false
	}
	digests := float64(digestRate)
	if k.digests.known() {
		digests = k.digests.value()
	}
	_, moves := k.best()
	return moves*partsPerBlock < digests*searchThin
}
