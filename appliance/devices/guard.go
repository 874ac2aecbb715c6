package devices

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/blockio"
)

// guarded is a lease's device. An operation that fails because the disk has gone says so, and ends the task: the kernel's own words
// are many – a disk of size 0 reads as ended (EOF), writes as full (ENOSPC), and requests under way fail with EIO – and come up to a
// second before the guest reports the disk as unplugged.
type guarded struct {
	blockio.Device
	lease *Lease
}

func (g guarded) ReadAt(p []byte, off int64) (int, error) {
	n, err := g.Device.ReadAt(p, off)
	return n, g.lease.explain(err)
}

func (g guarded) WriteAt(p []byte, off int64) (int, error) {
	n, err := g.Device.WriteAt(p, off)
	return n, g.lease.explain(err)
}

func (g guarded) WriteZeroes(off, length int64) error {
	return g.lease.explain(g.Device.WriteZeroes(off, length))
}

func (g guarded) Flush() error { return g.lease.explain(g.Device.Flush()) }

// explain is called by several goroutines.
func (l *Lease) explain(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, blockio.ErrClosed), errors.Is(err, blockio.ErrReadOnly), errors.Is(err, blockio.ErrOutOfRange):
		return err
	}
	if !gone(l.disk.path) {
		return err
	}
	cause := fmt.Errorf("disk %d: %w", l.number, ErrUnplugged)
	l.cancel(cause)
	return fmt.Errorf("%w (%w)", cause, err)
}

// gone tells whether the disk has been taken away: it has no node, no driver or no size any more.
func gone(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	return err == nil && size == 0
}

// checkWritable refuses a block device to which the kernel will not write (BLKROGET), whatever it was plugged as: one that was read
// as a source stays read-only until it is unplugged.
func checkWritable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeDevice == 0 {
		return err
	}
	readOnly, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET)
	if err != nil {
		return fmt.Errorf("ask whether %s is read-only (BLKROGET): %w", path, err)
	}
	if readOnly != 0 {
		return fmt.Errorf("%w: the kernel refuses writes to %s; unplug it and plug it again for writing", blockio.ErrReadOnly, path)
	}
	return nil
}
