package transfer

import (
	"encoding/binary"
	"sync"

	"github.com/understudy-dr/understudy/manifest"
)

// index finds content: a table from digests of blocks, or anchors of windows, to
// positions, in sets of ways entries. An entry is 12 bytes: 60 bits of the digest, 4 for the part
// with which the content begins, and the number of its block.
// What it says is a hint: the content is read and checked before it counts.
//
// While there is room it holds every block. When three quarters are taken it
// goes over to a sample: only digests with one more zero bit stay, or come in,
// which is one in two. Sampled digests are the same for all places of a content,
// so a file of some size that lies elsewhere is met at some of its blocks, and
// its other blocks are guessed beside those (see chain).
type index struct {
	mu      sync.Mutex
	digests []uint64 // above the lowest phaseBits; 0: empty
	blocks  []uint32
	used    int
	mask    uint64 // the digests that are held have none of these bits
	fixed   uint32 // blocks from here on do not change
}

const (
	ways       = 8
	entryBytes = 12
	phaseBits  = 4 // that hold a part of a block
	// DefaultIndex is the memory of a transfer's index. It holds every
	// block of 32 GiB of distinct content, of half of it where anchors take the other half.
	DefaultIndex = 8 << 20
)

// newIndex makes an index for at most so many contents, in so many bytes.
func newIndex(memory int64, contents int64) *index {
	if memory == 0 {
		memory = DefaultIndex
	}
	// A small disk's index is so roomy that hardly an entry gives way.
	entries := min(memory/entryBytes, 2*contents+4096)
	sets := max(1, entries/ways)
	return &index{digests: make([]uint64, sets*ways), blocks: make([]uint32, sets*ways), fixed: ^uint32(0)}
}

// tag is the part of a digest that an entry holds; the rest chooses the set.
func tag(d shortDigest) uint64 {
	return max(1, binary.LittleEndian.Uint64(d[:])>>phaseBits) << phaseBits
}

const phaseMask = 1<<phaseBits - 1

// set returns the first entry of a digest's set. Digests are keyed, so a guest
// cannot aim at one set; with anchors it can, and makes that they find less.
func (x *index) set(d shortDigest) int {
	return int(binary.LittleEndian.Uint64(d[8:])%uint64(len(x.digests)/ways)) * ways
}

// put remembers that the content of d lies at a position. An entry of the same content
// stays when its block is below keep, or is one that does not change.
func (x *index) put(d shortDigest, at position, keep uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.putOne(d, at, keep)
}

func (x *index) putOne(d shortDigest, where position, keep uint32) {
	t := tag(d)
	if t&x.mask != 0 {
		return
	}
	first := x.set(d)
	at := -1
	for i := first; i < first+ways; i++ {
		if x.digests[i]&^phaseMask == t {
			if x.blocks[i] >= keep && x.blocks[i] < x.fixed {
				x.hold(i, t, where)
			}
			return
		}
		if at < 0 && x.digests[i] == 0 {
			at = i
		}
	}
	if at < 0 {
		at = first + int(t>>61) // some entry gives way
	} else {
		x.used++
	}
	x.hold(at, t, where)
	if x.used > len(x.digests)*3/4 {
		x.thin()
	}
}

// hold fills an entry. x.mu is held.
func (x *index) hold(i int, t uint64, at position) {
	x.digests[i], x.blocks[i] = t|uint64(at%partsPerBlock), at.block()
}

// thin drops about half of the entries. x.mu is held.
func (x *index) thin() {
	x.mask = x.mask<<1 | 1<<phaseBits
	for i, t := range x.digests {
		if t&x.mask != 0 {
			x.digests[i] = 0
			x.used--
		}
	}
}

// find returns a position at which the content of d was.
func (x *index) find(d shortDigest) (at position, ok bool) {
	at, ok, _ = x.lookUp(d)
	return at, ok
}

// lookUp tells also whether there is a gap: d is not found, though the sample
// does not leave it out.
func (x *index) lookUp(d shortDigest) (at position, ok, gap bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if i := x.entry(d); i >= 0 {
		return x.at(i), true, false
	}
	return 0, false, tag(d)&x.mask == 0
}

// entry returns the place of d, or -1. x.mu is held.
func (x *index) entry(d shortDigest) int {
	t, first := tag(d), x.set(d)
	for i := first; i < first+ways; i++ {
		if x.digests[i]&^phaseMask == t {
			return i
		}
	}
	return -1
}

// at is the position of an entry. x.mu is held.
func (x *index) at(i int) position {
	return blockPosition(x.blocks[i]) + position(x.digests[i]&phaseMask)
}

// remove forgets that the content of d lies at a position.
func (x *index) remove(d shortDigest, at position) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if i := x.entry(d); i >= 0 && x.at(i) == at {
		x.digests[i] = 0
		x.used--
	}
}

// sampling tells whether some contents are left out.
func (x *index) sampling() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.mask != 0
}

// putExtent remembers those blocks of an extent that are listed and not zero;
// they are numbered from first on.
func (x *index) putExtent(e *extent, listed uint64, first, keep uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for b := range e.blocks {
		if (listed&^e.zero)>>b&1 == 1 {
			x.putOne(e.blocks[b].Short(), blockPosition(first+uint32(b)), keep)
		}
	}
}

// firstBlock is the number of an extent's first block.
func firstBlock(extent uint32) uint32 { return extent * manifest.BlocksPerExtent }
