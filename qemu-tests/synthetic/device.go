package synthetic

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// Device is a blockio.Device whose content is made up. Its memory is 2 MiB a TiB.
type Device struct {
	content Content
	written *os.File // sparse, without a name

	mu       sync.RWMutex
	overlaid *blockio.AllocationMap // blocks that lie in written
	readOnly bool
	closed   bool
}

var (
	_ blockio.Device    = (*Device)(nil)
	_ blockio.Allocator = (*Device)(nil)
)

// New makes a device. What is written to it takes room in the folder, or where that is empty in the system's for temporary files.
func New(c Content, folder string) (*Device, error) {
	f, err := os.CreateTemp(folder, "synthetic-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Device{content: c, written: f, overlaid: blockio.NewAllocationMap(c.Size)}, nil
}

// Size implements blockio.Device.
func (d *Device) Size() int64 { return d.content.Size }

// SectorSize implements blockio.Device.
func (d *Device) SectorSize() int { return 512 }

// ReadAt implements blockio.Device.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	switch {
	case d.closed:
		return 0, blockio.ErrClosed
	case off < 0:
		return 0, blockio.ErrOutOfRange
	case len(p) == 0:
		return 0, nil
	case off >= d.content.Size:
		return 0, io.EOF
	}
	var end error
	if rest := d.content.Size - off; int64(len(p)) > rest {
		p, end = p[:rest], io.EOF
	}
	err := pieces(off, int64(len(p)), func(block, at, length int64) error {
		return d.read(p[at-off:at-off+length], block, at)
	})
	if err != nil {
		return 0, err
	}
	return len(p), end
}

// read reads part of a block. d.mu is held.
func (d *Device) read(p []byte, block, off int64) error {
	if !d.overlaid.Marked(off, 1) {
		fill(p, d.content.name(uint64(block)), int(off%manifest.BlockSize))
		return nil
	}
	n, err := d.written.ReadAt(p, off)
	if errors.Is(err, io.EOF) { // the file ends where nothing was written behind
		clear(p[n:])
		return nil
	}
	return err
}

// pieces calls do for each block of a range with the part of it that lies in the range.
func pieces(off, length int64, do func(block, off, length int64) error) error {
	for end := off + length; off < end; {
		block := off / manifest.BlockSize
		n := min((block+1)*manifest.BlockSize, end) - off
		if err := do(block, off, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// writable says why a range cannot be written. d.mu is held.
func (d *Device) writable(off, length int64) error {
	switch {
	case d.closed:
		return blockio.ErrClosed
	case d.readOnly:
		return blockio.ErrReadOnly
	case off < 0 || length < 0 || length > d.content.Size-off:
		return fmt.Errorf("write %d bytes at offset %d: %w", length, off, blockio.ErrOutOfRange)
	}
	return nil
}

// WriteAt implements blockio.Device.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.writable(off, int64(len(p))); err != nil {
		return 0, err
	}
	if err := pieces(off, int64(len(p)), d.lift); err != nil {
		return 0, err
	}
	return d.written.WriteAt(p, off)
}

// lift brings a block of which only a part will be written into the file.
func (d *Device) lift(block, off, length int64) error {
	first := block * manifest.BlockSize
	whole := min(manifest.BlockSize, d.content.Size-first)
	if d.overlaid.Marked(first, 1) {
		return nil
	}
	if length < whole {
		p := make([]byte, whole)
		fill(p, d.content.name(uint64(block)), 0)
		if _, err := d.written.WriteAt(p, first); err != nil {
			return err
		}
	}
	d.overlaid.Mark(first, 1)
	return nil
}

// WriteZeroes implements blockio.Device.
func (d *Device) WriteZeroes(off, length int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.writable(off, length); err != nil || length == 0 {
		return err
	}
	if err := pieces(off, length, d.lift); err != nil {
		return err
	}
	return unix.Fallocate(int(d.written.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// Flush implements blockio.Device. What is written need not outlast the process.
func (d *Device) Flush() error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return blockio.ErrClosed
	}
	return nil
}

// SetReadOnly implements blockio.Device.
func (d *Device) SetReadOnly() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return blockio.ErrClosed
	}
	d.readOnly = true
	return nil
}

// Close implements blockio.Device.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	return d.written.Close()
}

// Allocation implements blockio.Allocator.
func (d *Device) Allocation() (*blockio.AllocationMap, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return nil, blockio.ErrClosed
	}
	m := d.overlaid.Clone()
	for first := int64(0); first < d.content.Size; first += regionBlocks * manifest.BlockSize {
		if !d.content.hole(uint64(first / manifest.BlockSize)) {
			m.Mark(first, regionBlocks*manifest.BlockSize)
		}
	}
	return m, nil
}
