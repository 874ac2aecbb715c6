package dataset_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/qemu-tests/cmd/bench/dataset"
)

func build(t *testing.T) *dataset.Set {
	t.Helper()
	tree := t.TempDir()
	for i := range 40 {
		content := bytes.Repeat(fmt.Appendf(nil, "file %d of a machine\n", i), 20_000)
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprintf("f%02d", i)), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := dataset.Build(t.Context(), filepath.Join(t.TempDir(), "set"), dataset.MinSize, []string{tree})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSet(t *testing.T) {
	s := build(t)
	t.Run("workloads", func(t *testing.T) { workloads(t, s) })
	t.Run("prepare again", func(t *testing.T) { prepareAgain(t, s) })
	if err := s.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// What a workload says is what its disks hold.
func workloads(t *testing.T, s *dataset.Set) {
	if s.TreeBytes < 10<<20 {
		t.Errorf("only %d bytes of files", s.TreeBytes)
	}
	const blocks = dataset.MinSize / manifest.BlockSize
	for _, w := range s.Workloads {
		t.Run(w.Name, func(t *testing.T) {
			if err := w.Prepare(); err != nil {
				t.Fatal(err)
			}
			ideal, err := w.Ideal(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Verify(t.Context()); (err == nil) != (w.Name == "unchanged") {
				t.Errorf("before: %v", err)
			}
			least, most := int64(1), int64(blocks)
			switch w.Name {
			case "unchanged":
				least, most = 0, 0
			case "changed1":
				least, most = blocks/100, blocks/100
				if ideal.Parts > ideal.Differing*4096 {
					t.Errorf("%d bytes of parts in %d blocks", ideal.Parts, ideal.Differing)
				}
			case "changed1-clustered":
				least, most = 1, 16
			case "changed10":
				least, most = blocks/20, blocks/10
			case "db":
				if ideal.Parts != dataset.MinSize/16/10/4096*4096 || ideal.PartsCompressed > ideal.Parts/2 {
					t.Errorf("pages: %+v", ideal)
				}
			case "moved":
				if ideal.Copies < dataset.MinSize/16/manifest.BlockSize-1 {
					t.Errorf("the film was not found again: %+v", ideal)
				}
			case "incompressible":
				if ideal.Compressed != ideal.Raw || ideal.Raw != w.Size {
					t.Errorf("it compresses: %+v", ideal)
				}
			}
			if ideal.Differing < least || ideal.Differing > most {
				t.Errorf("%d blocks differ, not %d to %d", ideal.Differing, least, most)
			}
			if ideal.Compressed > ideal.Raw || ideal.Parts > ideal.Raw || ideal.PartsCompressed > ideal.Parts {
				t.Errorf("sums: %+v", ideal)
			}
		})
	}
}

// Preparing after a run, after none, and after one that failed gives the same disks.
func prepareAgain(t *testing.T, s *dataset.Set) {
	w, err := s.Workload("db")
	if err != nil {
		t.Fatal(err)
	}
	target, source := filepath.Join(w.Dir(), w.Target()), filepath.Join(w.Dir(), w.Source())
	prepared := func() []byte {
		t.Helper()
		if err := w.Prepare(); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(target)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	first := prepared()
	same := func(when string) {
		t.Helper()
		if !bytes.Equal(prepared(), first) {
			t.Errorf("another content %s", when)
		}
	}
	w.Untouched()
	same("after a run that only read")
	if err := os.WriteFile(target, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	same("after a run that failed")
	content, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.Verify(t.Context()); err != nil {
		t.Errorf("equal disks: %v", err)
	}
	w.Done()
	same("after a run")
}

func TestBuildRefuses(t *testing.T) {
	for _, size := range []int64{0, dataset.MinSize - manifest.BlockSize, dataset.MinSize + 1} {
		dir := filepath.Join(t.TempDir(), "set")
		if _, err := dataset.Build(t.Context(), dir, size, nil); err == nil {
			t.Errorf("%d bytes are taken", size)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%d bytes: something was written", size)
		}
	}
}
