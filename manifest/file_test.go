package manifest_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
)

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestFileAppearsOnCommitAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.manifest")
	must(t, os.WriteFile(path, []byte("old"), 0o600))
	read := func() string {
		p, err := os.ReadFile(path)
		must(t, err)
		return string(p)
	}

	f, err := manifest.Create(path)
	must(t, err)
	_, err = f.Write([]byte("half"))
	must(t, err)
	if read() != "old" || len(names(t, dir)) != 2 {
		t.Fatalf("before the commit: %q, %v", read(), names(t, dir))
	}
	must(t, f.Close())
	must(t, f.Close())
	if read() != "old" || len(names(t, dir)) != 1 {
		t.Fatalf("discarded: %q, %v", read(), names(t, dir))
	}
	wantError(t, f.Commit(), os.ErrClosed)

	f, err = manifest.Create(path)
	must(t, err)
	root, err := manifest.Compose(f, testKey(0), header(manifest.ExtentSize, 1), nil, manifest.MissingIsZero, nil)
	must(t, err)
	must(t, f.Commit())
	must(t, f.Close())
	if r := open(t, []byte(read())); r.Root() != root || len(names(t, dir)) != 1 {
		t.Fatalf("committed: root %s, want %s; %v", r.Root(), root, names(t, dir))
	}
}

func TestFileIsNotCommittedAfterAFailedWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.manifest")
	f, err := manifest.Create(path)
	must(t, err)
	must(t, f.Close())
	if _, err := f.Write([]byte("late")); err == nil {
		t.Error("a closed file takes bytes")
	}
	if err := f.Commit(); err == nil || len(names(t, dir)) != 0 {
		t.Errorf("committed: %v, %v", err, names(t, dir))
	}
	if _, err := manifest.Create(filepath.Join(dir, "absent", "disk.manifest")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that does not exist: %v", err)
	}
}
