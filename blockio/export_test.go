package blockio

import "os"

// OpenWithSector opens an image as if its storage had sectors of the given size, which must be a multiple of the real one.
func OpenWithSector(path string, o Options, sector int) (Device, error) {
	d, err := open(path, o, func(*os.File) (int, error) { return sector, nil })
	if err != nil {
		return nil, err
	}
	return d, nil
}

// OpenWithoutQueue opens an image as where the kernel has no queue to give.
func OpenWithoutQueue(path string, o Options) (Device, error) {
	d, err := open(path, o, directSector)
	if err != nil {
		return nil, err
	}
	queue := d.queue
	d.queue = nil
	return d, queue.close()
}

// ZeroByWriting zeroes whole sectors in the way that is left where the kernel cannot punch holes.
func ZeroByWriting(device Device, off, length int64) error {
	return writeZeroBytes(device.WriteAt, off, off+length)
}

var (
	SectorFor         = sectorFor
	CheckWholeSectors = checkWholeSectors
	WrapNoSpace       = wrapNoSpace
)
