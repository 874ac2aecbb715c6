package blockiotest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/blockio"
)

// DirectDirectory returns a temporary directory on a file system with direct I/O, removed when the test ends. Temporary directories lie
// in memory on some machines; the working directory, which for tests is that of their package, is tried next. When it has no direct I/O
// either the test fails.
func DirectDirectory(t *testing.T) string {
	t.Helper()
	directory := t.TempDir()
	if err := tryDirect(directory); err == nil {
		return directory
	} else if !errors.Is(err, blockio.ErrDirectUnsupported) {
		t.Fatal(err)
	}
	directory, err := os.MkdirTemp(".", "direct-*.tmp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(directory); err != nil {
			t.Error(err)
		}
	})
	if err := tryDirect(directory); err != nil {
		t.Fatalf("neither TMPDIR nor the working directory has direct I/O, set TMPDIR to a directory on a disk: %v", err)
	}
	return directory
}

func tryDirect(directory string) error {
	device, err := blockio.Open(filepath.Join(directory, "probe"), blockio.Options{Create: blockio.Alignment})
	if err != nil {
		return err
	}
	_, err = device.ReadAt(blockio.AlignedBuffer(blockio.Alignment), 0)
	return errors.Join(err, device.Close())
}
