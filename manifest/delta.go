package manifest

import (
	"fmt"
	"io"
	"slices"
)

// DeltaWriter writes a delta as a stream: the extents by which a new state differs from a base. Its memory is a table of all
// extent digests, 8 MiB a TiB. Not for concurrent use.
type DeltaWriter struct {
	c       *container
	key     Key
	base    View
	extents []Digest // of the new state, as far as it is known
	next    uint32   // extents below are settled
}

// NewDeltaWriter begins a delta from base to the state that h describes, whose logical size may differ. It fails with ErrKey,
// ErrInvalid or, for a base whose root is wrong, ErrCorrupt, before a byte is written.
func NewDeltaWriter(w io.Writer, key Key, h Header, base View) (*DeltaWriter, error) {
	if err := verify(key, base); err != nil {
		return nil, fmt.Errorf("base of delta: %w", err)
	}
	from := Base{Generation: base.Header().Generation, Root: base.Root()}
	if h.Generation == from.Generation {
		return nil, fmt.Errorf("generation %s of delta: %w: it is that of the base", h.Generation, ErrInvalid)
	}
	c, err := newContainer(w, kindDelta, key, h, from)
	if err != nil {
		return nil, err
	}
	return &DeltaWriter{c: c, key: key, base: base, extents: resize(base.Extents(), h.Geometry)}, nil
}

// Add takes an extent of the new state, in ascending order. One that equals the base's is left out of the file. An extent that
// does not fit is an ErrInvalid, writes nothing and leaves the DeltaWriter usable. After a failed write every call fails.
func (w *DeltaWriter) Add(r Record) error {
	if err := w.c.check(r); err != nil {
		return err
	}
	if r.Extent < w.next {
		return fmt.Errorf("record of extent %d: %w: they come in ascending order, and those below %d are settled", r.Extent, ErrInvalid, w.next)
	}
	if err := w.inherit(r.Extent); err != nil {
		return err
	}
	w.next = r.Extent + 1
	digest := w.c.hasher.Extent(r.Blocks)
	if w.inherited(r.Extent) && digest == w.extents[r.Extent] {
		return nil
	}
	w.extents[r.Extent] = digest
	return w.c.add(r, digest)
}

// Close writes the end of the delta and returns the root of the new state. It fails with ErrMissing when the base does not
// have an extent that was not added. It neither syncs nor closes the underlying writer; see File.
func (w *DeltaWriter) Close() (Digest, error) {
	if err := w.c.end(); err != nil {
		return Digest{}, err
	}
	if err := w.inherit(w.c.header.Geometry.Extents()); err != nil {
		return Digest{}, err
	}
	root, err := rootOf(w.key, w.c.header.Geometry, w.extents)
	if err != nil {
		return Digest{}, err
	}
	return root, w.c.finish(root)
}

func (w *DeltaWriter) inherited(extent uint32) bool {
	return sameExtent(w.base.Header().Geometry, w.c.header.Geometry, extent)
}

// inherit checks that the base has the extents from next to end, which were not added.
func (w *DeltaWriter) inherit(end uint32) error {
	for e := w.next; e < end; e++ {
		if !w.inherited(e) {
			return fmt.Errorf("extent %d of delta: %w: the base has none of this length", e, ErrMissing)
		}
	}
	return nil
}

// resize returns a copy of extent digests with room for those of g.
func resize(extents []Digest, g Geometry) []Digest {
	all := make([]Digest, g.Extents())
	copy(all, extents)
	return all
}

// Delta reads the extents by which a state differs from its base. Safe for concurrent use when its io.ReaderAt is. Its digests
// are checked under a key once it is part of an Overlay.
type Delta struct{ a *archive }

// OpenDelta reads header, index, table and footer of a delta that fills the size bytes of r. It fails with ErrCorrupt
// (ErrTruncated) or ErrVersion, and leaves nothing open.
func OpenDelta(r io.ReaderAt, size int64) (*Delta, error) {
	a, err := openArchive(r, size, kindDelta)
	if err != nil {
		return nil, fmt.Errorf("open delta: %w", err)
	}
	return &Delta{a: a}, nil
}

// Header describes the new state.
func (d *Delta) Header() Header { return d.a.header }

// Root is that of the new state.
func (d *Delta) Root() Digest { return d.a.root }

// Base names the state that the delta starts from.
func (d *Delta) Base() Base { return d.a.base }

// Changed returns the numbers of the extents in the delta, ascending. The slice is shared and must not be changed.
func (d *Delta) Changed() []uint32 { return d.a.numbers }

// blocks returns the block digests of an extent, or found false when the delta leaves it as it was.
func (d *Delta) blocks(extent uint32) (blocks []Digest, found bool, err error) {
	place, found := slices.BinarySearch(d.a.numbers, extent)
	if !found {
		return nil, false, nil
	}
	blocks, err = d.a.blocks(place, extent)
	return blocks, true, err
}

// apply returns the extent digests of the new state from those of the base. Whether none is missing shows in the root.
func (d *Delta) apply(extents []Digest) ([]Digest, error) {
	g := d.a.header.Geometry
	if have := len(extents) + len(d.a.numbers); int64(g.Extents()) > int64(have) {
		// Before memory is taken for a size that is not there.
		return nil, fmt.Errorf("%d extents: %w: the delta and its base together have %d at most", g.Extents(), ErrCorrupt, have)
	}
	all := resize(extents, g)
	for place, e := range d.a.numbers {
		all[e] = d.a.digests[place]
	}
	return all, nil
}
