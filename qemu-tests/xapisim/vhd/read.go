package vhd

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Reader reads a VHD as it comes. It is not safe for concurrent use.
type Reader struct {
	from     io.Reader
	position int64 // in the stream
	size     int64 // of the stream
	layout   layout
	blocks   []entry // that are there and still to come, in the order of the stream
	count    int     // of all that are there
	bitmap   []byte  // of the block that is being read
	sector   int64   // of it, the next
	buffer   []byte
}

// entry is a used one of the allocation table.
type entry struct {
	sector uint32
	block  int64
}

// maxExtent is the most that Next gives at a time.
const maxExtent = 1 << 20

// NewReader reads everything before the first block. size is the length of the whole stream, whose last sector is the
// footer.
func NewReader(r io.Reader, size int64) (*Reader, error) {
	x := &Reader{from: r, size: size}
	footer, err := x.take(0, footerSize, "the copy of the footer")
	if err != nil {
		return nil, err
	}
	if x.layout, err = parseFooter(footer); err != nil {
		return nil, err
	}
	header, err := x.take(x.layout.header, headerSize, "the header")
	if err != nil {
		return nil, err
	}
	if err := x.layout.parseHeader(header); err != nil {
		return nil, err
	}
	if l := &x.layout; l.locator >= x.position && l.locator <= l.table-l.length {
		locator, err := x.take(l.locator, l.length, "the parent's locator")
		if err != nil {
			return nil, err
		}
		l.disk.Parent.Locator = string(locator)
	}
	return x, x.readTable()
}

// readTable reads the allocation table piece by piece and keeps what is used.
func (x *Reader) readTable() error {
	const piece = 16 << 10
	used := blocksOf(x.layout.disk.Size, x.layout.blockSize)
	for first := int64(0); first < x.layout.entries; first += piece {
		count := min(piece, x.layout.entries-first)
		b, err := x.take(x.layout.table+4*first, 4*count, "the allocation table")
		if err != nil {
			return err
		}
		for n := range count {
			sector := binary.BigEndian.Uint32(b[4*n:])
			if sector == unused {
				continue
			}
			if first+n >= used {
				return fmt.Errorf("vhd: %w: block %d is there, of %d", ErrSize, first+n, used)
			}
			x.blocks = append(x.blocks, entry{sector, first + n})
		}
	}
	slices.SortFunc(x.blocks, func(a, b entry) int { return cmp.Compare(a.sector, b.sector) })
	x.count = len(x.blocks)
	return nil
}

// Disk describes the image.
func (x *Reader) Disk() Disk { return x.layout.disk }

// Blocks counts the blocks that are there, Done those that have been read.
func (x *Reader) Blocks() int { return x.count }

// Done counts the blocks that have been read.
func (x *Reader) Done() int { return x.count - len(x.blocks) }

// Extent is a piece of the disk.
type Extent struct {
	Offset int64
	Data   []byte // valid until the next call; never empty
}

// Next gives the next piece, in the order of the stream. The error is io.EOF when the footer has come as it should.
func (x *Reader) Next() (Extent, error) {
	for {
		if x.bitmap == nil {
			if len(x.blocks) == 0 {
				return Extent{}, x.end()
			}
			bitmap, err := x.take(int64(x.blocks[0].sector)*sectorSize, x.bitmapSize(), "a block's bitmap")
			if err != nil {
				return Extent{}, err
			}
			x.bitmap, x.sector = slices.Clone(bitmap), 0
		}
		extent, err := x.span()
		if err != nil || len(extent.Data) > 0 {
			return extent, err
		}
		x.bitmap, x.blocks = nil, x.blocks[1:]
	}
}

func (x *Reader) bitmapSize() int64 { return roundUp(x.layout.blockSize / sectorSize / 8) }

// span gives the next run of marked sectors of a block, as far as the disk goes; an empty one at the block's end. Bits of
// sectors that the disk does not have mean nothing.
func (x *Reader) span() (Extent, error) {
	start := x.blocks[0].block * x.layout.blockSize
	sectors := min(x.layout.blockSize, x.layout.disk.Size-start) / sectorSize
	marked := func(n int64) bool { return x.bitmap[n/8]&(0x80>>(n%8)) != 0 }
	from := x.sector
	for from < sectors && !marked(from) {
		from++
	}
	to := from
	for to < sectors && to-from < maxExtent/sectorSize && marked(to) {
		to++
	}
	data := int64(x.blocks[0].sector)*sectorSize + x.bitmapSize()
	if x.sector = to; to == from {
		_, err := x.take(data+x.layout.blockSize, 0, "a block")
		return Extent{}, err
	}
	b, err := x.take(data+from*sectorSize, (to-from)*sectorSize, "a block")
	return Extent{Offset: start + from*sectorSize, Data: b}, err
}

// end checks the footer.
func (x *Reader) end() error {
	footer, err := x.take((x.size-1)/sectorSize*sectorSize, footerSize, "the footer")
	if err != nil {
		return err
	}
	if _, err := parseFooter(footer); err != nil {
		return err
	}
	return io.EOF
}

// take gives length bytes from offset on, which must not lie behind. They are valid until the next call.
func (x *Reader) take(offset, length int64, what string) ([]byte, error) {
	if offset < x.position {
		return nil, fmt.Errorf("vhd: %w: %s is at %d, before the %d bytes that have come", ErrFormat, what, offset, x.position)
	}
	if offset+length < offset || offset+length > x.size {
		return nil, fmt.Errorf("vhd: %w: %s is at %d, %d bytes long, in a stream of %d", ErrTruncated, what, offset, length, x.size)
	}
	skipped, err := io.CopyN(io.Discard, x.from, offset-x.position)
	x.position += skipped
	if err == nil {
		if int64(cap(x.buffer)) < length {
			x.buffer = make([]byte, length)
		}
		var n int
		n, err = io.ReadFull(x.from, x.buffer[:length])
		x.position += int64(n)
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("vhd: %w: it ends at %d, before %s does", ErrTruncated, x.position, what)
	case err != nil:
		return nil, fmt.Errorf("vhd: read: %w", err)
	}
	return x.buffer[:length], nil
}
