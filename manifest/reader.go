package manifest

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// View is all digests of one disk at one moment: a manifest, or a manifest with deltas laid over it. Implementations are safe
// for concurrent use.
type View interface {
	Header() Header
	// Root is the digest over the logical size and all extent digests.
	Root() Digest
	// Extents returns the digests of all extents. The slice is shared and must not be changed.
	Extents() []Digest
	// BlockDigests reads the digests of one extent's blocks. The slice is the caller's.
	BlockDigests(extent uint32) ([]Digest, error)
}

// archive reads what manifests and deltas have in common.
type archive struct {
	r       io.ReaderAt
	kind    kind
	header  Header
	base    Base
	root    Digest
	numbers []uint32 // extent of each record, ascending; nil in a manifest, where it is the position
	digests []Digest // extent digest of each record
}

// openArchive checks everything but the records. Lengths are checked against size before memory is taken.
func openArchive(r io.ReaderAt, size int64, k kind) (*archive, error) {
	if size < headerSize+footerSize {
		return nil, fmt.Errorf("%d bytes: %w", size, ErrTruncated)
	}
	head, err := readAt(r, "header", 0, headerSize)
	if err != nil {
		return nil, err
	}
	a := &archive{r: r, kind: k}
	if a.header, a.base, err = decodeHeader(k, head); err != nil {
		return nil, err
	}
	extents := a.header.Geometry.Extents()
	if k == kindManifest {
		// Its length follows from the logical size: a file cut short is named as such.
		if err := a.checkSize(size, extents, extents-1); err != nil {
			return nil, err
		}
	}
	end, err := readAt(r, "footer", size-footerSize, footerSize)
	if err != nil {
		return nil, err
	}
	f, err := decodeFooter(end)
	if err != nil {
		return nil, err
	}
	a.root = f.root
	// The smallest file with that many records bounds what is read next.
	if f.records > extents || k == kindManifest && f.records != extents ||
		headerSize+int64(f.records)*(smallestRecord+a.entry())+footerSize > size {
		return nil, fmt.Errorf("footer: %w: %d records in a file of %d bytes for a disk of %d extents", ErrCorrupt, f.records, size, extents)
	}
	entries, err := readAt(r, "table", size-footerSize-int64(f.records)*a.entry(), int(int64(f.records)*a.entry()))
	if err != nil {
		return nil, err
	}
	if !checksumMatches(end[footerSize-checksumSize:], head, entries, end[:footerSize-checksumSize]) {
		return nil, fmt.Errorf("table: %w: its checksum does not match", ErrCorrupt)
	}
	return a, a.decodeEntries(entries, f.records, size)
}

// entry returns the bytes of index and table for each record.
func (a *archive) entry() int64 {
	if a.kind == kindDelta {
		return indexEntry + tableEntry
	}
	return tableEntry
}

// checkSize compares the length of the file with what that many records need, the last of which is that of extent last.
func (a *archive) checkSize(size int64, records, last uint32) error {
	want := int64(headerSize + footerSize)
	if records > 0 {
		want += int64(records-1)*wholeRecord + int64(recordSize(a.header.Geometry.BlocksIn(last))) + int64(records)*a.entry()
	}
	switch {
	case size < want:
		return fmt.Errorf("%d of %d bytes: %w", size, want, ErrTruncated)
	case size > want:
		return fmt.Errorf("%d bytes instead of %d: %w", size, want, ErrCorrupt)
	}
	return nil
}

// decodeEntries takes index and table apart.
func (a *archive) decodeEntries(entries []byte, records uint32, size int64) error {
	if a.kind == kindDelta {
		a.numbers = make([]uint32, records)
		for i := range a.numbers {
			a.numbers[i] = binary.BigEndian.Uint32(entries[indexEntry*i:])
			if a.numbers[i] >= a.header.Geometry.Extents() || i > 0 && a.numbers[i] <= a.numbers[i-1] {
				return fmt.Errorf("index: %w: extent %d at place %d", ErrCorrupt, a.numbers[i], i)
			}
		}
		entries = entries[indexEntry*int(records):]
		var last uint32
		if records > 0 {
			last = a.numbers[records-1]
		}
		if err := a.checkSize(size, records, last); err != nil {
			return err
		}
	}
	a.digests = make([]Digest, records)
	for i := range a.digests {
		a.digests[i] = Digest(entries[tableEntry*i:])
	}
	return nil
}

