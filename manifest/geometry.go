package manifest

import "fmt"

const (
	// BlockSize is the unit of comparison in bytes: the granularity of changed block tracking and of qcow2 clusters.
	BlockSize = 64 << 10
	// BlocksPerExtent is 64 so that one machine word holds a bitmap of an extent's blocks.
	BlocksPerExtent = 64
	// ExtentSize is the unit of coarse comparison, progress and journal, in bytes.
	ExtentSize = BlocksPerExtent * BlockSize
	// MaxSize is the largest logical size in bytes: 64 TiB, four times the largest qcow2 disk. Its 2³⁰ block numbers fit 32 bits.
	MaxSize = 64 << 40
)

// Geometry divides a disk into blocks and extents. Its methods expect a Geometry that Validate accepts, and block and extent
// numbers within it; they panic on others as an index out of range does.
type Geometry struct {
	Size int64 // logical size in bytes; need not be a multiple of anything
}

// Validate returns an ErrInvalid unless 0 < Size ≤ MaxSize.
func (g Geometry) Validate() error {
	if g.Size <= 0 || g.Size > MaxSize {
		return fmt.Errorf("logical size of %d bytes: %w: a disk has 1 to %d bytes", g.Size, ErrInvalid, int64(MaxSize))
	}
	return nil
}

// Blocks returns the number of blocks, the last of which may be short.
func (g Geometry) Blocks() uint32 { return uint32((g.Size + BlockSize - 1) / BlockSize) }

// Extents returns the number of extents, the last of which may be short.
func (g Geometry) Extents() uint32 { return uint32((g.Size + ExtentSize - 1) / ExtentSize) }

// BlockRange returns the place of a block: offset and length in bytes.
func (g Geometry) BlockRange(block uint32) (off int64, length int) {
	return g.unitRange("block", block, BlockSize)
}

// ExtentRange returns the place of an extent: offset and length in bytes.
func (g Geometry) ExtentRange(extent uint32) (off int64, length int) {
	return g.unitRange("extent", extent, ExtentSize)
}

// BlocksIn returns the number of blocks in an extent: BlocksPerExtent, or fewer in the last.
func (g Geometry) BlocksIn(extent uint32) int {
	_, length := g.ExtentRange(extent)
	return (length + BlockSize - 1) / BlockSize
}

func (g Geometry) unitRange(unit string, number uint32, size int64) (off int64, length int) {
	off = int64(number) * size
	if off >= g.Size {
		panic(fmt.Sprintf("manifest: %s %d is beyond a disk of %d bytes", unit, number, g.Size))
	}
	return off, int(min(size, g.Size-off))
}

// sameExtent reports whether an extent exists in both geometries with the same length, so that its digests can be taken over
// from one to the other.
func sameExtent(a, b Geometry, extent uint32) bool {
	if extent >= min(a.Extents(), b.Extents()) {
		return false
	}
	_, inA := a.ExtentRange(extent)
	_, inB := b.ExtentRange(extent)
	return inA == inB
}
