package transfer

import (
	"math/bits"

	"github.com/understudy-dr/understudy/manifest"
)

// found says where the content of an extent's blocks may be copied from.
type found struct {
	from  [manifest.BlocksPerExtent]position
	known uint64 // blocks that an index, or the peer, found
	guess uint64 // blocks whose neighbours were found
	gaps  uint64 // blocks that are in no index, though it had them unless they gave way
}

func (f *found) set(b int, from position) {
	f.from[b] = from
	f.known |= 1 << b
}

// aligned returns those of the known blocks that are whole blocks where they are found.
func (f *found) aligned() (blocks uint64) {
	for b := range ones(f.known) {
		if f.from[b].aligned() {
			blocks |= 1 << b
		}
	}
	return blocks
}

// chain guesses the blocks that no index has, since it is a sample: what stands beside a
// found block stood beside it before. The last extent's shift goes on in the next
// one, for so many blocks without a new find.
type chain struct {
	shift  int64 // from where it is found to where it is wanted, in parts
	left   int
	missed int // gaps since the last find
}

// chainBlocks bounds the guesses without a find. The largest disks that the
// smallest index is made for have a sampled block in 256.
const chainBlocks = 1024

// chainGaps ends a chain: so many blocks in a row have hardly all given way.
const chainGaps = 3

// extend guesses where those of the wanted blocks lie that are not known; limit
// is where the last disk ends. Anchors are always a sample; the index of blocks may be one, else it
// would have said so if they lay at whole blocks.
func (c *chain) extend(f *found, first position, wanted uint64, limit position, sampled bool) {
	bases := f.known
	if !sampled {
		bases &^= f.aligned()
	}
	whole := c.shift%partsPerBlock == 0
	if f.known == 0 && whole {
		if c.missed += bits.OnesCount64(f.gaps); c.missed >= chainGaps {
			c.left = 0
		}
	}
	for b := range ones(wanted &^ f.known) {
		self := int64(first) + int64(b)*partsPerBlock
		from := self
		below, above := bases&(1<<b-1), bases>>b
		switch {
		case below != 0:
			near := bits.Len64(below) - 1
			from = int64(f.from[near]) + int64(b-near)*partsPerBlock
		case above != 0:
			near := bits.TrailingZeros64(above)
			from = int64(f.from[b+near]) - int64(near)*partsPerBlock
		case c.left > 0 && (sampled || !whole):
			c.left--
			from -= c.shift
		default:
			continue
		}
		if from >= 0 && from < int64(limit) && from != self {
			f.from[b] = position(from)
			f.guess |= 1 << b
		}
	}
	if f.known != 0 {
		c.follow(f, first, 63-bits.LeadingZeros64(f.known))
	}
}

// follow has the chain go on from block b, which was found.
func (c *chain) follow(f *found, first position, b int) {
	c.goOn(int64(first) + int64(b)*partsPerBlock - int64(f.from[b]))
}

// goOn has the chain go on with a shift.
func (c *chain) goOn(shift int64) { c.shift, c.left, c.missed = shift, chainBlocks, 0 }