// blocks reads the record at a place and checks that it is the one of this extent.
func (a *archive) blocks(place int, extent uint32) ([]Digest, error) {
	want := a.header.Geometry.BlocksIn(extent)
	// Only the record of a disk's last extent is short, and nothing follows it: every other place is a multiple.
	encoded, err := readAt(a.r, "record", headerSize+int64(place)*wholeRecord, recordSize(want))
	if err != nil {
		return nil, fmt.Errorf("extent %d of %s: %w", extent, a.kind, err)
	}
	r, err := decodeRecord(encoded)
	if err != nil {
		return nil, fmt.Errorf("extent %d of %s: %w", extent, a.kind, err)
	}
	if r.Extent != extent {
		return nil, fmt.Errorf("extent %d of %s: %w: the record at its place is that of extent %d", extent, a.kind, ErrCorrupt, r.Extent)
	}
	return r.Blocks, nil
}

// Reader reads a manifest: the extent digests lie in memory, block digests are read when asked for. Safe for concurrent use
// when its io.ReaderAt is. Its memory is 8 MiB a TiB, twice that during Open.
type Reader struct {
	a *archive

	mu     sync.Mutex
	hasher *Hasher // once verified; guarded by mu, as hashing an extent's digests takes a microsecond
}

// Open reads header, table and footer of a manifest that fills the size bytes of r. It fails with ErrCorrupt (ErrTruncated) or
// ErrVersion, and leaves nothing open. Checksums alone are checked until Verify is called.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	a, err := openArchive(r, size, kindManifest)
	if err != nil {
		return nil, fmt.Errorf("open manifest: %w", err)
	}
	return &Reader{a: a}, nil
}

// Verify checks the root under key. From then on BlockDigests checks what it reads against the extent digest. It returns
// ErrKey when the manifest belongs to another domain.
func (r *Reader) Verify(key Key) error {
	if err := verify(key, r); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hasher = key.NewHasher()
	return nil
}

// Header implements View.
func (r *Reader) Header() Header { return r.a.header }

// Root implements View.
func (r *Reader) Root() Digest { return r.a.root }

// Extents implements View.
func (r *Reader) Extents() []Digest { return r.a.digests }

// BlockDigests implements View. A record that fails its checksum or, after Verify, its extent digest is an ErrCorrupt.
func (r *Reader) BlockDigests(extent uint32) ([]Digest, error) {
	if err := checkExtent(r.a.header.Geometry, extent); err != nil {
		return nil, err
	}
	blocks, err := r.a.blocks(int(extent), extent)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hasher == nil {
		return blocks, nil
	}
	return blocks, checkBlocks(r.hasher, extent, blocks, r.a.digests[extent])
}

// verify checks that the digests of v are under key and lead to its root.
func verify(key Key, v View) error {
	h := v.Header()
	if err := key.check(h.KeyID); err != nil {
		return err
	}
	root, err := rootOf(key, h.Geometry, v.Extents())
	if err != nil {
		return err
	}
	if root != v.Root() {
		return fmt.Errorf("manifest of generation %s: %w: its extent digests do not lead to its root", h.Generation, ErrCorrupt)
	}
	return nil
}

func checkExtent(g Geometry, extent uint32) error {
	if extent >= g.Extents() {
		return fmt.Errorf("extent %d: %w: the disk has %d", extent, ErrInvalid, g.Extents())
	}
	return nil
}

func checkBlocks(h *Hasher, extent uint32, blocks []Digest, want Digest) error {
	if h.Extent(blocks) != want {
		return fmt.Errorf("extent %d: %w: its block digests do not lead to its extent digest", extent, ErrCorrupt)
	}
	return nil
}

// readAt reads length bytes at off.
func readAt(r io.ReaderAt, part string, off int64, length int) ([]byte, error) {
	p := make([]byte, length)
	if n, err := r.ReadAt(p, off); n < length {
		return nil, readError(part, err)
	}
	return p, nil
}
