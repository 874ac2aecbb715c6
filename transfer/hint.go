package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// Hint says what of a disk need not be read. What is not read is assumed, and
// counted as such; each run reads a slice of it nevertheless, before anything
// else, and one block that is not as assumed disables the hint: then all is read.
// The maps are of the logical size, and do not change meanwhile.
//
//	block     │ not marked in Changed │ marked, or no Changed
//	──────────┼───────────────────────┼────────────────────────────
//	assumed   │ as in Base            │ zero, if not marked in Allocated
type Hint struct {
	// Allocated, when set, marks what may hold data. The rest reads as zeroes.
	Allocated *blockio.AllocationMap
	// Changed, when set, marks what may differ from Base. It is only true of
	// a Base that is the manifest of exactly the snapshot since which the
	// changes were tracked. Of an extent that Base does not know all must be marked.
	Changed *blockio.AllocationMap
	Base    Baseline
	// Slice is the extent at which the rolling slice goes on: what the last
	// run's HintResult says, so that all of a disk is read in time.
	Slice uint32
}

// HintResult tells what became of a hint.
type HintResult struct {
	Assumed int64  // bytes that were not read: the root is true as far as the hint is
	Slice   uint32 // where the next run's slice starts
	// Disabled is the cause for which everything was read, or nil.
	Disabled error
}

// HintError is an extent that is not as the hint had it. It wraps ErrMismatch.
type HintError struct{ Extent uint32 }

func (e *HintError) Error() string {
	return fmt.Sprintf("extent %d is not as the hint has it, so everything is read: "+
		"something writes the disk that change tracking does not see, or the map is of another disk or moment", e.Extent)
}

func (e *HintError) Unwrap() error { return ErrMismatch }

// The rolling slice of a disk: a 64th of it, at most 256 MiB.
const (
	sliceDivisor = 64
	sliceExtents = 256 << 20 / manifest.ExtentSize
)

// baseAhead is how many extents' block digests of a Base are asked for ahead, at
// 2 KiB each.
const baseAhead = 512

// assumptions is a Hint in use; that of no hint, or of a disabled one, is that
// everything is read.
type assumptions struct {
	Hint
	geometry manifest.Geometry
	base     []manifest.Digest      // extent digests of Base
	only     *blockio.AllocationMap // what is read; nil: everything

	zeroes, lastZeroes zeroExtent // whole extents, and the last one

	asked       uint32 // Base was asked for the blocks it must give below
	outstanding int    // and has not given so many

	sample  *Sample  // what alone is looked at; nil: everything
	checked []uint32 // extents of the slice: assumed, but read; ascending
	result  HintResult
}

// zeroExtent is an extent that holds only zeroes.
type zeroExtent struct {
	blocks []manifest.Digest // shared: not to be changed
	digest manifest.Digest
}

func newZeroExtent(h *manifest.Hasher, g manifest.Geometry, number uint32) zeroExtent {
	blocks := h.ZeroBlocks(g, number)
	return zeroExtent{blocks: blocks, digest: h.Extent(blocks)}
}

// newAssumptions checks a hint against the disk. The hint may be nil.
func newAssumptions(h *Hint, g manifest.Geometry, key manifest.Key) (*assumptions, error) {
	if h == nil || h.Allocated == nil && h.Changed == nil {
		return &assumptions{geometry: g}, nil
	}
	a := &assumptions{Hint: *h, geometry: g}
	if err := a.limit(); err != nil {
		return nil, fmt.Errorf("%w: hint: %w", ErrTask, err)
	}
	if h.Changed != nil {
		if h.Base == nil {
			return nil, fmt.Errorf("%w: a hint of what changed, without what it changed from", ErrTask)
		}
		a.base = h.Base.Extents()
		if err := checkKnown(g, a.base); err != nil {
			return nil, err
		}
		for number, known := range a.base {
			if _, base, _ := a.split(uint32(number)); known == (manifest.Digest{}) && base != 0 {
				return nil, fmt.Errorf("%w: a hint has extent %d unchanged, of which its manifest knows nothing", ErrTask, number)
			}
		}
	}
	hasher := key.NewHasher()
	a.zeroes = newZeroExtent(hasher, manifest.Geometry{Size: manifest.ExtentSize}, 0)
	a.lastZeroes = newZeroExtent(hasher, g, g.Extents()-1)
	a.Slice %= g.Extents()
	return a, nil
}

// limit makes the map of what is read. One map alone is not copied: it may take a
// good part of the memory.
func (a *assumptions) limit() error {
	for _, m := range []*blockio.AllocationMap{a.Allocated, a.Changed} {
		if m != nil && m.Size() != a.geometry.Size {
			return fmt.Errorf("%w: of a device of %d bytes, the logical size is %d", blockio.ErrMap, m.Size(), a.geometry.Size)
		}
	}
	switch {
	case a.Allocated == nil:
		a.only = a.Changed
	case a.Changed == nil:
		a.only = a.Allocated
	default:
		a.only = a.Allocated.Clone()
		return a.only.Intersect(a.Changed)
	}
	return nil
}

// split divides the blocks of an extent into those that are read, those that are
// as in Base and those that are zero.
func (a *assumptions) split(number uint32) (read, base, zero uint64) {
	all := fullBitmap(a.geometry, number)
	if a.Changed != nil {
		base = all &^ a.Changed.Word(int(number))
	}
	if a.Allocated != nil {
		zero = all &^ a.Allocated.Word(int(number)) &^ base
	}
	return all &^ (base | zero), base, zero
}

