package statetest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/understudy-dr/understudy/orchestrator/state"
)

// Open opens dir/state with the key dir/key, and makes both when they are missing. Close the Store after use.
func Open(ctx context.Context, dir string) (*state.Store, error) {
	if _, err := os.Stat(filepath.Join(dir, "state")); errors.Is(err, fs.ErrNotExist) {
		files, err := first()
		if err != nil {
			return nil, err
		}
		for name, content := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return nil, err
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				return nil, err
			}
		}
	} else if err != nil {
		return nil, err
	}
	return open(ctx, dir)
}

func open(ctx context.Context, dir string) (*state.Store, error) {
	secrets, err := state.LoadOrCreateSecrets(filepath.Join(dir, "state"), filepath.Join(dir, "key"), func(string) string { return "" })
	if err != nil {
		return nil, err
	}
	return state.Open(ctx, filepath.Join(dir, "state"), secrets)
}

// first makes the directory that the others are copies of, and gives its files by name.
var first = sync.OnceValues(func() (files map[string][]byte, err error) {
	dir, err := os.MkdirTemp("", "understudy-state-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, err := open(context.Background(), dir)
	if err != nil {
		return nil, err
	}
	if err := store.Close(); err != nil { // the database is one file then
		return nil, err
	}
	files = map[string][]byte{}
	return files, fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files[name], err = os.ReadFile(filepath.Join(dir, name))
		}
		return err
	})
})
