package debian

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// Extract unpacks packages below a directory that exists, one over the other. Nothing is written outside it, whatever
// names and links the packages have. Owners, times and set-id bits are left out; device nodes are refused.
func Extract(dir string, archives ...string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("debian: %w", err)
	}
	defer func() { _ = root.Close() }() // a directory; its files are closed and checked one by one
	for _, archive := range archives {
		err := Unpack(archive, func(header *tar.Header, content io.Reader) error { return extract(root, header, content) })
		if err != nil {
			return err
		}
	}
	return nil
}

// ExtractTar is Extract for a tar stream, such as the source that some packages hold, without the directory top that all
// its names begin with.
func ExtractTar(dir, top string, r io.Reader) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("debian: %w", err)
	}
	defer func() { _ = root.Close() }() // a directory; its files are closed and checked one by one
	return walk(r, func(header *tar.Header, content io.Reader) error {
		name, ok := strings.CutPrefix(header.Name+"/", top+"/")
		if !ok {
			return fmt.Errorf("%w: entry %.100q is not below %s", ErrFormat, header.Name, top)
		}
		if header.Name = strings.TrimSuffix(name, "/"); header.Name == "" {
			return nil
		}
		return extract(root, header, content)
	})
}

func extract(root *os.Root, header *tar.Header, content io.Reader) error {
	mode := os.FileMode(header.Mode) & 0o755 // never writable by others
	if parent := path.Dir(header.Name); header.Typeflag != tar.TypeDir && parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return fmt.Errorf("debian: extract %s: %w", header.Name, err)
		}
	}
	var err error
	switch header.Typeflag {
	case tar.TypeDir:
		err = root.MkdirAll(header.Name, 0o755)
	case tar.TypeReg:
		err = write(root, header.Name, mode, content)
	case tar.TypeSymlink:
		if err = remove(root, header.Name); err == nil {
			err = root.Symlink(header.Linkname, header.Name)
		}
	case tar.TypeLink:
		var target string
		if target, err = clean(header.Linkname); err == nil {
			if err = remove(root, header.Name); err == nil {
				err = root.Link(target, header.Name)
			}
		}
	default:
		err = fmt.Errorf("entries of type %q are not supported", header.Typeflag)
	}
	if err != nil {
		return fmt.Errorf("debian: extract %s: %w", header.Name, err)
	}
	return nil
}

func write(root *os.Root, name string, mode os.FileMode, content io.Reader) error {
	if err := remove(root, name); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode|0o200)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// remove makes room for a file of a later package.
func remove(root *os.Root, name string) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
