package xapisim

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// volumePath is the raw file behind a VDI.
func (p *Pool) volumePath(vdi *object) string {
	sr := p.db.find("SR", vdi.text("SR"))
	return filepath.Join(p.srDir(sr), vdi.text("location")+".raw")
}

func (p *Pool) srDir(sr *object) string { return filepath.Join(p.config.Dir, sr.uuid()) }

// createVolume makes a sparse file of size bytes that reads as zeroes, or full of noise when the SR's volumes keep what
// was on the device before. A file that could not be finished is removed.
func createVolume(ctx context.Context, path string, size int64, garbage bool) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if garbage {
		if err := fillWithNoise(ctx, f, size); err != nil {
			return err
		}
	}
	return f.Truncate(size)
}

func fillWithNoise(ctx context.Context, w io.Writer, size int64) error {
	noise := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	buffer := make([]byte, 1<<20)
	for size > 0 {
		for i := 0; i < len(buffer); i += 8 {
			binary.LittleEndian.PutUint64(buffer[i:], noise.Uint64())
		}
		n, err := w.Write(buffer[:min(size, int64(len(buffer)))])
		if err != nil {
			return err
		}
		size -= int64(n)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a file that may not be there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// copyVolume copies a file with its holes and makes the copy size bytes long, which must not be less than the source.
// The file system shares the blocks where it can; else only data is copied, inside the kernel. A copy that fails is left as
// it is, of its full size.
func copyVolume(ctx context.Context, from, to string, size int64, progress func(done float64)) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, target.Close()); err != nil {
			err = fmt.Errorf("copy %s: %w", from, errors.Join(err, os.Truncate(to, size)))
		}
	}()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if info.Size() > size {
		return fmt.Errorf("the source has %d bytes, more than %d", info.Size(), size)
	}
	if pace(ctx) > 0 || unix.IoctlFileClone(int(target.Fd()), int(source.Fd())) != nil { // refused by most file systems: copy
		if err := copyData(ctx, source, target, info.Size(), progress); err != nil {
			return err
		}
	}
	return target.Truncate(size)
}

func copyData(ctx context.Context, source, target *os.File, size int64, progress func(float64)) error {
	for offset := int64(0); offset < size; {
		data, err := unix.Seek(int(source.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole to the end
			return nil
		} else if err != nil {
			return err
		}
		hole, err := unix.Seek(int(source.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for offset = data; offset < hole; {
			n, err := copyRange(source, target, offset, min(hole-offset, 16<<20))
			if err != nil {
				return err
			}
			offset += n
			if err := took(ctx, n); err != nil {
				return err
			}
			if progress != nil {
				progress(float64(offset) / float64(size))
			}
		}
	}
	return nil
}

func copyRange(source, target *os.File, offset, length int64) (int64, error) {
	in, out := offset, offset
	n, err := unix.CopyFileRange(int(source.Fd()), &in, int(target.Fd()), &out, int(length), 0)
	if err == nil && n > 0 {
		return int64(n), nil
	}
	if err != nil && !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) &&
		!errors.Is(err, unix.EOPNOTSUPP) {
		return 0, err
	}
	written, err := io.Copy(io.NewOffsetWriter(target, offset), io.NewSectionReader(source, offset, length))
	if err == nil && written == 0 {
		err = io.ErrUnexpectedEOF // the source has shrunk under the copy
	}
	return written, err
}

// overwriteVolume writes one file's blocks over those of another, all of them or those that differ from a third file's.
func overwriteVolume(ctx context.Context, from, to, base string) error {
	held, err := readContents(ctx, from)
	if err != nil {
		return err
	}
	below := cmp.Or(base, to) // without a base, what the target already holds need not be written
	old, err := readContents(ctx, below)
	if err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	buffer := make([]byte, blockSize)
	for _, block := range held.changed(old) {
		n, err := source.ReadAt(buffer, block*blockSize)
		if n == 0 && errors.Is(err, io.EOF) {
			continue // beyond the source's end
		} else if err == nil || errors.Is(err, io.EOF) {
			_, err = target.WriteAt(buffer[:n], block*blockSize)
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return errors.Join(err, target.Close())
		}
	}
	return target.Close()
}
