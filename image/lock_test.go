package image_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/image"
)

// The lock in the repository is one that this code accepts, and it is written as this code writes it.
func TestRepositorysLock(t *testing.T) {
	text, err := os.ReadFile("lock.json")
	if err != nil {
		t.Fatal(err)
	}
	lock, err := image.ReadLock("lock.json")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "lock.json")
	if err := lock.Write(path); err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(path)
	if diff := cmp.Diff(string(text), string(again)); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
}

func TestReadLockRefuses(t *testing.T) {
	text, err := os.ReadFile("lock.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"not JSON":              {"{", "["},
		"an unknown field":      {`"kernel"`, `"colonel"`},
		"a missing package":     {`"package": "libc6"`, `"package": "libc5"`},
		"a package out of turn": {`"package": "grub-common"`, `"package": "grub-pc-bin"`},
		"a path as a version":   {`"version": "`, `"version": "../`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lock.json")
			broken := strings.Replace(string(text), change[0], change[1], 1)
			if broken == string(text) {
				t.Fatal("the lock has no such text")
			}
			if err := os.WriteFile(path, []byte(broken), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := image.ReadLock(path); err == nil || !strings.Contains(err.Error(), "make image-lock") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func FuzzLock(f *testing.F) {
	text, err := os.ReadFile("lock.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(`{"kernel":{},"grub":[]}`)
	path := filepath.Join(f.TempDir(), "lock.json")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		lock, err := image.ReadLock(path)
		if err != nil {
			return
		}
		if err := lock.Kernel.Check(); err != nil {
			t.Errorf("accepted, but %v", err)
		}
	})
}
