package transfer

import (
	"encoding/binary"
	"sync"

	"github.com/understudy-dr/understudy/manifest"
)

// index finds blocks by content: a direct-mapped table from short digests to
// block numbers, so its memory is fixed and an old entry gives way to a new one.
// What it says is a hint; the block is read and checked before it counts.
type index struct {
	mu      sync.Mutex
	entries []indexEntry
}

type indexEntry struct {
	digest shortDigest
	block  uint32
	used   bool
}

// indexEntries is a power of two: 3 MiB, which remembers 8 GiB of distinct
// blocks.
const indexEntries = 1 << 17

func newIndex() *index { return &index{entries: make([]indexEntry, indexEntries)} }

func (x *index) slot(d shortDigest) *indexEntry {
	// Digests are keyed, so a guest cannot aim at one slot.
	return &x.entries[binary.LittleEndian.Uint64(d[8:])%indexEntries]
}

// put remembers that block holds the content of d.
func (x *index) put(d shortDigest, block uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	*x.slot(d) = indexEntry{digest: d, block: block, used: true}
}

// find returns a block that held the content of d.
func (x *index) find(d shortDigest) (block uint32, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.slot(d)
	return e.block, e.used && e.digest == d
}

// putExtent remembers those blocks of an extent that are listed and not zero.
func (x *index) putExtent(e *extent, listed uint64) {
	first := e.number * manifest.BlocksPerExtent
	for b := range e.blocks {
		if (listed&^e.zero)>>b&1 == 1 {
			x.put(e.blocks[b].Short(), first+uint32(b))
		}
	}
}
