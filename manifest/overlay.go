package manifest

import (
	"fmt"
	"io"
	"slices"
	"sync"
)

// Overlay is a View of a base with a chain of deltas laid over it, the oldest first. Its memory is one table of extent
// digests, however long the chain. Safe for concurrent use when what it reads from is.
type Overlay struct {
	base    View
	deltas  []*Delta
	header  Header
	root    Digest
	extents []Digest

	mu     sync.Mutex
	hasher *Hasher // guarded by mu
}

// NewOverlay lays deltas over base and checks the chain under key: each delta starts from the generation and root before it
// (else ErrBase), and each step's extent digests lead to its root (else ErrCorrupt).
func NewOverlay(key Key, base View, deltas ...*Delta) (*Overlay, error) {
	if err := verify(key, base); err != nil {
		return nil, fmt.Errorf("base of overlay: %w", err)
	}
	o := &Overlay{
		base:    base,
		deltas:  slices.Clone(deltas),
		header:  base.Header(),
		root:    base.Root(),
		extents: base.Extents(),
		hasher:  key.NewHasher(),
	}
	for i, d := range deltas {
		if err := o.push(key, d); err != nil {
			return nil, fmt.Errorf("delta %d of %d: %w", i+1, len(deltas), err)
		}
	}
	return o, nil
}

func (o *Overlay) push(key Key, d *Delta) error {
	if have, want := d.Base(), (Base{Generation: o.header.Generation, Root: o.root}); have != want {
		return fmt.Errorf("%w: it starts from generation %s with root %s, the chain has come to generation %s with root %s",
			ErrBase, have.Generation, have.Root, want.Generation, want.Root)
	}
	extents, err := d.apply(o.extents)
	if err != nil {
		return err
	}
	o.header, o.root, o.extents = d.Header(), d.Root(), extents
	return verify(key, o)
}

// Header implements View: that of the newest delta.
func (o *Overlay) Header() Header { return o.header }

// Root implements View.
func (o *Overlay) Root() Digest { return o.root }

// Extents implements View.
func (o *Overlay) Extents() []Digest { return o.extents }

// BlockDigests implements View. What it reads is checked against the extent digest, else an ErrCorrupt.
func (o *Overlay) BlockDigests(extent uint32) ([]Digest, error) {
	if err := checkExtent(o.header.Geometry, extent); err != nil {
		return nil, err
	}
	blocks, err := o.newest(extent)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return blocks, checkBlocks(o.hasher, extent, blocks, o.extents[extent])
}

// newest reads an extent from the newest delta that has it, or else from the base. An extent whose length changed on the way
// is in the delta that changed it, so an older one is never found in its place.
func (o *Overlay) newest(extent uint32) ([]Digest, error) {
	for _, d := range slices.Backward(o.deltas) {
		if blocks, found, err := d.blocks(extent); found {
			return blocks, err
		}
	}
	return o.base.BlockDigests(extent)
}

// Flatten writes a View as a manifest of its own, for example to end a chain of deltas, and returns its root.
func Flatten(w io.Writer, key Key, v View) (Digest, error) {
	return Compose(w, key, v.Header(), v, MissingFails, nil)
}
