package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/blockio"
)

// Errors a caller decides on.
var (
	// ErrNotPlugged: there is no disk of that number.
	ErrNotPlugged = errors.New("no such disk")
	// ErrInUse: a task uses the disk.
	ErrInUse = errors.New("disk is in use")
	// ErrDetached: the disk was detached and waits to be unplugged.
	ErrDetached = errors.New("disk is detached")
	// ErrUnplugged: the disk was unplugged while it was used.
	ErrUnplugged = errors.New("disk was unplugged under a task: plug it again and repeat the task; detach before unplugging")
)

// Registry holds the plugged disks. It may be used by several goroutines.
type Registry struct {
	// Buffered opens disks through the page cache, for test directories on file systems without direct I/O.
	buffered bool

	mu    sync.Mutex
	disks map[int]*disk
}

type disk struct {
	path     string
	readOnly bool
	detached bool
	user     *Lease // nil: free
	// Size and sector size as last seen; zero until then.
	size       int64
	sectorSize int
}

// NewRegistry returns a Registry without disks.
func NewRegistry(buffered bool) *Registry {
	return &Registry{buffered: buffered, disks: make(map[int]*disk)}
}

// Plug makes a disk known. It replaces one of the same number.
func (r *Registry) Plug(number int, path string, readOnly bool) {
	r.Unplug(number)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disks[number] = &disk{path: path, readOnly: readOnly}
}

// Unplug forgets a disk. The context of a lease on it ends with ErrUnplugged.
func (r *Registry) Unplug(number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.disks[number]
	if d == nil {
		return
	}
	delete(r.disks, number)
	if d.user != nil {
		d.user.cancel(fmt.Errorf("disk %d: %w", number, ErrUnplugged))
	}
}

// Detach promises that a disk stays closed until it is unplugged. It was flushed when its last user closed it. Detaching again
// does nothing. Errors: ErrNotPlugged, ErrInUse.
func (r *Registry) Detach(number int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.disks[number]
	switch {
	case d == nil:
		return notPlugged(number)
	case d.user != nil:
		return fmt.Errorf("disk %d: %w by task %s: cancel the task or wait for its end", number, ErrInUse, d.user.task)
	}
	d.detached = true
	return nil
}

// List describes all disks by number. A disk whose size is not known yet is opened for a moment.
func (r *Registry) List() []control.Device {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]control.Device, 0, len(r.disks))
	for _, number := range slices.Sorted(maps.Keys(r.disks)) {
		d := r.disks[number]
		entry := control.Device{Number: number, Path: d.path, ReadOnly: d.readOnly, InUse: d.user != nil, Detached: d.detached}
		if err := r.measure(d); err != nil {
			entry.Problem = err.Error()
		}
		entry.SizeBytes, entry.SectorSize = d.size, d.sectorSize
		list = append(list, entry)
	}
	return list
}

// measure opens a disk to learn its size, unless someone uses it or it must stay closed. The registry is locked meanwhile, so
// that nothing else can open or detach it.
func (r *Registry) measure(d *disk) error {
	if d.size != 0 || d.user != nil || d.detached {
		return nil
	}
	device, err := blockio.Open(d.path, blockio.Options{ReadOnly: true, Buffered: r.buffered})
	if err != nil {
		return err
	}
	d.size, d.sectorSize = device.Size(), device.SectorSize()
	return device.Close()
}

// Acquire reserves disks for a task, all of them or none, and returns one lease for each. cancel ends the task; it is called when
// a disk is unplugged.
// Errors: ErrNotPlugged, ErrInUse, ErrDetached.
func (r *Registry) Acquire(task string, cancel context.CancelCauseFunc, numbers ...int) ([]*Lease, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, number := range numbers {
		switch d := r.disks[number]; {
		case d == nil:
			return nil, notPlugged(number)
		case d.detached:
			return nil, fmt.Errorf("disk %d: %w: unplug it and plug it again", number, ErrDetached)
		case d.user != nil:
			return nil, fmt.Errorf("disk %d: %w by task %s", number, ErrInUse, d.user.task)
		}
	}
	leases := make([]*Lease, len(numbers))
	for i, number := range numbers {
		d := r.disks[number]
		d.user = &Lease{registry: r, disk: d, number: number, task: task, cancel: cancel}
		leases[i] = d.user
	}
	return leases, nil
}

func notPlugged(number int) error {
	return fmt.Errorf("disk %d: %w: plug it first", number, ErrNotPlugged)
}
