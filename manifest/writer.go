package manifest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// container writes what manifests and deltas have in common. A failed write is remembered by its bufio.Writer: every later one
// fails with the same cause.
type container struct {
	w        *bufio.Writer
	kind     kind
	header   Header
	encoded  []byte // the header as written
	hasher   *Hasher
	numbers  []uint32
	digests  []Digest
	record   []byte // reused
	finished bool
}

var errFinished = errors.New("the file was closed before")

func newContainer(w io.Writer, k kind, key Key, h Header, base Base) (*container, error) {
	h, err := h.withKey(key)
	if err != nil {
		return nil, fmt.Errorf("new %s: %w", k, err)
	}
	c := &container{
		w:       bufio.NewWriterSize(w, 64<<10),
		kind:    k,
		header:  h,
		encoded: encodeHeader(k, h, base),
		hasher:  key.NewHasher(),
	}
	if _, err := c.w.Write(c.encoded); err != nil {
		return nil, fmt.Errorf("write header of %s: %w", k, err)
	}
	return c, nil
}

// check returns an error unless r is a record of this disk and the file is open.
func (c *container) check(r Record) error {
	if c.finished {
		return errFinished
	}
	return r.check(c.header.Geometry)
}

// add writes a record that the caller has checked, in ascending order, with its extent digest.
func (c *container) add(r Record, extent Digest) error {
	c.record = AppendRecord(c.record[:0], r)
	if _, err := c.w.Write(c.record); err != nil {
		return fmt.Errorf("write record of extent %d: %w", r.Extent, err)
	}
	c.numbers = append(c.numbers, r.Extent)
	c.digests = append(c.digests, extent)
	return nil
}

// end stops further records. It fails when a record could not be written.
func (c *container) end() error {
	if c.finished {
		return errFinished
	}
	c.finished = true
	if err := c.w.Flush(); err != nil {
		return fmt.Errorf("write records of %s: %w", c.kind, err)
	}
	return nil
}

// finish writes index, table and footer after end.
func (c *container) finish(root Digest) error {
	var index []byte
	if c.kind == kindDelta {
		for _, n := range c.numbers {
			index = binary.BigEndian.AppendUint32(index, n)
		}
	}
	table := make([]byte, 0, tableEntry*len(c.digests))
	for i := range c.digests {
		table = append(table, c.digests[i][:]...)
	}
	end := encodeFooter(footer{root: root, records: uint32(len(c.digests))}, c.encoded, index, table)
	for _, p := range [][]byte{index, table, end} {
		if _, err := c.w.Write(p); err != nil {
			return fmt.Errorf("write end of %s: %w", c.kind, err)
		}
	}
	if err := c.w.Flush(); err != nil {
		return fmt.Errorf("write end of %s: %w", c.kind, err)
	}
	return nil
}

// Writer writes a manifest as a stream. Its memory is the table of extent digests, 8 MiB a TiB, and once more
// while Close runs. Not for concurrent use.
type Writer struct {
	c    *container
	root *RootHasher
}

// NewWriter begins a manifest of digests under key. h.KeyID may be left zero. It fails with ErrKey or ErrInvalid before a
// byte is written.
func NewWriter(w io.Writer, key Key, h Header) (*Writer, error) {
	c, err := newContainer(w, kindManifest, key, h, Base{})
	if err != nil {
		return nil, err
	}
	return &Writer{c: c, root: key.NewRoot(h.Geometry)}, nil
}

// Add writes the next extent. Every extent comes once, in order; one that does not fit is an ErrInvalid, writes nothing and
// leaves the Writer usable. After a failed write every call fails.
func (w *Writer) Add(r Record) error {
	if err := w.c.check(r); err != nil {
		return err
	}
	if next := uint32(len(w.c.digests)); r.Extent != next {
		return fmt.Errorf("record of extent %d: %w: extent %d comes next", r.Extent, ErrInvalid, next)
	}
	digest := w.c.hasher.Extent(r.Blocks)
	w.root.Add(digest)
	return w.c.add(r, digest)
}

// Close writes the end of the manifest and returns its root. It fails with ErrMissing when extents are missing, and what was
// written is then no manifest. It neither syncs nor closes the underlying writer; see File.
func (w *Writer) Close() (Digest, error) {
	if err := w.c.end(); err != nil {
		return Digest{}, err
	}
	if have, want := len(w.c.digests), w.c.header.Geometry.Extents(); uint32(have) != want {
		return Digest{}, fmt.Errorf("close manifest: %w: %d of %d extents were added", ErrMissing, have, want)
	}
	root, err := w.root.Sum()
	if err != nil {
		return Digest{}, err
	}
	return root, w.c.finish(root)
}
