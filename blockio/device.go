package blockio

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// Alignment is what buffers, and offsets and lengths of direct I/O, are aligned to at most, in bytes.
	Alignment = 4096

	// RequestSize is the unit of sequential reading in bytes: large enough that the cost of a request does not show, small enough
	// that a queue of them fits a delegate's memory.
	RequestSize = 1 << 20
)

// Device is a block device or disk image. Offsets and lengths are bytes and need no alignment.
//
// All methods but Close are safe for concurrent use by several goroutines. Writes that overlap and run at the same time leave an
// unspecified mixture in the overlap; writes that merely share a sector do not disturb each other.
type Device interface {
	// ReadAt follows io.ReaderAt: fewer than len(p) bytes come with an error, io.EOF at the end of the device.
	// A negative offset is ErrOutOfRange.
	io.ReaderAt

	// WriteAt follows io.WriterAt. A write that does not fit the device fails with ErrOutOfRange before a byte is written,
	// one for which the storage has no room left with ErrNoSpace.
	io.WriterAt

	// Size is the device's size in bytes. It does not change, and may be asked for after Close.
	Size() int64

	// SectorSize is the logical sector in bytes, 512 or 4096.
	SectorSize() int

	// WriteZeroes makes the range read as zeroes, by the cheapest means the storage has. Errors as for WriteAt.
	WriteZeroes(off, length int64) error

	// Flush returns when everything written before the call is durable (fdatasync). Once it has failed it fails for good: the kernel
	// reports a lost write only once, so a later success would prove nothing.
	Flush() error

	// SetReadOnly makes all further writes fail with ErrReadOnly and returns when those under way are over. The kernel is told
	// so too where the device is a block device (BLKROSET, which needs CAP_SYS_ADMIN and outlasts Close).
	SetReadOnly() error

	// Close frees the device, without flushing it. Closing again does nothing; any other use after Close fails with ErrClosed.
	Close() error
}

var (
	// ErrReadOnly is returned by writes to a device that was opened or set read-only.
	ErrReadOnly = errors.New("device is read-only")

	// ErrClosed is returned by uses of a closed device or scanner. It wraps os.ErrClosed.
	ErrClosed = fmt.Errorf("device is closed: %w", os.ErrClosed)

	// ErrOutOfRange is returned for a range that is negative or does not lie within the device.
	ErrOutOfRange = errors.New("range lies outside the device")

	// ErrDirectUnsupported is returned by Open where the file system has no direct I/O.
	ErrDirectUnsupported = errors.New("no direct I/O")

	// ErrNoSpace is returned by writes for which the storage below has no room left. It wraps unix.ENOSPC.
	ErrNoSpace error = noSpaceError{}
)

type noSpaceError struct{}

func (noSpaceError) Error() string { return "the target is full, free space on it or enlarge it" }
func (noSpaceError) Unwrap() error { return unix.ENOSPC }

// checkRead tells how many of length bytes at off can be read of a device of the given size; io.EOF when that is not all.
func checkRead(off int64, length int, size int64) (int, error) {
	switch {
	case off < 0:
		return 0, fmt.Errorf("blockio: read %d bytes at offset %d: %w", length, off, ErrOutOfRange)
	case length == 0:
		return 0, nil
	case off >= size:
		return 0, io.EOF
	case int64(length) > size-off:
		return int(size - off), io.EOF
	}
	return length, nil
}

// checkWrite tells whether length bytes at off may be written to a device in the given state.
func checkWrite(off, length, size int64, closed, readOnly bool) error {
	switch {
	case closed:
		return ErrClosed
	case readOnly:
		return ErrReadOnly
	case off < 0 || length < 0 || off > size || length > size-off:
		return fmt.Errorf("blockio: write %d bytes at offset %d of a device of %d bytes: %w", length, off, size, ErrOutOfRange)
	}
	return nil
}
