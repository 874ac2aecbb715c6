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

// indexEntries take 3 MiB and remember 8 GiB of distinct blocks; a transfer that
// must do with little memory has a quarter of that.
const indexEntries = 1 << 17

// newIndex sizes an index by Tuning.Memory.
func newIndex(memory int64) *index {
	entries := indexEntries
	if scarce(memory) {
		entries /= 4
	}
	return &index{entries: make([]indexEntry, entries)}
}

func (x *index) slot(d shortDigest) *indexEntry {
	// Digests are keyed, so a guest cannot aim at one slot.
	return &x.entries[binary.LittleEndian.Uint64(d[8:])%uint64(len(x.entries))]
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
