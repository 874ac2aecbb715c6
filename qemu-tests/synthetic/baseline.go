package synthetic

import (
	"context"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// Changes marks the blocks that differ between the first generation and the device's own.
func (c *Content) Changes() *blockio.AllocationMap {
	m := blockio.NewAllocationMap(c.Size)
	for block := uint64(0); int64(block)*manifest.BlockSize < c.Size; {
		if c.hole(block) {
			block = (block/regionBlocks + 1) * regionBlocks
			continue
		}
		if c.changed(block) {
			m.Mark(int64(block)*manifest.BlockSize, 1)
		}
		block++
	}
	return m
}

// Baseline makes block digests from the content, as a cached manifest would give them. It implements
// transfer.Baseline.
type Baseline struct {
	content Content
	key     manifest.Key
	extents []manifest.Digest
}

// NewBaseline reads the content where there is data. It takes 8 MiB a TiB.
func NewBaseline(c Content, key manifest.Key) *Baseline {
	g := manifest.Geometry{Size: c.Size}
	b := &Baseline{content: c, key: key, extents: make([]manifest.Digest, g.Extents())}
	h := key.NewHasher()
	zero := h.Extent(h.ZeroBlocks(manifest.Geometry{Size: manifest.ExtentSize}, 0))
	buf := make([]byte, manifest.BlockSize)
	blocks := make([]manifest.Digest, manifest.BlocksPerExtent)
	for e := range g.Extents() {
		if _, length := g.ExtentRange(e); length == manifest.ExtentSize && c.hole(uint64(e)*manifest.BlocksPerExtent) {
			b.extents[e] = zero
			continue
		}
		b.extents[e] = h.Extent(b.digests(h, g, e, buf, blocks))
	}
	return b
}

func (b *Baseline) digests(h *manifest.Hasher, g manifest.Geometry, extent uint32, buf []byte, blocks []manifest.Digest) []manifest.Digest {
	blocks = blocks[:g.BlocksIn(extent)]
	for i := range blocks {
		number := extent*manifest.BlocksPerExtent + uint32(i)
		_, length := g.BlockRange(number)
		name := b.content.name(uint64(number))
		if name == 0 {
			blocks[i] = h.ZeroBlock(length)
			continue
		}
		fill(buf[:length], name, 0)
		blocks[i] = h.Block(buf[:length])
	}
	return blocks
}

// Extents implements transfer.Baseline.
func (b *Baseline) Extents() []manifest.Digest { return b.extents }

// Prefetch implements transfer.Baseline.
func (b *Baseline) Prefetch(...uint32) {}

// Blocks implements transfer.Baseline.
func (b *Baseline) Blocks(_ context.Context, extent uint32) ([]manifest.Digest, error) {
	g := manifest.Geometry{Size: b.content.Size}
	return b.digests(b.key.NewHasher(), g, extent, make([]byte, manifest.BlockSize), make([]manifest.Digest, manifest.BlocksPerExtent)), nil
}
