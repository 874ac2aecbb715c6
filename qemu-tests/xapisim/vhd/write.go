package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Length is how many bytes Write makes of a disk of which so many blocks are there.
func Length(size int64, blocks int) int64 {
	return tableOffset + roundUp(4*blocksOf(size, BlockSize)) + int64(blocks)*(sectorSize+BlockSize) + footerSize
}

// Write writes a disk as a VHD. blocks are the numbers of the blocks of BlockSize bytes that it is to hold, ascending;
// all others are zero, or those of the parent. content is read where these blocks are, up to the disk's size. In the
// bitmaps all sectors are marked, as xapi's tool does.
func Write(w io.Writer, d Disk, blocks []int64, content io.ReaderAt) error {
	if err := d.check(); err != nil {
		return err
	}
	header, err := d.header()
	if err != nil {
		return err
	}
	table, err := d.allocate(blocks)
	if err != nil {
		return err
	}
	for _, part := range [][]byte{d.footer(), header, table} {
		if err := put(w, part); err != nil {
			return err
		}
	}
	bitmap, block := bytes.Repeat([]byte{0xff}, sectorSize), make([]byte, BlockSize)
	for _, n := range blocks {
		length := min(d.Size-n*BlockSize, BlockSize)
		clear(block[length:])
		if read, err := content.ReadAt(block[:length], n*BlockSize); int64(read) < length {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("vhd: read block %d: %w", n, err)
		}
		if err := errors.Join(put(w, bitmap), put(w, block)); err != nil {
			return err
		}
	}
	return put(w, d.footer())
}

// allocate makes the allocation table.
func (d Disk) allocate(blocks []int64) ([]byte, error) {
	total := blocksOf(d.Size, BlockSize)
	table := bytes.Repeat([]byte{0xff}, int(roundUp(4*total)))
	next, last := (tableOffset+int64(len(table)))/sectorSize, int64(-1)
	for _, n := range blocks {
		if n <= last || n >= total {
			return nil, fmt.Errorf("vhd: %w: block %d after %d, of %d", ErrSize, n, last, total)
		}
		binary.BigEndian.PutUint32(table[4*n:], uint32(next))
		next, last = next+1+BlockSize/sectorSize, n
	}
	return table, nil
}

func put(w io.Writer, b []byte) error {
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("vhd: write: %w", err)
	}
	return nil
}
