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
	open     func(path string, o blockio.Options) (blockio.Device, error)

	// Never held while a disk is opened, flushed or closed: a disk that does not answer must not hold up the others.
	mu    sync.Mutex
	disks map[int]*disk
}

type disk struct {
	path      string
	readOnly  bool
	detached  bool
	user      *Lease // nil: free
	measuring bool   // being opened to learn its size
	// Size and sector size as last seen; zero until then.
	size       int64
	sectorSize int
}

// NewRegistry returns a Registry without disks.
func NewRegistry(buffered bool) *Registry {
	return &Registry{buffered: buffered, open: blockio.Open, disks: make(map[int]*disk)}
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
	case d.measuring:
		return beingMeasured(number)
	}
	d.detached = true
	return nil
}

// List describes all disks by number. A disk whose size is not known yet is opened for a moment; one that another List is opening
// has a problem that says so.
func (r *Registry) List() []control.Device {
	r.mu.Lock()
	numbers := slices.Sorted(maps.Keys(r.disks))
	r.mu.Unlock()
	list := make([]control.Device, 0, len(numbers))
	for _, number := range numbers {
		if entry, ok := r.describe(number); ok {
			list = append(list, entry)
		}
	}
	return list
}

// describe measures a disk, if need be, and tells what is known of it; ok is false when it is gone.
func (r *Registry) describe(number int) (entry control.Device, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.disks[number]
	if d == nil {
		return entry, false
	}
	var problem error
	switch {
	case d.size != 0 || d.user != nil || d.detached:
	case d.measuring:
		problem = beingMeasured(number)
	default:
		problem = r.measure(d)
	}
	if r.disks[number] != d {
		return entry, false // unplugged meanwhile
	}
	entry = control.Device{
		Number: number, Path: d.path, ReadOnly: d.readOnly, SizeBytes: d.size, SectorSize: d.sectorSize,
		InUse: d.user != nil, Detached: d.detached,
	}
	if problem != nil {
		entry.Problem = problem.Error()
	}
	return entry, true
}

// measure opens a disk to learn its size. r.mu is held, but not meanwhile: then the disk is marked, so that nothing else opens or
// detaches it.
func (r *Registry) measure(d *disk) error {
	d.measuring = true
	r.mu.Unlock()
	size, sectorSize, err := r.sizes(d.path)
	r.mu.Lock()
	d.measuring, d.size, d.sectorSize = false, size, sectorSize
	return err
}

func (r *Registry) sizes(path string) (size int64, sectorSize int, err error) {
	device, err := r.open(path, blockio.Options{ReadOnly: true, Buffered: r.buffered})
	if err != nil {
		return 0, 0, err
	}
	return device.Size(), device.SectorSize(), device.Close()
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
		case d.measuring:
			return nil, beingMeasured(number)
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

func beingMeasured(number int) error {
	return fmt.Errorf("disk %d: %w: it is being opened to learn its size; ask again, and if this lasts the disk does not answer: unplug it", number, ErrInUse)
}
