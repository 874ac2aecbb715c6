package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrOrder is an image whose blocks do not stand in the order of the disk, so that its stream cannot be read front to back as one.
// Pools write none such; other tools may.
var ErrOrder = errors.New("blocks out of order")

// maxFilling bounds what stands between blocks, or after the last one: the rest of a table that was made for a larger disk.
const maxFilling = 64 << 20

// entry is a block that is there, and where its bitmap stands in the stream.
type entry struct{ block, offset int64 }

// Content reads what a dynamic image holds, front to back as the stream comes. It takes 16 bytes of memory for each block that is there,
// 16 MiB for the largest disk with the usual blocks. It is not safe for concurrent use.
type Content struct {
	// Size is that of the disk in bytes.
	Size int64

	reader   *Reader
	blocks   []entry // ascending by both
	at       int     // of blocks: the first that has not been read to its end
	position int64   // of the stream
	offset   int64   // of the disk: what Read gives next
	bitmap   []byte  // of blocks[at], once read
}

// Content reads the whole allocation table; Next must not have been called. ErrFormat for a differencing image, whose content is not
// in it alone, and ErrOrder.
func (r *Reader) Content() (*Content, error) {
	if r.Differencing {
		return nil, fmt.Errorf("vhd: %w: a differencing disk: want a whole one", ErrFormat)
	}
	c := &Content{Size: r.Size, reader: r, position: r.table + 4*r.entries}
	end := c.position
	for n := range r.entries {
		var b [4]byte
		if err := r.fill(b[:], "allocation table"); err != nil {
			return nil, err
		}
		sector := binary.BigEndian.Uint32(b[:])
		if sector == absent {
			continue
		}
		offset := int64(sector) * sectorSize
		if offset < end {
			return nil, fmt.Errorf("vhd: %w: block %d is at %d, and what stands before it ends at %d", ErrOrder, n, offset, end)
		}
		if offset > end+maxFilling {
			return nil, fmt.Errorf("vhd: %w: block %d is at %d, and what stands before it ends at %d", ErrFormat, n, offset, end)
		}
		c.blocks = append(c.blocks, entry{n, offset})
		end = offset + c.bitmapSize() + r.BlockSize
	}
	c.reader.next = r.entries
	return c, nil
}

// bitmapSize is what stands before a block: a bit for each of its sectors, in whole sectors.
func (c *Content) bitmapSize() int64 {
	bytes := c.reader.BlockSize / sectorSize / 8
	return (bytes + sectorSize - 1) / sectorSize * sectorSize
}

// Held reports how many bytes from offset on the image holds, or leaves out, alike: up to the end of the disk. What it leaves out is
// zero. It can be asked at any time, for any place.
func (c *Content) Held(offset int64) (length int64, held bool) {
	size := c.reader.BlockSize
	first := offset / size
	low, high := 0, len(c.blocks) // the blocks before low lie before first
	for low < high {
		if middle := (low + high) / 2; c.blocks[middle].block < first {
			low = middle + 1
		} else {
			high = middle
		}
	}
	end := first
	if held = low < len(c.blocks) && c.blocks[low].block == first; held {
		for ; low < len(c.blocks) && c.blocks[low].block == end; low++ {
			end++
		}
	} else if end = (c.Size + size - 1) / size; low < len(c.blocks) {
		end = c.blocks[low].block
	}
	return min(end*size, c.Size) - offset, held
}

// Read fills p with what the disk has next; io.EOF after its last byte, when the footer at the end of the stream is as it should be.
// p must have whole sectors.
func (c *Content) Read(p []byte) (n int, err error) {
	if c.offset == c.Size {
		return 0, c.end()
	}
	if int64(len(p)) > c.Size-c.offset {
		p = p[:c.Size-c.offset]
	}
	if len(p) == 0 || len(p)%sectorSize != 0 {
		return 0, fmt.Errorf("vhd: %d bytes are wanted: want whole sectors of %d", len(p), sectorSize)
	}
	for n < len(p) {
		start := c.offset / c.reader.BlockSize * c.reader.BlockSize
		piece := p[n:min(int64(len(p)), int64(n)+start+c.reader.BlockSize-c.offset)]
		if c.at < len(c.blocks) && c.blocks[c.at].block*c.reader.BlockSize == start {
			if err := c.readBlock(piece, c.offset-start); err != nil {
				return n, err
			}
		} else {
			clear(piece)
		}
		n, c.offset = n+len(piece), c.offset+int64(len(piece))
	}
	return n, nil
}

// readBlock reads a piece of the block that is due, from its beginning on or where the last piece ended. Sectors that are not marked
// are zero, whatever the stream has in their place.
func (c *Content) readBlock(piece []byte, from int64) error {
	if from == 0 {
		if err := c.skip(c.blocks[c.at].offset, "a block"); err != nil {
			return err
		}
		c.bitmap = append(c.bitmap[:0], make([]byte, c.bitmapSize())...)
		if err := c.fill(c.bitmap, "a block's bitmap"); err != nil {
			return err
		}
	}
	if err := c.fill(piece, "a block"); err != nil {
		return err
	}
	for i := 0; i < len(piece); i += sectorSize {
		if n := (from + int64(i)) / sectorSize; c.bitmap[n/8]&(0x80>>(n%8)) == 0 {
			clear(piece[i : i+sectorSize])
		}
	}
	if block := c.blocks[c.at].block; from+int64(len(piece)) == min(c.reader.BlockSize, c.Size-block*c.reader.BlockSize) {
		c.at++
		return c.skip(c.blocks[c.at-1].offset+c.bitmapSize()+c.reader.BlockSize, "a block") // of which the disk may have a part only
	}
	return nil
}

// end reads what follows the last block: filling, and the footer.
func (c *Content) end() error {
	if err := c.skip((c.position+sectorSize-1)/sectorSize*sectorSize, "allocation table"); err != nil {
		return err
	}
	var last [footerSize]byte
	got := 0
	for {
		var sector [sectorSize]byte
		n, err := io.ReadFull(c.reader.stream, sector[:])
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return ended(err, "footer")
		}
		if last, got = sector, got+n; got > maxFilling {
			return fmt.Errorf("vhd: %w: it does not end behind the last block", ErrFormat)
		}
	}
	if got == 0 {
		return fmt.Errorf("vhd: %w: it ends before the footer", ErrTruncated)
	}
	if string(last[:8]) != "conectix" || binary.BigEndian.Uint32(last[footerChecksum:]) != checksum(last[:], footerChecksum) {
		return fmt.Errorf("vhd: %w: it ends with %.40q", ErrFormat, last)
	}
	return io.EOF
}

func (c *Content) fill(b []byte, what string) error {
	c.position += int64(len(b))
	return c.reader.fill(b, what)
}

// skip passes what stands before a place in the stream: the rest of a table that was made for a larger disk, filling, the rest of a block.
func (c *Content) skip(to int64, what string) error {
	for c.position < to {
		n, err := c.reader.stream.Discard(int(min(to-c.position, 1<<20)))
		c.position += int64(n)
		if err != nil {
			return ended(err, what)
		}
	}
	return nil
}
