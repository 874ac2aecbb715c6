package devices

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/blockio"
)

// Lease is one task's hold on one disk. It is used by one goroutine.
type Lease struct {
	registry *Registry
	disk     *disk
	number   int
	task     string
	cancel   context.CancelCauseFunc // ends the task

	device  blockio.Device // nil: not open
	writing bool
}

// OpenSource opens the disk for reading alone. A block device is told so too (BLKROSET): the clone of a snapshot that it is must
// not change (design §3).
func (l *Lease) OpenSource() (blockio.Device, error) {
	if err := l.open(blockio.Options{ReadOnly: true}); err != nil {
		return nil, err
	}
	if err := l.device.SetReadOnly(); err != nil {
		return nil, fmt.Errorf("disk %d: set read-only: %w", l.number, err)
	}
	return l.device, nil
}

// OpenTarget opens the disk for writing.
func (l *Lease) OpenTarget() (blockio.Device, error) {
	if l.disk.readOnly {
		return nil, fmt.Errorf("disk %d: %w as it was plugged: plug it for writing", l.number, blockio.ErrReadOnly)
	}
	if err := checkWritable(l.disk.path); err != nil {
		return nil, fmt.Errorf("disk %d: %w", l.number, err)
	}
	l.writing = true
	if err := l.open(blockio.Options{}); err != nil {
		return nil, err
	}
	return l.device, nil
}

func (l *Lease) open(o blockio.Options) error {
	o.Buffered = l.registry.buffered
	device, err := l.registry.open(l.disk.path, o)
	if errors.Is(err, blockio.ErrDirectUnsupported) {
		return fmt.Errorf("disk %d: %w; a test may start the delegate with --buffered", l.number, err)
	}
	if err != nil {
		return fmt.Errorf("disk %d: %w", l.number, err)
	}
	l.device = guarded{device, l}
	l.registry.mu.Lock()
	defer l.registry.mu.Unlock()
	l.disk.size, l.disk.sectorSize = device.Size(), device.SectorSize()
	return nil
}

// Release flushes a disk that was opened for writing, closes it and lets the next task have it. Further calls do nothing.
func (l *Lease) Release() error {
	var errs []error
	if l.device != nil {
		if l.writing {
			errs = append(errs, l.device.Flush())
		}
		errs = append(errs, l.device.Close())
		l.device = nil
	}
	l.registry.mu.Lock()
	if l.disk.user == l {
		l.disk.user = nil
	}
	l.registry.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("disk %d: flush and close: %w", l.number, err)
	}
	return nil
}
