package manifest

import (
	"cmp"
	"fmt"
	"io"
	"iter"
	"slices"
)

// Missing says what an extent is that neither the base nor the changes have.
type Missing int

const (
	// MissingFails makes it an ErrMissing.
	MissingFails Missing = iota
	// MissingIsZero takes it for zeroes: right for a fresh disk of a format that reads as zeroes where it was never written.
	MissingIsZero
)

// Changes are the records of changed extents by ascending extent. Of several records of one extent the last counts. The
// sequence ends after a record that comes with an error. Journal.Records and Sorted make such sequences.
type Changes = iter.Seq2[Record, error]

// Sorted returns records in memory as Changes, the later ones winning.
func Sorted(records []Record) Changes {
	sorted := slices.Clone(records)
	slices.SortStableFunc(sorted, func(a, b Record) int { return cmp.Compare(a.Extent, b.Extent) })
	return func(yield func(Record, error) bool) {
		for _, r := range sorted {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Compose writes the manifest of base with changes, both of which may be nil, and returns its root. h describes the new
// state: its logical size may differ from the base's, and h.Assumed is the caller's to decide, also when the base's was set.
// What is taken over from base is checked under key. After an error, what was written is no manifest: write to a File and
// commit it on success only.
func Compose(w io.Writer, key Key, h Header, base View, missing Missing, changes Changes) (Digest, error) {
	if base != nil {
		if err := verify(key, base); err != nil {
			return Digest{}, fmt.Errorf("base: %w", err)
		}
	}
	out, err := NewWriter(w, key, h)
	if err != nil {
		return Digest{}, err
	}
	c := composer{hasher: key.NewHasher(), geometry: h.Geometry, base: base, missing: missing, copyBase: true, add: out.Add}
	if err := c.run(changes); err != nil {
		return Digest{}, err
	}
	return out.Close()
}

// ComposeDelta writes the delta from base to base with changes, and returns the root of the new state. Its parameters are
// those of Compose.
func ComposeDelta(w io.Writer, key Key, h Header, base View, missing Missing, changes Changes) (Digest, error) {
	out, err := NewDeltaWriter(w, key, h, base)
	if err != nil {
		return Digest{}, err
	}
	c := composer{hasher: out.c.hasher, geometry: h.Geometry, base: base, missing: missing, add: out.Add}
	if err := c.run(changes); err != nil {
		return Digest{}, err
	}
	return out.Close()
}

// composer merges changes, base and zeroes into one ascending sequence of records.
type composer struct {
	hasher   *Hasher
	geometry Geometry
	base     View // nil: none
	missing  Missing
	copyBase bool // extents of the base are added too
	add      func(Record) error
	next     uint32 // extents below are done
}

func (c *composer) run(changes Changes) error {
	if changes != nil {
		for r, err := range last(changes) {
			if err != nil {
				return fmt.Errorf("changes: %w", err)
			}
			if err := r.check(c.geometry); err != nil {
				return err
			}
			if err := c.fill(r.Extent); err != nil {
				return err
			}
			if err := c.add(r); err != nil {
				return err
			}
			c.next = r.Extent + 1
		}
	}
	return c.fill(c.geometry.Extents())
}

// fill adds what lies between the changes: the extents from next to end.
func (c *composer) fill(end uint32) error {
	for ; c.next < end; c.next++ {
		e := c.next
		if c.base != nil && sameExtent(c.base.Header().Geometry, c.geometry, e) {
			if !c.copyBase {
				continue
			}
			blocks, err := c.base.BlockDigests(e)
			if err == nil {
				err = checkBlocks(c.hasher, e, blocks, c.base.Extents()[e])
			}
			if err != nil {
				return fmt.Errorf("base: %w", err)
			}
			if err := c.add(Record{Extent: e, Blocks: blocks}); err != nil {
				return err
			}
			continue
		}
		if c.missing != MissingIsZero {
			return fmt.Errorf("extent %d: %w: neither the base nor the changes have it; scan it", e, ErrMissing)
		}
		if err := c.add(Record{Extent: e, Blocks: c.hasher.ZeroBlocks(c.geometry, e)}); err != nil {
			return err
		}
	}
	return nil
}

// last yields the last of the records of each extent, and an ErrInvalid where extents do not ascend.
func last(changes Changes) Changes {
	return func(yield func(Record, error) bool) {
		var held Record
		var holding bool
		for r, err := range changes {
			switch {
			case err != nil:
				yield(Record{}, err)
				return
			case holding && r.Extent < held.Extent:
				yield(Record{}, fmt.Errorf("extent %d after extent %d: %w: changes ascend", r.Extent, held.Extent, ErrInvalid))
				return
			case holding && r.Extent > held.Extent && !yield(held, nil):
				return
			}
			held, holding = r, true
		}
		if holding {
			yield(held, nil)
		}
	}
}
