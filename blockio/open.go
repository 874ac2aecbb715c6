package blockio

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options says how Open opens a device.
type Options struct {
	ReadOnly bool  // writes fail with ErrReadOnly
	Buffered bool  // through the page cache instead of O_DIRECT
	Create   int64 // > 0: make an image file of so many bytes that reads as zeroes, emptying an existing one
}

// Open opens an image file or a block device, with direct I/O unless Options.Buffered is set. Where the file system has no direct I/O
// it fails with ErrDirectUnsupported: the page cache is never used without being asked for.
func Open(path string, o Options) (Device, error) {
	d, err := open(path, o, directSector)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// open is Open with the sector's measurement exchangeable: storage with sectors of 4096 bytes is rare on development machines.
func open(path string, o Options, sectorOf func(*os.File) (int, error)) (_ *file, err error) {
	created, err := checkOptions(path, o)
	if err != nil {
		return nil, err
	}
	d := &file{path: path, readOnly: o.ReadOnly}
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, d.closeFiles())
		// Refusing O_DIRECT, the kernel leaves the file it has just made behind. A file that another made meanwhile stays.
		if created && !errors.Is(err, fs.ErrExist) {
			err = errors.Join(err, removeIfThere(path))
		}
	}()

	flags := os.O_RDWR
	if o.ReadOnly {
		flags = os.O_RDONLY
	}
	if created {
		flags |= os.O_CREATE | os.O_EXCL
	}
	if o.Buffered {
		d.buffered, err = os.OpenFile(path, flags, 0o600)
	} else {
		d.direct, err = os.OpenFile(path, flags|unix.O_DIRECT, 0o600)
		if errors.Is(err, unix.EINVAL) {
			err = directUnsupported(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("blockio: %w", err)
	}
	if err := d.measure(o.Create, sectorOf); err != nil {
		return nil, fmt.Errorf("blockio: open %s: %w", path, err)
	}
	if d.direct != nil && d.bufferedFrom < d.size {
		if err := d.openTail(flags &^ (os.O_CREATE | os.O_EXCL)); err != nil {
			return nil, fmt.Errorf("blockio: open the tail of %s: %w", path, err)
		}
	}
	if d.direct != nil {
		d.queue = newQueue()
	}
	return d, nil
}

// checkOptions refuses what cannot be opened before anything is made or emptied, and tells whether opening makes a new file.
func checkOptions(path string, o Options) (creates bool, err error) {
	if o.Create < 0 {
		return false, fmt.Errorf("blockio: create %s: size %d is negative", path, o.Create)
	}
	if o.Create > 0 && o.ReadOnly {
		return false, fmt.Errorf("blockio: create %s: an image that is made cannot be opened read-only", path)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && o.Create > 0:
		return true, nil
	case err != nil:
		return false, fmt.Errorf("blockio: open: %w", err)
	case isBlockDevice(info) && o.Create > 0:
		return false, fmt.Errorf("blockio: create %s: it is a block device, open it as it is", path)
	case !isBlockDevice(info) && !info.Mode().IsRegular():
		return false, fmt.Errorf("blockio: open %s: neither an image file nor a block device (mode %s)", path, info.Mode())
	}
	return false, nil
}

func isBlockDevice(info fs.FileInfo) bool {
	return info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// measure gives a new image its size and finds out size, sector and the border of the buffered part.
func (d *file) measure(create int64, sectorOf func(*os.File) (int, error)) error {
	f := d.any()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	d.block = isBlockDevice(info)
	if create > 0 {
		// Through zero, so that nothing of an earlier content stays.
		if err := errors.Join(f.Truncate(0), f.Truncate(create)); err != nil {
			return wrapNoSpace(err)
		}
		if info, err = f.Stat(); err != nil {
			return err
		}
	}
	// Seeking works for files and block devices alike and, unlike Stat, knows a block device's size.
	if d.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	switch {
	case d.block:
		if d.sector, err = blockDeviceSector(f); err == nil {
			err = checkWholeSectors(d.size, d.sector)
		}
	case d.direct == nil:
		d.sector = 512
	default:
		d.sector, err = sectorOf(f)
	}
	if err != nil {
		return err
	}
	if status, known := info.Sys().(*syscall.Stat_t); known && !d.block && d.direct != nil {
		d.holes.Store(status.Blocks*512 < d.size) // st_blocks counts 512 bytes always (stat(2))
	}
	switch {
	case d.direct == nil:
		d.bufferedFrom = 0
	case d.size%int64(d.sector) != 0:
		d.bufferedFrom = d.size &^ (Alignment - 1)
	default:
		d.bufferedFrom = d.size
	}
	return nil
}

func blockDeviceSector(f *os.File) (int, error) {
	sector, err := unix.IoctlGetUint32(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return 0, fmt.Errorf("ask for the sector size (BLKSSZGET): %w", err)
	}
	if sector != 512 && sector != 4096 {
		return 0, fmt.Errorf("sectors of %d bytes; only 512 and 4096 are supported", sector)
	}
	return int(sector), nil
}

// checkWholeSectors refuses a block device whose end the kernel neither reads nor writes, not through the page cache either: found out
// now, not after the rest of the disk was copied.
func checkWholeSectors(size int64, sector int) error {
	part := size % int64(sector)
	if part == 0 {
		return nil
	}
	return fmt.Errorf("the disk of %d bytes ends within a sector: the kernel does not reach its last %d bytes; enlarge it to a multiple of %d bytes, or attach it with smaller sectors",
		size, part, sector)
}

// directSector asks the file system for the unit of direct I/O (statx(2), STATX_DIOALIGN, since Linux 6.1). Older kernels and some file
// systems do not tell; 4096 is then right for storage with either sector size, since it is a multiple of both.
func directSector(f *os.File) (int, error) {
	var status unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &status); err != nil {
		if errors.Is(err, unix.ENOSYS) {
			return 4096, nil
		}
		return 0, fmt.Errorf("ask for the alignment of direct I/O (statx): %w", err)
	}
	if status.Mask&unix.STATX_DIOALIGN == 0 {
		return 4096, nil
	}
	return sectorFor(f.Name(), status.Dio_offset_align, status.Dio_mem_align)
}

// sectorFor chooses the sector for what the file system demands of offsets and of memory, both in bytes and 0 for 'no direct I/O'.
func sectorFor(path string, offset, memory uint32) (int, error) {
	switch {
	case offset == 0 || memory == 0:
		return 0, directUnsupported(path)
	case offset > Alignment || memory > Alignment:
		return 0, fmt.Errorf("direct I/O aligned to %d bytes (memory %d), more than %d: %w", offset, memory, Alignment, directUnsupported(path))
	case offset > 512:
		return 4096, nil
	}
	return 512, nil
}

func directUnsupported(path string) error {
	return fmt.Errorf("%w on the file system of %s: put the image on another one (ext4 and xfs have it) or open it buffered", ErrDirectUnsupported, path)
}

// openTail opens the image a second time, without O_DIRECT.
func (d *file) openTail(flags int) (err error) {
	if d.buffered, err = os.OpenFile(d.path, flags, 0); err != nil {
		return err
	}
	direct, err := d.direct.Stat()
	if err != nil {
		return err
	}
	buffered, err := d.buffered.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(direct, buffered) {
		return errors.New("the path was given to another file meanwhile, try again")
	}
	// Read-ahead before the tail would bring pages into the cache that direct writes then have to push out again.
	return unix.Fadvise(int(d.buffered.Fd()), 0, 0, unix.FADV_RANDOM)
}