func (a *assumptions) zero(number uint32) *zeroExtent {
	if number == a.geometry.Extents()-1 {
		return &a.lastZeroes
	}
	return &a.zeroes
}

// whole returns the digest of an extent of which nothing is read and which is
// either as in Base or zero, so that its digest is known without those of its
// blocks.
func (a *assumptions) whole(number uint32) (d manifest.Digest, ok bool) {
	switch read, base, zero := a.split(number); {
	case read != 0 || base != 0 && zero != 0:
		return d, false
	case base != 0:
		return a.base[number], true
	default:
		return a.zero(number).digest, true
	}
}

// lookAhead asks for the block digests that will be needed for extents from
// number on. One goroutine calls it, with ascending numbers.
func (a *assumptions) lookAhead(number uint32) {
	if a.Changed == nil {
		return
	}
	needed := func(n uint32) bool {
		_, base, _ := a.split(n)
		_, whole := a.whole(n)
		return base != 0 && !whole
	}
	if number < a.asked && needed(number) {
		a.outstanding--
	}
	for a.asked = max(a.asked, number+1); a.asked < a.geometry.Extents() && a.outstanding < baseAhead; a.asked++ {
		if needed(a.asked) {
			a.Base.Prefetch(a.asked)
			a.outstanding++
		}
	}
}

// assume counts what of an extent is not read.
func (a *assumptions) assume(number uint32, p *Progress) {
	if a.only == nil {
		return
	}
	if _, read := slices.BinarySearch(a.checked, number); read {
		return
	}
	_, base, zero := a.split(number)
	n := int64(contentLength(a.geometry, number, base|zero))
	a.result.Assumed += n
	p.assumed.Add(n)
}

// sliced lists the extents of the rolling slice, and tells where the next one
// starts.
func (a *assumptions) sliced() (extents []uint32, next uint32) {
	count := a.geometry.Extents()
	room := int(min((count+sliceDivisor-1)/sliceDivisor, sliceExtents))
	for i := range count {
		number := (a.Slice + i) % count
		if len(extents) == room {
			return extents, number
		}
		if _, base, zero := a.split(number); base|zero != 0 {
			extents = append(extents, number)
		}
	}
	return extents, a.Slice
}

// test reads the slice, and disables a hint that is wrong.
func (a *assumptions) test(ctx context.Context, src Source, key manifest.Key, pool *blockio.Pool, depth int, p *Progress) error {
	if a.only == nil || a.sample != nil {
		return nil
	}
	err := a.check(ctx, src, key, pool, depth, p)
	if wrong := (*HintError)(nil); errors.As(err, &wrong) {
		a.result.Disabled = wrong
		a.Allocated, a.Changed, a.only = nil, nil, nil
		return nil
	}
	return err
}

// check compares the slice with what is assumed of it. A *HintError is a hint that
// must not be used.
func (a *assumptions) check(ctx context.Context, src Source, key manifest.Key, pool *blockio.Pool, depth int, p *Progress) error {
	a.checked, a.result.Slice = a.sliced()
	slices.Sort(a.checked)
	only := blockio.NewAllocationMap(a.geometry.Size)
	for _, number := range a.checked {
		_, base, zero := a.split(number)
		for b := range ones(base | zero) {
			off, n := a.geometry.BlockRange(number*manifest.BlocksPerExtent + uint32(b))
			only.Mark(off, int64(n))
		}
	}
	scanner := blockio.NewScanner(ctx, src, blockio.ScanOptions{QueueDepth: depth, Pool: pool, End: a.geometry.Size, Only: only})
	h := key.NewHasher()
	for _, number := range a.checked {
		if err := a.checkExtent(ctx, scanner, number, h, p); err != nil {
			return errors.Join(err, scanner.Close())
		}
	}
	return scanner.Close()
}

func (a *assumptions) checkExtent(ctx context.Context, scanner *blockio.Scanner, number uint32, h *manifest.Hasher, p *Progress) error {
	read, base, zero := a.split(number)
	e, err := nextExtent(scanner, a.geometry, number, base|zero, p)
	if err != nil {
		return err
	}
	defer e.release()
	start := time.Now()
	for b := range ones(zero) {
		if !manifest.IsZero(e.block(b)) {
			return &HintError{number}
		}
	}
	if base == 0 {
		return nil
	}
	blocks := make([]manifest.Digest, a.geometry.BlocksIn(number))
	for b := range ones(base) {
		blocks[b] = h.Block(e.block(b))
	}
	p.spend(StageHash, start)
	if read|zero == 0 {
		if h.Extent(blocks) != a.base[number] {
			return &HintError{number}
		}
		return nil
	}
	held, err := a.baseBlocks(ctx, number, h)
	if err != nil {
		return err
	}
	for b := range ones(base) {
		if held[b] != blocks[b] {
			return &HintError{number}
		}
	}
	return nil
}

// baseBlocks returns the block digests of an extent in Base, checked against its
// digest there. The slice is the caller's.
func (a *assumptions) baseBlocks(ctx context.Context, number uint32, h *manifest.Hasher) ([]manifest.Digest, error) {
	blocks, err := a.Base.Blocks(ctx, number)
	if err != nil {
		return nil, fmt.Errorf("block digests of extent %d: %w", number, err)
	}
	if len(blocks) != a.geometry.BlocksIn(number) || h.Extent(blocks) != a.base[number] {
		return nil, fmt.Errorf("%w: the manifest's block digests of extent %d do not belong to its extent digest", ErrMismatch, number)
	}
	return slices.Clone(blocks), nil
}
