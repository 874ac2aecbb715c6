package transfer

import (
	"math/bits"

	"github.com/understudy-dr/understudy/manifest"
)

// found says where the content of an extent's blocks may be copied from.
type found struct {
	from  [manifest.BlocksPerExtent]uint32
	known uint64 // blocks that the index, or the peer, found
	guess uint64 // blocks whose neighbours were found
	gaps  uint64 // blocks that are in no index, though it had them unless they gave way
}

func (f *found) set(b int, from uint32) {
	f.from[b] = from
	f.known |= 1 << b
}

// chain guesses the blocks that a sampled index leaves out: what stands beside a
// found block stood beside it before. The last extent's shift goes on in the next
// one, for so many blocks without a new find.
type chain struct {
	shift  int64 // from where it is found to where it is wanted, in blocks
	left   int
	missed int // gaps since the last find
}

// chainBlocks bounds the guesses without a find. The largest disks that the
// smallest index is made for have a sampled block in 256.
const chainBlocks = 1024

// chainGaps ends a chain: so many blocks in a row have hardly all given way.
const chainGaps = 3

// extend guesses where those of the wanted blocks lie that are not known; limit
// is the number of blocks there are.
func (c *chain) extend(f *found, first uint32, wanted uint64, limit int64) {
	if f.known == 0 {
		if c.missed += bits.OnesCount64(f.gaps); c.missed >= chainGaps {
			c.left = 0
		}
	}
	for b := range ones(wanted &^ f.known) {
		from := int64(first) + int64(b)
		below, above := f.known&(1<<b-1), f.known>>b
		switch {
		case below != 0:
			near := bits.Len64(below) - 1
			from = int64(f.from[near]) + int64(b-near)
		case above != 0:
			near := bits.TrailingZeros64(above)
			from = int64(f.from[b+near]) - int64(near)
		case c.left > 0:
			c.left--
			from -= c.shift
		default:
			continue
		}
		if from >= 0 && from < limit && from != int64(first)+int64(b) {
			f.from[b] = uint32(from)
			f.guess |= 1 << b
		}
	}
	if f.known != 0 {
		c.follow(f, first, 63-bits.LeadingZeros64(f.known))
	}
}

// follow has the chain go on from block b, which was found.
func (c *chain) follow(f *found, first uint32, b int) {
	c.shift = int64(first) + int64(b) - int64(f.from[b])
	c.left, c.missed = chainBlocks, 0
}
