package slim_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"

	"github.com/understudy-dr/understudy/image/debian"
	"github.com/understudy-dr/understudy/image/debian/debtest"
	"github.com/understudy-dr/understudy/image/kernel"
	"github.com/understudy-dr/understudy/image/slim"
)

// TestMain is the compiler and make too: the tests put links to this program into PATH.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "gcc":
		fmt.Println("gcc", os.Getenv("GCC_VERSION"))
		os.Exit(0)
	case "make":
		os.Exit(makeTool(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// makeTool plays make in a kernel's source: what it makes is what the source's file 'behaviour' says.
func makeTool(arguments []string) int {
	behaviour, err := os.ReadFile("behaviour")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	write := func(name, content string) {
		err = errors.Join(err, os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o644))
	}
	switch {
	case slices.Contains(arguments, "allnoconfig"):
		fragment, _ := strings.CutPrefix(arguments[slices.IndexFunc(arguments, func(a string) bool { return strings.HasPrefix(a, "KCONFIG_ALLCONFIG=") })], "KCONFIG_ALLCONFIG=")
		text, _ := os.ReadFile(fragment) // empty, and so lost, when it is not there
		if string(behaviour) == "loses" {
			text = bytes.Replace(text, []byte("CONFIG_XEN=y\n"), []byte("# CONFIG_XEN is not set\n"), 1)
		}
		write(".config", string(text))
	case slices.Contains(arguments, "kernelrelease"):
		fmt.Println("6.1.0-understudy")
	case string(behaviour) == "hangs":
		time.Sleep(time.Minute)
	case string(behaviour) == "fails":
		fmt.Fprintln(os.Stderr, "kernel/sched.c:1: error: no")
		return 2
	default:
		write("arch/x86/boot/bzImage", "kernel of "+os.Getenv("KBUILD_BUILD_TIMESTAMP"))
		write("modules.builtin", "kernel/drivers/block/xen-blkfront.ko\n")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return 0
}

// source packs a source package whose make behaves in a way, and returns its archive's path.
func source(t *testing.T, behaviour string) (string, debian.Package) {
	t.Helper()
	programs := t.TempDir()
	self, err := os.Executable()
	if err := errors.Join(err, os.Symlink(self, filepath.Join(programs, "gcc")), os.Symlink(self, filepath.Join(programs, "make"))); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", programs)
	t.Setenv("GCC_VERSION", "12")
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	var packed bytes.Buffer
	compressor, err := xz.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(compressor)
	for _, header := range []*tar.Header{
		{Name: slim.Package + "/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: slim.Package + "/behaviour", Typeflag: tar.TypeReg, Size: int64(len(behaviour)), Mode: 0o644},
	} {
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := archive.Write([]byte(behaviour)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := errors.Join(archive.Close(), compressor.Close()); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"usr/src/" + slim.Package + ".tar.xz": packed.String(), "usr/share/doc/" + slim.Package + "/copyright": "License: GPL-2\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	content, err := debtest.Pack(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "source.deb")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path, debtest.Name(slim.Package, content)
}

func TestTree(t *testing.T) {
	archive, p := source(t, "works")
	dir := t.TempDir()
	said := 0
	tree, err := slim.Tree(t.Context(), dir, archive, p, func(string) { said++ })
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.Open(tree)
	if err != nil {
		t.Fatal(err)
	}
	if image, err := os.ReadFile(k.Image); err != nil || string(image) != "kernel of Tue Jan  1 00:00:00 UTC 1980" || k.Release != "6.1.0-understudy" {
		t.Errorf("kernel %s is %q, %v", k.Release, image, err)
	}
	if modules, err := k.Select("xen_blkfront"); err != nil || len(modules) != 0 {
		t.Errorf("its modules are %v, %v", modules, err)
	}
	if licence, err := os.ReadFile(filepath.Join(tree, "usr/share/doc", slim.Package, "copyright")); err != nil || string(licence) != "License: GPL-2\n" {
		t.Errorf("its licence is %q, %v", licence, err)
	}
	// A finished tree is kept, until something that decides its bytes changes.
	if again, err := slim.Tree(t.Context(), dir, "/nonexistent", p, func(string) { said++ }); err != nil || again != tree || said != 1 {
		t.Errorf("again: %s, %v, %d times said", again, err, said)
	}
	t.Setenv("GCC_VERSION", "13")
	if other, err := slim.Tree(t.Context(), dir, archive, p, func(string) {}); err != nil || other == tree {
		t.Errorf("with another compiler: %s, %v", other, err)
	}
}

func TestTreeFails(t *testing.T) {
	for behaviour, want := range map[string]string{"loses": "CONFIG_XEN=y", "fails": "sched.c:1: error"} {
		t.Run(behaviour, func(t *testing.T) {
			archive, p := source(t, behaviour)
			dir := t.TempDir()
			if _, err := slim.Tree(t.Context(), dir, archive, p, func(string) {}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %v", err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	t.Run("hangs", func(t *testing.T) {
		archive, p := source(t, "hangs")
		enough := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, enough)
		defer cancel()
		start := time.Now()
		if _, err := slim.Tree(ctx, t.TempDir(), archive, p, func(string) {}); !errors.Is(err, enough) || time.Since(start) > 10*time.Second {
			t.Errorf("after %v the error is %v", time.Since(start), err)
		}
	})
	t.Run("no compiler", func(t *testing.T) {
		archive, p := source(t, "works")
		t.Setenv("PATH", t.TempDir())
		if _, err := slim.Tree(t.Context(), t.TempDir(), archive, p, func(string) {}); err == nil || !strings.Contains(err.Error(), "hack/deps kernel") {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestLost(t *testing.T) {
	lost := slim.Lost([]byte("# why\nCONFIG_A=y\nCONFIG_B=\"x\"\n\nCONFIG_C=16\n"), []byte("CONFIG_A=y\nCONFIG_AB=y\n# CONFIG_B is not set\nCONFIG_C=8\n"))
	if diff := cmp.Diff([]string{`CONFIG_B="x"`, "CONFIG_C=16"}, lost); diff != "" {
		t.Error(diff)
	}
}
