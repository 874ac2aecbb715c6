package manifest

import (
	"fmt"
	"iter"
)

// Diff returns the numbers of the extents that differ, ascending. Extents that only one of the two has differ. It fails with
// ErrKey when the digests are of two domains and say nothing of each other.
func Diff(a, b View) (iter.Seq[uint32], error) {
	if idA, idB := a.Header().KeyID, b.Header().KeyID; idA != idB {
		return nil, fmt.Errorf("compare manifests: %w: one is under key %s, the other under %s", ErrKey, idA, idB)
	}
	extentsA, extentsB := a.Extents(), b.Extents()
	common := min(len(extentsA), len(extentsB))
	return func(yield func(uint32) bool) {
		for e := range max(len(extentsA), len(extentsB)) {
			if (e >= common || extentsA[e] != extentsB[e]) && !yield(uint32(e)) {
				return
			}
		}
	}, nil
}

// DiffBlocks returns a bitmap of the blocks that differ within one extent: bit i for block i. Blocks that only one of the two
// has differ. Both have at most BlocksPerExtent digests.
func DiffBlocks(a, b []Digest) (bitmap uint64) {
	common := min(len(a), len(b))
	for i := range max(len(a), len(b)) {
		if i >= common || a[i] != b[i] {
			bitmap |= 1 << i
		}
	}
	return bitmap
}
