package manifest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// File is a file that appears whole or not at all: it is written under a temporary name beside its place, and Commit puts it
// there. A crash leaves the old file, if any, and perhaps a ".NAME.*.tmp", which may be removed when nobody writes. Not for
// concurrent use.
type File struct {
	f    *os.File
	path string
	err  error // of the first failed write; then Commit refuses
	done bool
}

// Create begins a file that will be at path, in a folder that exists. Call Close whatever happens, and Commit before it to
// keep the file.
func Create(path string) (*File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return &File{f: f, path: path}, nil
}

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) {
	n, err := f.f.Write(p)
	if err != nil && f.err == nil {
		f.err = err
	}
	return n, err
}

// Commit makes the content durable, puts the file in its place and makes that durable. After an error either the old or the
// new file is there, whole.
func (f *File) Commit() error {
	if f.done {
		return fmt.Errorf("commit %s: %w", f.path, os.ErrClosed)
	}
	if f.err != nil {
		return fmt.Errorf("commit %s: an earlier write failed: %w", f.path, f.err)
	}
	if err := f.f.Sync(); err != nil {
		return fmt.Errorf("commit %s: %w", f.path, err)
	}
	if err := os.Rename(f.f.Name(), f.path); err != nil {
		return fmt.Errorf("commit %s: %w", f.path, err)
	}
	f.done = true
	if err := errors.Join(f.f.Close(), syncFolder(filepath.Dir(f.path))); err != nil {
		return fmt.Errorf("commit %s: %w", f.path, err)
	}
	return nil
}

// Close discards the file unless it was committed. It may be called more than once.
func (f *File) Close() error {
	if f.done {
		return nil
	}
	f.done = true
	return errors.Join(f.f.Close(), os.Remove(f.f.Name()))
}

// syncFolder makes a rename in a folder durable.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
