package blockio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// file is an image file or a block device. Bytes before bufferedFrom go through direct in whole sectors, the others through buffered; either
// descriptor is nil when its part is empty.
type file struct {
	path         string
	block        bool
	size         int64
	sector       int
	direct       *os.File
	buffered     *os.File
	queue        *queue // of requests to direct; nil: by system calls
	bufferedFrom int64
	holes        atomic.Bool // of an image file: writes may meet holes, and its file system can be asked for space

	// state is held shared by every operation and alone by SetReadOnly and Close, which thus wait for those under way.
	state    sync.RWMutex
	closed   bool
	readOnly bool

	// edges is held alone while part of a sector is read, changed and written back, and shared by all other direct writes: one that
	// came between would be undone by the writing back.
	edges sync.RWMutex

	flush      sync.Mutex
	flushError error // the first failure of Flush, kept
}

func (d *file) Size() int64     { return d.size }
func (d *file) SectorSize() int { return d.sector }

// any returns a descriptor for what concerns the file as a whole.
func (d *file) any() *os.File {
	if d.direct != nil {
		return d.direct
	}
	return d.buffered
}

func (d *file) ReadAt(p []byte, off int64) (int, error) {
	d.state.RLock()
	defer d.state.RUnlock()
	if d.closed {
		return 0, ErrClosed
	}
	length, atEnd := checkRead(off, len(p), d.size)
	if length == 0 {
		return 0, atEnd
	}
	p = p[:length]
	n, err := d.readDirect(p[:d.directPart(off, length)], off)
	if err == nil && n < length {
		var more int
		more, err = d.buffered.ReadAt(p[n:], off+int64(n))
		n += more
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("it has become shorter than %d bytes: %w", d.size, io.ErrUnexpectedEOF)
	}
	if err != nil {
		return n, fmt.Errorf("blockio: %s: read %d bytes at offset %d: %w", d.path, length, off, err)
	}
	return n, atEnd
}

// directPart tells how many of length bytes at off lie before bufferedFrom.
func (d *file) directPart(off int64, length int) int {
	return int(min(max(d.bufferedFrom-off, 0), int64(length)))
}

func (d *file) readDirect(p []byte, off int64) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = d.readPiece(p[n:], off+int64(n))
		n += more
	}
	return n, err
}

// readPiece reads a first piece of p: its whole sectors when everything is aligned, else what an aligned buffer holds.
func (d *file) readPiece(p []byte, off int64) (int, error) {
	inSector := int(off % int64(d.sector))
	whole := len(p) &^ (d.sector - 1)
	if inSector == 0 && whole > 0 && isAligned(p) {
		return d.readSectors(p[:whole], off)
	}
	buffer := bounce.Get().(*[]byte)
	defer bounce.Put(buffer)
	aligned := (*buffer)[:min(roundUp(inSector+len(p), d.sector), RequestSize)]
	if _, err := d.readSectors(aligned, off-int64(inSector)); err != nil {
		return 0, err
	}
	return copy(p, aligned[inSector:]), nil
}

func (d *file) WriteAt(p []byte, off int64) (int, error) {
	d.state.RLock()
	defer d.state.RUnlock()
	if err := checkWrite(off, int64(len(p)), d.size, d.closed, d.readOnly); err != nil {
		return 0, err
	}
	n, err := d.writeDirect(p[:d.directPart(off, len(p))], off)
	if err == nil && n < len(p) {
		var more int
		more, err = d.buffered.WriteAt(p[n:], off+int64(n))
		n += more
	}
	if err != nil {
		return n, fmt.Errorf("blockio: %s: write %d bytes at offset %d: %w", d.path, len(p), off, wrapNoSpace(err))
	}
	return n, nil
}

func (d *file) writeDirect(p []byte, off int64) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = d.writePiece(p[n:], off+int64(n))
		n += more
	}
	return n, err
}

// writePiece writes a first piece of p: part of one sector, or whole sectors straight or through an aligned buffer.
func (d *file) writePiece(p []byte, off int64) (int, error) {
	inSector := int(off % int64(d.sector))
	whole := len(p) &^ (d.sector - 1)
	if inSector != 0 || whole == 0 {
		return d.patchSector(p[:min(len(p), d.sector-inSector)], off)
	}
	piece := p[:whole]
	if !isAligned(p) {
		buffer := bounce.Get().(*[]byte)
		defer bounce.Put(buffer)
		piece = (*buffer)[:copy(*buffer, piece)]
	}
	d.edges.RLock()
	defer d.edges.RUnlock()
	if d.holes.Load() {
		if err := d.reserve(off, len(piece)); err != nil {
			return 0, err
		}
	}
	return d.writeSectors(piece, off)
}

// reserve gives a range its space before it is written. A direct write into a hole makes ext4 hold the file for itself until the content
// is on the disk, so that writes wait for each other; into space that is there already they go side by side, and a first copy takes a
// sixth less. What is reserved and never written reads as zeroes, as the hole did.
func (d *file) reserve(off int64, length int) error {
	err := untilNotInterrupted(func() error {
		return unix.Fallocate(int(d.direct.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, int64(length))
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		d.holes.Store(false) // nothing is lost but speed
		return nil
	}
	return err
}

// patchSector changes part of one sector.
func (d *file) patchSector(p []byte, off int64) (int, error) {
	buffer := bounce.Get().(*[]byte)
	defer bounce.Put(buffer)
	sector := (*buffer)[:d.sector]
	inSector := off % int64(d.sector)
	d.edges.Lock()
	defer d.edges.Unlock()
	if _, err := d.readSectors(sector, off-inSector); err != nil {
		return 0, fmt.Errorf("read the sector to change: %w", err)
	}
	copy(sector[inSector:], p)
	if _, err := d.writeSectors(sector, off-inSector); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *file) Flush() error {
	d.state.RLock()
	defer d.state.RUnlock()
	if d.closed {
		return ErrClosed
	}
	d.flush.Lock()
	defer d.flush.Unlock()
	if d.flushError != nil {
		return d.flushError
	}
	err := untilNotInterrupted(func() error { return unix.Fdatasync(int(d.any().Fd())) })
	if err != nil {
		d.flushError = fmt.Errorf("blockio: %s: flush, what was written since the last one may be lost: %w", d.path, wrapNoSpace(err))
	}
	return d.flushError
}

func (d *file) SetReadOnly() error {
	d.state.Lock()
	defer d.state.Unlock()
	if d.closed {
		return ErrClosed
	}
	d.readOnly = true
	if !d.block {
		return nil
	}
	if err := unix.IoctlSetPointerInt(int(d.any().Fd()), unix.BLKROSET, 1); err != nil {
		return fmt.Errorf("blockio: %s: set read-only (BLKROSET, needs CAP_SYS_ADMIN): %w", d.path, err)
	}
	return nil
}

func (d *file) Close() error {
	d.state.Lock()
	defer d.state.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	return d.closeFiles()
}

func (d *file) closeFiles() error {
	var errs []error
	if d.queue != nil {
		errs = append(errs, d.queue.close())
	}
	for _, f := range []*os.File{d.direct, d.buffered} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// wrapNoSpace makes the kernel's words for 'full' recognisable as ErrNoSpace.
func wrapNoSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

func untilNotInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func roundUp[T int | int64](n, unit T) T { return (n + unit - 1) &^ (unit - 1) }
