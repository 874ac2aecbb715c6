package worlds

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// mirrored are the trees that dom0 reads (xapi-facts §7.3).
var mirrored = []string{"vm-data", "attr", "data", "feature", "control"}

const (
	maxValue = 4096 // bytes of a XenStore value (xapi-facts §7.1)
	maxKeys  = 1024 // of a guest's trees; beyond, a guest fills its folder and dom0 reads no further
)

// write sets a key, so that a reader sees the old value or the new one.
func (g *process) write(key, value string) error {
	path := filepath.Join(g.dir, filepath.FromSlash(key))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("key %s: %w", key, err)
	}
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".dom0")
	if err := os.WriteFile(temporary, []byte(value), 0o644); err != nil {
		return fmt.Errorf("key %s: %w", key, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("key %s: %w", key, err)
	}
	return nil
}

// SetData replaces the vm-data tree.
func (g *process) SetData(data map[string]string) error {
	for key, value := range data {
		if err := checkKey(key, value); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(filepath.Join(g.dir, "vm-data")); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(g.dir, "vm-data"), 0o755); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(data)) {
		if data[key] == "" {
			if err := os.MkdirAll(filepath.Join(g.dir, filepath.FromSlash(key)), 0o755); err != nil {
				return fmt.Errorf("key %s: %w", key, err)
			}
			continue
		}
		if err := g.write(key, data[key]); err != nil {
			return err
		}
	}
	return nil
}

const keyCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_@/"

// checkKey takes what XenStore takes (xapi-facts §7.1): it keeps keys inside the folder, too.
func checkKey(key, value string) error {
	if !strings.HasPrefix(key, "vm-data/") || strings.HasSuffix(key, "/") || strings.Contains(key, "//") {
		return fmt.Errorf("key %q: no path below vm-data", key)
	}
	if strings.Trim(key, keyCharacters) != "" { // something is left, as nothing is of a key without other characters
		return fmt.Errorf("key %q: only letters, digits, - _ @ and / can stand in a XenStore path", key)
	}
	if len(value) > maxValue {
		return fmt.Errorf("key %s: value of %d bytes, more than %d", key, len(value), maxValue)
	}
	return nil
}

// Tree reads the guest's trees.
func (g *process) Tree() (map[string]string, error) {
	out := map[string]string{}
	err := g.walk(func(key, path string, entry fs.DirEntry) error {
		if entry.IsDir() {
			out[key] = ""
			return nil
		}
		value, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil // replaced or removed while we looked
		}
		out[key] = string(value[:min(len(value), maxValue)])
		return err
	})
	return out, err
}

// settled is how old the last change of a folder must be for its time to tell of a later one: clocks of file systems go in steps.
const settled = 100 * time.Millisecond

// folders are the folders of the trees by path, with the time of their last change: a key is set by putting a file in place,
// which changes its folder.
type folders map[string]time.Time

// changed looks at the folders and reports whether anything in them may have changed since the last look.
func (f folders) changed(dir string) bool {
	changed := false
	for _, top := range mirrored {
		changed = f.look(filepath.Join(dir, top)) || changed
	}
	for path, last := range f {
		info, err := os.Lstat(path)
		switch {
		case err != nil:
			delete(f, path)
			changed = true
		case !info.ModTime().Equal(last) || time.Since(last) < settled:
			changed = true
			f[path] = info.ModTime()
			f.addBelow(path)
		}
	}
	return changed
}

func (f folders) look(path string) bool {
	if _, known := f[path]; known {
		return false
	}
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	f[path] = info.ModTime()
	f.addBelow(path)
	return true
}

func (f folders) addBelow(path string) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if entry.IsDir() {
			f.look(filepath.Join(path, entry.Name()))
		}
	}
}

func (g *process) walk(visit func(key, path string, entry fs.DirEntry) error) error {
	seen := 0
	for _, top := range mirrored {
		err := filepath.WalkDir(filepath.Join(g.dir, top), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			} else if err != nil {
				return err
			}
			if strings.HasPrefix(entry.Name(), ".") || !entry.IsDir() && !entry.Type().IsRegular() {
				return nil // a file that is being written, or nothing that a guest should have made
			}
			if seen++; seen > maxKeys {
				return fs.SkipAll
			}
			key, err := filepath.Rel(g.dir, path)
			if err != nil {
				return err
			}
			return visit(filepath.ToSlash(key), path, entry)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
