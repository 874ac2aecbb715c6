package manifest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"
)

// A record on disk, big endian: tag, extent number, number of blocks, block digests, checksum of all that.
const (
	recordTag      = 0x55535231 // "USR1"
	recordHead     = 12         // bytes before the digests
	checksumSize   = 16
	wholeRecord    = recordHead + BlocksPerExtent*32 + checksumSize
	smallestRecord = recordHead + 32 + checksumSize
)

// Record holds the block digests of one extent: the unit of manifests, deltas and journals.
type Record struct {
	Extent uint32
	Blocks []Digest // 1 to BlocksPerExtent
}

// recordSize returns the encoded length in bytes of a record of that many blocks.
func recordSize(blocks int) int { return recordHead + blocks*32 + checksumSize }

// check returns an ErrInvalid unless the record is one of a disk of this geometry.
func (r Record) check(g Geometry) error {
	if r.Extent >= g.Extents() {
		return fmt.Errorf("record of extent %d: %w: the disk has %d extents", r.Extent, ErrInvalid, g.Extents())
	}
	if want := g.BlocksIn(r.Extent); len(r.Blocks) != want {
		return fmt.Errorf("record of extent %d with %d blocks: %w: this extent has %d", r.Extent, len(r.Blocks), ErrInvalid, want)
	}
	return nil
}

// AppendRecord appends the encoded record to dst: what a journal appends, and a manifest and a delta consist of. It panics
// unless the record has 1 to BlocksPerExtent blocks.
func AppendRecord(dst []byte, r Record) []byte {
	if len(r.Blocks) == 0 || len(r.Blocks) > BlocksPerExtent {
		panic(fmt.Sprintf("manifest: a record of %d blocks", len(r.Blocks)))
	}
	start := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, recordTag)
	dst = binary.BigEndian.AppendUint32(dst, r.Extent)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(r.Blocks)))
	for i := range r.Blocks {
		dst = append(dst, r.Blocks[i][:]...)
	}
	return appendChecksum(dst, dst[start:])
}

// ReadRecord reads one record and not a byte beyond it. It returns io.EOF where r ends before a record, ErrTruncated where r
// ends within one, and another ErrCorrupt where the bytes are not a record. After an error nothing that follows can be read.
func ReadRecord(r io.Reader) (Record, error) {
	var encoded [wholeRecord]byte
	if _, err := io.ReadFull(r, encoded[:recordHead]); err != nil {
		if errors.Is(err, io.EOF) {
			return Record{}, io.EOF
		}
		return Record{}, readError("head of a record", err)
	}
	size, err := encodedRecordSize(encoded[:recordHead])
	if err != nil {
		return Record{}, err
	}
	if _, err := io.ReadFull(r, encoded[recordHead:size]); err != nil {
		return Record{}, readError("rest of a record", err)
	}
	return decodeRecord(encoded[:size])
}

// encodedRecordSize returns the length in bytes of the record that begins with head.
func encodedRecordSize(head []byte) (int, error) {
	if tag := binary.BigEndian.Uint32(head); tag != recordTag {
		return 0, fmt.Errorf("record: %w: it begins with %08x instead of %08x", ErrCorrupt, tag, uint32(recordTag))
	}
	blocks := binary.BigEndian.Uint32(head[8:])
	if blocks == 0 || blocks > BlocksPerExtent {
		return 0, fmt.Errorf("record: %w: it claims %d blocks, the limit is %d", ErrCorrupt, blocks, BlocksPerExtent)
	}
	return recordSize(int(blocks)), nil
}

// decodeRecord decodes a record that fills encoded.
func decodeRecord(encoded []byte) (Record, error) {
	size, err := encodedRecordSize(encoded)
	if err != nil {
		return Record{}, err
	}
	if size != len(encoded) {
		return Record{}, fmt.Errorf("record: %w: it is %d bytes long where %d are expected", ErrCorrupt, size, len(encoded))
	}
	body := encoded[:size-checksumSize]
	r := Record{Extent: binary.BigEndian.Uint32(encoded[4:]), Blocks: make([]Digest, (len(body)-recordHead)/32)}
	if !checksumMatches(encoded[len(body):], body) {
		return Record{}, fmt.Errorf("record of extent %d: %w: its checksum does not match", r.Extent, ErrCorrupt)
	}
	for i := range r.Blocks {
		r.Blocks[i] = Digest(body[recordHead+32*i:])
	}
	return r, nil
}

// appendChecksum appends the first half of the unkeyed BLAKE3 of the parts. Checksums find damage; authenticity comes from the
// keyed digests.
func appendChecksum(dst []byte, parts ...[]byte) []byte {
	h := blake3.New()
	for _, p := range parts {
		_, _ = h.Write(p) // never fails
	}
	var full [32]byte
	h.Sum(full[:0])
	return append(dst, full[:checksumSize]...)
}

func checksumMatches(checksum []byte, parts ...[]byte) bool {
	return string(appendChecksum(nil, parts...)) == string(checksum)
}

// readError words an error of reading a part of a file. An end that comes too early is damage, any other error the storage's.
func readError(part string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s: %w", part, ErrTruncated)
	}
	return fmt.Errorf("read %s: %w", part, err)
}
