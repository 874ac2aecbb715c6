package dataset

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// stage copies regular files of the roots, one after the other and in the order of their names, until limit bytes are reached. Files
// above a sixteenth of the limit are left out, so that no one file is most of the disk, and so are files that may not be read.
func stage(ctx context.Context, dst string, roots []string, limit int64) (bytes int64, err error) {
	for i, root := range roots {
		to := filepath.Join(dst, strconv.Itoa(i))
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err := errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			if bytes >= limit {
				return filepath.SkipAll
			}
			if !d.Type().IsRegular() {
				return nil
			}
			info, err := d.Info()
			if err != nil || info.Size() > limit/16 {
				return nil // gone since, or too large
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			n, err := copyFile(filepath.Join(to, name), path, info)
			bytes += n
			return err
		})
		if err != nil {
			return bytes, err
		}
	}
	return bytes, nil
}

// copyFile copies content and time. A file that may not be opened counts as empty.
func copyFile(dst, src string, info fs.FileInfo) (int64, error) {
	from, err := os.Open(src)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	defer from.Close()
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return 0, err
	}
	to, err := os.Create(dst)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(to, from)
	return n, errors.Join(err, to.Close(), os.Chtimes(dst, info.ModTime(), info.ModTime()))
}
