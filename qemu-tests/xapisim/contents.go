package xapisim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"

	"golang.org/x/sys/unix"
)

// blockSize is the unit of changed block tracking (xapi-facts §11).
const blockSize = 64 << 10

// contents tells what a volume held at one moment: a hash of every block that was not all zero, by its number. What has
// changed since is found by comparing with the file of now, and so follows from what was really written, whoever wrote it
// and by whichever way. A block that was written with what it held before counts as unchanged. Contents are never changed.
type contents map[int64]uint64

var blockSeed = maphash.MakeSeed()

// readContents reads a volume; holes are passed over.
func readContents(ctx context.Context, path string) (_ contents, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() == 0 {
		return contents{}, nil
	}
	// Mapped, it is not copied, and nothing that the race detector would follow byte by byte.
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(mapped)) }()
	out, zeroes := contents{}, make([]byte, blockSize)
	for offset := int64(0); offset < info.Size(); {
		data, err := unix.Seek(int(f.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole to the end
			return out, nil
		} else if err != nil {
			return nil, err
		}
		offset = data / blockSize * blockSize
		for range 16 {
			end := min(offset+blockSize, info.Size())
			if block := mapped[offset:end]; !bytes.Equal(block, zeroes[:len(block)]) {
				out[offset/blockSize] = maphash.Bytes(blockSeed, block)
			}
			if offset = end; offset == info.Size() {
				break
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// changed gives the numbers of the blocks that differ between two contents.
func (c contents) changed(since contents) []int64 {
	var out []int64
	for block, hash := range c {
		if old, held := since[block]; !held || old != hash {
			out = append(out, block)
		}
	}
	for block := range since {
		if _, held := c[block]; !held {
			out = append(out, block) // zeroed
		}
	}
	return out
}
