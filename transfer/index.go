package transfer

import (
	"encoding/binary"
	"sync"

	"github.com/understudy-dr/understudy/manifest"
)

// index finds blocks by content: a table from digests to block numbers, in sets
// of ways entries. An entry is 12 bytes, 8 of the digest and the block's number.
// What it says is a hint: the block is read and checked before it counts.
//
// While there is room it holds every block. When three quarters are taken it
// goes over to a sample: only digests with one more zero bit stay, or come in,
// which is one in two. Sampled digests are the same for all places of a content,
// so a file of some size that lies elsewhere is met at some of its blocks, and
// its other blocks are guessed beside those (see chain).
type index struct {
	mu      sync.Mutex
	digests []uint64 // 0: empty
	blocks  []uint32
	used    int
	mask    uint64 // the digests that are held have none of these bits
	fixed   uint32 // blocks from here on do not change
}

const (
	ways       = 8
	entryBytes = 12
	// DefaultIndex is the memory of a transfer's index, which holds every
	// block of 32 GiB of distinct content.
	DefaultIndex = 8 << 20
)

// newIndex makes an index for at most so many blocks, in so many bytes.
func newIndex(memory int64, blocks int64) *index {
	if memory == 0 {
		memory = DefaultIndex
	}
	// A small disk's index is so roomy that hardly an entry gives way.
	entries := min(memory/entryBytes, 2*blocks+4096)
	sets := max(1, entries/ways)
	return &index{digests: make([]uint64, sets*ways), blocks: make([]uint32, sets*ways), fixed: ^uint32(0)}
}

// tag is the part of a digest that an entry holds; the rest chooses the set.
func tag(d shortDigest) uint64 { return max(1, binary.LittleEndian.Uint64(d[:])) }

// set returns the first entry of a digest's set. Digests are keyed, so a guest
// cannot aim at one set.
func (x *index) set(d shortDigest) int {
	return int(binary.LittleEndian.Uint64(d[8:])%uint64(len(x.digests)/ways)) * ways
}

// put remembers that block holds the content of d. An entry of the same content
// stays when its block is below keep, or is one that does not change.
func (x *index) put(d shortDigest, block, keep uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.putOne(d, block, keep)
}

func (x *index) putOne(d shortDigest, block, keep uint32) {
	t := tag(d)
	if t&x.mask != 0 {
		return
	}
	first := x.set(d)
	at := -1
	for i := first; i < first+ways; i++ {
		if x.digests[i] == t {
			if x.blocks[i] >= keep && x.blocks[i] < x.fixed {
				x.blocks[i] = block
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
	x.digests[at], x.blocks[at] = t, block
	if x.used > len(x.digests)*3/4 {
		x.thin()
	}
}

// thin drops about half of the entries. x.mu is held.
func (x *index) thin() {
	x.mask = x.mask<<1 | 1
	for i, t := range x.digests {
		if t&x.mask != 0 {
			x.digests[i] = 0
			x.used--
		}
	}
}

// find returns a block that held the content of d.
func (x *index) find(d shortDigest) (block uint32, ok bool) {
	block, ok, _ = x.lookUp(d)
	return block, ok
}

// lookUp tells also whether there is a gap: d is not found, though the sample
// does not leave it out.
func (x *index) lookUp(d shortDigest) (block uint32, ok, gap bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if i := x.entry(d); i >= 0 {
		return x.blocks[i], true, false
	}
	return 0, false, tag(d)&x.mask == 0
}

// entry returns the place of d, or -1. x.mu is held.
func (x *index) entry(d shortDigest) int {
	t, first := tag(d), x.set(d)
	for i := first; i < first+ways; i++ {
		if x.digests[i] == t {
			return i
		}
	}
	return -1
}

// remove forgets that block holds the content of d.
func (x *index) remove(d shortDigest, block uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if i := x.entry(d); i >= 0 && x.blocks[i] == block {
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
			x.putOne(e.blocks[b].Short(), first+uint32(b), keep)
		}
	}
}

// firstBlock is the number of an extent's first block.
func firstBlock(extent uint32) uint32 { return extent * manifest.BlocksPerExtent }
