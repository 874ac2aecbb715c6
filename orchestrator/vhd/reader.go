package vhd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The kinds of flaws. An error about the content of a stream matches one of them with errors.Is; others are those of the stream.
var (
	ErrFormat    = errors.New("malformed VHD")
	ErrTruncated = errors.New("truncated VHD")
)

// MaxSize is the size of the largest disk that a pool keeps as a VHD, in bytes (xapi-facts §6.6).
const MaxSize = 2040 << 30

const (
	sectorSize = 512
	footerSize = 512
	headerSize = 1024
	absent     = 0xffffffff // in the allocation table
	version    = 0x00010000

	kindDynamic      = 3
	kindDifferencing = 4

	// Bounds of what tools write. Blocks are of 2 MiB nearly everywhere.
	minBlock = 64 << 10
	maxBlock = 256 << 20
	// maxGap bounds what is skipped before the header and the table: eight parent locators at most.
	maxGap = 8 * 64 << 10
)

// Where the fields stand, in the footer and in the dynamic header.
const (
	footerVersion  = 12
	footerHeader   = 16
	footerSizeNow  = 48
	footerKind     = 60
	footerChecksum = 64

	headerTable    = 16
	headerVersion  = 24
	headerEntries  = 28
	headerBlock    = 32
	headerChecksum = 36
)

// Reader reads the blocks that an image lists. It is not safe for concurrent use.
type Reader struct {
	// Differencing says that what is not listed is as in another image; else it is zero.
	Differencing bool
	// Size is that of the disk, BlockSize that of a block, in bytes; the last block may be cut short.
	Size, BlockSize int64

	stream  *bufio.Reader
	table   int64 // where the table is
	next    int64 // entry of the table
	entries int64 // of the disk; what a larger table has beyond is not read
}

// NewReader reads the beginning of an image, of a disk of at most largest bytes.
func NewReader(stream io.Reader, largest int64) (*Reader, error) {
	r := &Reader{stream: bufio.NewReaderSize(stream, 64<<10)}
	var footer [footerSize]byte
	if err := r.fill(footer[:], "footer"); err != nil {
		return nil, err
	}
	header, err := r.parseFooter(footer[:], largest)
	if err != nil {
		return nil, err
	}
	if err := r.skip(footerSize, header, "dynamic header"); err != nil {
		return nil, err
	}
	var b [headerSize]byte
	if err := r.fill(b[:], "dynamic header"); err != nil {
		return nil, err
	}
	if r.table, err = r.parseHeader(b[:]); err != nil {
		return nil, err
	}
	return r, r.skip(header+headerSize, r.table, "allocation table")
}

// Next gives the number of the next block that the image holds, ascending; io.EOF when there are no more. What follows the table
// in the stream is left to the caller.
func (r *Reader) Next() (block int64, err error) {
	for ; r.next < r.entries; r.next++ {
		var entry [4]byte
		if err := r.fill(entry[:], "allocation table"); err != nil {
			return 0, err
		}
		if binary.BigEndian.Uint32(entry[:]) != absent {
			r.next++
			return r.next - 1, nil
		}
	}
	return 0, io.EOF
}

func (r *Reader) parseFooter(b []byte, largest int64) (header int64, err error) {
	size, kind := binary.BigEndian.Uint64(b[footerSizeNow:]), binary.BigEndian.Uint32(b[footerKind:])
	switch {
	case string(b[:8]) != "conectix":
		return 0, fmt.Errorf("vhd: %w: it begins with %.40q", ErrFormat, b)
	case binary.BigEndian.Uint32(b[footerChecksum:]) != checksum(b, footerChecksum):
		return 0, fmt.Errorf("vhd: %w: the checksum of the footer is wrong", ErrFormat)
	case binary.BigEndian.Uint32(b[footerVersion:]) != version:
		return 0, fmt.Errorf("vhd: %w: version %#x of the footer", ErrFormat, binary.BigEndian.Uint32(b[footerVersion:]))
	case kind != kindDynamic && kind != kindDifferencing:
		return 0, fmt.Errorf("vhd: %w: disk type %d: want a dynamic or a differencing disk", ErrFormat, kind)
	case size == 0 || size > uint64(min(largest, MaxSize)) || size%sectorSize != 0:
		return 0, fmt.Errorf("vhd: %w: a disk of %d bytes: want a multiple of %d up to %d", ErrFormat, size, sectorSize, min(largest, MaxSize))
	}
	r.Differencing, r.Size = kind == kindDifferencing, int64(size)
	return int64(binary.BigEndian.Uint64(b[footerHeader:])), nil
}

func (r *Reader) parseHeader(b []byte) (table int64, err error) {
	entries, block := int64(binary.BigEndian.Uint32(b[headerEntries:])), int64(binary.BigEndian.Uint32(b[headerBlock:]))
	switch {
	case string(b[:8]) != "cxsparse":
		return 0, fmt.Errorf("vhd: %w: the dynamic header begins with %q", ErrFormat, b[:8])
	case binary.BigEndian.Uint32(b[headerChecksum:]) != checksum(b, headerChecksum):
		return 0, fmt.Errorf("vhd: %w: the checksum of the dynamic header is wrong", ErrFormat)
	case binary.BigEndian.Uint32(b[headerVersion:]) != version:
		return 0, fmt.Errorf("vhd: %w: version %#x of the dynamic header", ErrFormat, binary.BigEndian.Uint32(b[headerVersion:]))
	case block < minBlock || block > maxBlock || block&(block-1) != 0:
		return 0, fmt.Errorf("vhd: %w: blocks of %d bytes: want a power of two from %d to %d", ErrFormat, block, minBlock, maxBlock)
	}
	r.BlockSize, r.entries = block, (r.Size+block-1)/block
	if entries < r.entries {
		return 0, fmt.Errorf("vhd: %w: a table of %d entries for %d blocks", ErrFormat, entries, r.entries)
	}
	return int64(binary.BigEndian.Uint64(b[headerTable:])), nil
}

// skip passes what stands before a part. Offsets come from the stream.
func (r *Reader) skip(from, to int64, what string) error {
	if to < from || to-from > maxGap {
		return fmt.Errorf("vhd: %w: the %s is at %d: want one from %d to %d", ErrFormat, what, to, from, from+maxGap)
	}
	if _, err := r.stream.Discard(int(to - from)); err != nil {
		return ended(err, what)
	}
	return nil
}

func (r *Reader) fill(b []byte, what string) error {
	if _, err := io.ReadFull(r.stream, b); err != nil {
		return ended(err, what)
	}
	return nil
}

func ended(err error, what string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("vhd: %w: it ends in the %s", ErrTruncated, what)
	}
	return fmt.Errorf("vhd: reading the %s: %w", what, err)
}

// checksum is the complement of the sum of all bytes, with the field of the checksum itself taken as zero.
func checksum(b []byte, field int) uint32 {
	var sum uint32
	for n, c := range b {
		if n < field || n >= field+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}
