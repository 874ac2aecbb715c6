package synthetic

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"

	"github.com/understudy-dr/understudy/manifest"
)

// Content says what a device holds that nobody has written to.
type Content struct {
	Size int64 // in bytes
	Seed uint64
	// Data is 0 for a device of zeroes; else one region of 32 MiB in so many holds data, and the others are holes.
	Data uint64
	// Changed is 0 for the first generation; else one block with data in so many is another than in the first generation.
	Changed uint64
}

const (
	regionBlocks = 32 << 20 / manifest.BlockSize
	zeroOneIn    = 16 // blocks with data
	recurOneIn   = 8
	recurring    = 100 // contents
)

// mix scatters a number (splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// hole reports whether a block lies in a region without data.
func (c *Content) hole(block uint64) bool {
	return c.Data == 0 || mix(c.Seed^block/regionBlocks)%c.Data != 0
}

// changed reports whether a block is another than in the first generation.
func (c *Content) changed(block uint64) bool {
	return c.Changed != 0 && !c.hole(block) && mix(c.Seed+0x5eed+block)%c.Changed == 0
}

// name returns what the content of a block is made of; 0 is zeroes.
func (c *Content) name(block uint64) uint64 {
	if c.hole(block) {
		return 0
	}
	if c.changed(block) {
		return mix(^(c.Seed + block)) | 1
	}
	switch kind := mix(c.Seed + block); {
	case kind%zeroOneIn == 0:
		return 0
	case kind%recurOneIn == 1:
		return 2 * (1 + kind/recurOneIn%recurring)
	default:
		return kind | 1
	}
}

// noise is what blocks are cut from: copying is faster than drawing.
var noise = sync.OnceValue(func() []byte {
	p := make([]byte, 4*manifest.BlockSize)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(p) // never fails
	return p
})

// fill makes the content of a name from an offset within the block on.
func fill(p []byte, name uint64, off int) {
	if name == 0 {
		clear(p)
		return
	}
	const stamps = 4096 // every page is its own
	shift := int(name>>32) % (3 * manifest.BlockSize)
	copy(p, noise()[shift+off:])
	for at := (off + stamps - 1) &^ (stamps - 1); at < off+len(p); at += stamps {
		var stamp [8]byte
		binary.LittleEndian.PutUint64(stamp[:], mix(name+uint64(at)))
		copy(p[at-off:], stamp[:])
	}
	if within := off % stamps; within > 0 && within < 8 { // the rest of a stamp
		var stamp [8]byte
		binary.LittleEndian.PutUint64(stamp[:], mix(name+uint64(off-within)))
		copy(p, stamp[within:])
	}
}
