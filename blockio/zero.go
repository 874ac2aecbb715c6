package blockio

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func (d *file) WriteZeroes(off, length int64) error {
	d.state.RLock()
	defer d.state.RUnlock()
	if err := checkWrite(off, length, d.size, d.closed, d.readOnly); err != nil {
		return err
	}
	end := off + length
	border := min(max(d.bufferedFrom, off), end)
	err := d.zeroPart(d.direct, d.writeDirect, off, border)
	if err == nil && border < end {
		err = d.zeroPart(d.buffered, d.buffered.WriteAt, border, end)
	}
	if err != nil {
		return fmt.Errorf("blockio: %s: zero %d bytes at offset %d: %w", d.path, length, off, wrapNoSpace(err))
	}
	return nil
}

// writeFunc writes through one of a file's descriptors.
type writeFunc func(p []byte, off int64) (int, error)

// zeroPart zeroes [off, end) through one descriptor: parts of sectors at either edge by writing, the whole sectors between by a call.
func (d *file) zeroPart(f *os.File, write writeFunc, off, end int64) error {
	sector := int64(d.sector)
	first := min(roundUp(off, sector), end)
	last := max(end&^(sector-1), first)
	if err := writeZeroBytes(write, off, first); err != nil {
		return err
	}
	if first < last {
		err := d.clear(f, first, last-first)
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = writeZeroBytes(write, first, last)
		}
		if err != nil {
			return err
		}
	}
	return writeZeroBytes(write, last, end)
}

// clear has the kernel zero whole sectors: a block device by BLKZEROOUT, a file by punching a hole, which keeps an image sparse.
func (d *file) clear(f *os.File, off, length int64) error {
	d.edges.RLock()
	defer d.edges.RUnlock()
	return untilNotInterrupted(func() error {
		if !d.block {
			return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		}
		span := [2]uint64{uint64(off), uint64(length)}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&span)))
		if errno != 0 {
			return fmt.Errorf("BLKZEROOUT: %w", errno)
		}
		return nil
	})
}

func writeZeroBytes(write writeFunc, off, end int64) error {
	for off < end {
		n, err := write(zeroes()[:min(end-off, RequestSize)], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}
