package transfer

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"github.com/understudy-dr/understudy/manifest"
)

// position is a place at the sink, in parts: file systems place files at any of
// them, so that content which moved is rarely found at whole blocks.
type position uint64

func blockPosition(block uint32) position { return position(block) * partsPerBlock }

// extentPosition is that of an extent's first block.
func extentPosition(extent uint32) position { return blockPosition(firstBlock(extent)) }

// block is the number of the block in which a position lies.
func (p position) block() uint32 { return uint32(p / partsPerBlock) }

// extent is the number of the extent in which a position lies.
func (p position) extent() uint32 { return p.block() / manifest.BlocksPerExtent }

// aligned tells whether a block begins there.
func (p position) aligned() bool { return p%partsPerBlock == 0 }

// anchor names the content of a window, a block's length from any part on, when it
// is one of those in anchorEvery that are sampled: by their content, so that both
// ends sample the same ones wherever they lie. What it says is a hint: unlike a
// digest's its hash is fast and not keyed, and looks at the beginnings of parts.
type anchor uint64

const (
	anchorEvery = 8
	anchorBytes = 5    // on the wire
	partStart   = 1024 // bytes of a part that its sum is made of
	// windowFactor spreads the sums of a window's parts.
	windowFactor = 0x9e3779b97f4a7c15
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeroSum    = partSum(make([]byte, partSize))
	// windowLeaves is what the oldest sum of a window counts in it.
	windowLeaves = func() uint64 {
		f := uint64(1)
		for range partsPerBlock - 1 {
			f *= windowFactor
		}
		return f
	}()
)

// partSum is a hash of a part.
func partSum(part []byte) uint32 { return crc32.Checksum(part[:partStart], castagnoli) }

// appendSums appends the sums of the whole parts of a block.
func appendSums(sums []uint32, block []byte) []uint32 {
	for ; len(block) >= partSize; block = block[partSize:] {
		sums = append(sums, partSum(block))
	}
	return sums
}

// window is a hash over the sums of the last parts, which rolls on from part to part.
type window struct {
	sums   [partsPerBlock]uint32
	at     int
	hash   uint64
	length int // parts since the last gap
	zeroes int // zero parts at the end
}

// skip begins anew behind a part that nobody knows.
func (w *window) skip() { *w = window{} }

// roll takes the next part. When a window ends with it whose content is sampled, it
// has an anchor. Zeroes have none.
func (w *window) roll(sum uint32) (a anchor, ok bool) {
	oldest := &w.sums[w.at%partsPerBlock]
	w.hash = (w.hash-uint64(*oldest)*windowLeaves)*windowFactor + uint64(sum)
	*oldest = sum
	w.at++
	w.length++
	if w.zeroes++; sum != zeroSum {
		w.zeroes = 0
	}
	if w.length < partsPerBlock || w.zeroes >= partsPerBlock {
		return 0, false
	}
	h := w.hash // as splitmix64 spreads
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	h ^= h >> 31
	return anchor(h >> (64 - 8*anchorBytes)), h%anchorEvery == 0
}

// key is what an index knows an anchor by.
func (a anchor) key() (d shortDigest) {
	h := uint64(a)
	for i := range 2 {
		h = (h + windowFactor) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
		binary.LittleEndian.PutUint64(d[8*i:], h)
	}
	return d
}

func (a anchor) append(b []byte) []byte {
	return append(b, byte(a>>32), byte(a>>24), byte(a>>16), byte(a>>8), byte(a))
}

func decodeAnchor(p []byte) anchor {
	return anchor(p[0])<<32 | anchor(binary.BigEndian.Uint32(p[1:]))
}

// anchors are those of the blocks of an extent.
type anchors struct {
	blocks uint64 // that have one
	of     []anchor
}

// blockAnchors returns the anchors of the blocks of an extent whose data is here.
func blockAnchors(e *extent) (list anchors) {
	for b := range ones(e.read &^ e.zero) {
		var room [partsPerBlock]uint32
		var w window
		for _, sum := range appendSums(room[:0], e.block(b)) {
			if a, ok := w.roll(sum); ok {
				list.blocks |= 1 << b
				list.of = append(list.of, a)
			}
		}
	}
	return list
}

// at returns the anchor of a block.
func (l *anchors) at(b int) (a anchor, ok bool) {
	if l.blocks>>b&1 == 0 {
		return 0, false
	}
	return l.of[bits.OnesCount64(l.blocks&(1<<b-1))], true
}

// only returns the anchors of those of the blocks that are listed.
func (l *anchors) only(blocks uint64) (list anchors) {
	list.blocks = l.blocks & blocks
	for b := range ones(list.blocks) {
		a, _ := l.at(b)
		list.of = append(list.of, a)
	}
	return list
}

// sighting is a window with an anchor, and where it lies.
type sighting struct {
	anchor
	position
}

// surveyor finds the anchors of all windows of a disk whose extents it sees in order.
type surveyor struct {
	window
	next uint32 // the extent that follows
	seen []sighting
}

// survey returns the windows with an anchor that end in an extent, whose parts were
// summed; the disk's first position is first. The slice is good until the next call.
func (s *surveyor) survey(e *extent, first position) []sighting {
	if e.number != s.next || e.read == 0 {
		s.skip()
	}
	s.next = e.number + 1
	s.seen = s.seen[:0]
	sums := e.sums
	for b := range e.blocks {
		if !e.has(b) {
			s.skip()
			continue
		}
		parts := min(len(sums), partsPerBlock)
		end := first + extentPosition(e.number) + position(b)*partsPerBlock + 1
		for i, sum := range sums[:parts] {
			if a, ok := s.roll(sum); ok {
				s.seen = append(s.seen, sighting{a, end + position(i) - partsPerBlock})
			}
		}
		sums = sums[parts:]
	}
	return s.seen
}
