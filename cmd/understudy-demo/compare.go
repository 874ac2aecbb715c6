package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/blockio"
)

// differentError names the first byte in which a replica is not its source.
type differentError struct {
	source, replica string
	offset          int64
}

func (e *differentError) Error() string {
	return fmt.Sprintf("the replica differs from the source: %s and %s at offset %d", e.replica, e.source, e.offset)
}

// compare reads the first size bytes of both files and fails with a *differentError at the first unequal byte. It reads what is on
// the disk, past the page cache.
func compare(ctx context.Context, source, replica string, size int64) error {
	a, err := scan(ctx, source, size)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // only read
	b, err := scan(ctx, replica, size)
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // only read
	for {
		x, err := a.Next()
		if errors.Is(err, io.EOF) {
			return nil // b was read as far: its size was checked
		} else if err != nil {
			return err
		}
		y, err := b.Next()
		if err != nil {
			x.Release()
			return err
		}
		if !bytes.Equal(x.Data, y.Data) {
			err = &differentError{source, replica, x.Off + firstDifference(x.Data, y.Data)}
		}
		x.Release()
		y.Release()
		if err != nil {
			return err
		}
	}
}

// scanned is an image that is read in order.
type scanned struct {
	*blockio.Scanner
	device blockio.Device
}

func scan(ctx context.Context, path string, size int64) (*scanned, error) {
	device, err := blockio.Open(path, blockio.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	if device.Size() < size {
		return nil, errors.Join(fmt.Errorf("%s has %d bytes, fewer than %d", path, device.Size(), size), device.Close())
	}
	return &scanned{blockio.NewScanner(ctx, device, blockio.ScanOptions{End: size}), device}, nil
}

func (s *scanned) Close() error { return errors.Join(s.Scanner.Close(), s.device.Close()) }

func firstDifference(a, b []byte) int64 {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return int64(i)
		}
	}
	return int64(min(len(a), len(b)))
}

// copySparse copies the first size bytes of a file, without its holes.
func copySparse(ctx context.Context, from, to string, size int64) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	err = copyData(ctx, source, target, size)
	if err == nil {
		err = target.Truncate(size)
	}
	if err = errors.Join(err, target.Close()); err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	return nil
}

func copyData(ctx context.Context, source, target *os.File, size int64) error {
	for offset := int64(0); offset < size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		data, err := unix.Seek(int(source.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole to the end
		} else if err != nil {
			return err
		}
		hole, err := unix.Seek(int(source.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		// A piece at a time, so that the context is looked at.
		length := min(hole, size, data+64<<20) - data
		if length <= 0 {
			return nil
		}
		if _, err := source.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := target.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(target, source, length); err != nil {
			return err
		}
		offset = data + length
	}
	return nil
}
