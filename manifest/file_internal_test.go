package manifest

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCommitRemembersAFailedWrite: a full disk cannot be had without root; a file opened for reading fails its writes as well,
// while sync and rename would succeed.
func TestCommitRemembersAFailedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.manifest")
	if err := os.WriteFile(path+".tmp", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	readOnly, err := os.Open(path + ".tmp")
	if err != nil {
		t.Fatal(err)
	}
	f := &File{f: readOnly, path: path}
	if _, err := f.Write([]byte("lost")); err == nil {
		t.Fatal("the write did not fail")
	}
	if err := f.Commit(); err == nil {
		t.Error("committed without what could not be written")
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is there")
	}
}
