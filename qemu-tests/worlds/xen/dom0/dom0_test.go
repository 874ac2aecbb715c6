package dom0

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/understudy-dr/understudy/image/debian"
)

// compile makes a shared library in a tree that needs others.
func compile(t *testing.T, tree, name string, needs ...string) {
	t.Helper()
	dir := filepath.Join(tree, "usr/lib/x86_64-linux-gnu")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	arguments := []string{"-shared", "-nostdlib", "-Wl,--no-as-needed", "-x", "c", "/dev/null", "-x", "none", "-o", filepath.Join(dir, name)}
	for _, need := range needs {
		arguments = append(arguments, "-L"+dir, "-l:"+need)
	}
	if out, err := exec.Command("gcc", arguments...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
}

func TestClosureOfLibraries(t *testing.T) {
	tree := t.TempDir()
	compile(t, tree, "libc.so.1.0")
	if err := os.Symlink("libc.so.1.0", filepath.Join(tree, "usr/lib/x86_64-linux-gnu/libc.so.1")); err != nil {
		t.Fatal(err)
	}
	compile(t, tree, "libb.so", "libc.so.1")
	compile(t, tree, "liba.so", "libb.so", "libc.so.1")
	c := &collection{tree: tree, records: map[string]cpio.Record{}}
	if err := c.addLibrary("liba.so", "test"); err != nil {
		t.Fatal(err)
	}
	const dir = "usr/lib/x86_64-linux-gnu/"
	want := dir + "liba.so " + dir + "libb.so " + dir + "libc.so.1 " + dir + "libc.so.1.0"
	if got := strings.Join(c.order, " "); got != want {
		t.Errorf("collected %s, want %s", got, want)
	}
	if err := os.Remove(filepath.Join(tree, dir, "libb.so")); err != nil {
		t.Fatal(err)
	}
	c = &collection{tree: tree, records: map[string]cpio.Record{}}
	if err := c.addLibrary("liba.so", "test"); err == nil || !strings.Contains(err.Error(), "libb.so") {
		t.Errorf("a missing library: %v", err)
	}
}

// The kernel wants each archive to begin at a multiple of four bytes.
func TestJoin(t *testing.T) {
	var out bytes.Buffer
	if err := join(&out, strings.NewReader("abcde"), strings.NewReader("fghi")); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "abcde\x00\x00\x00fghi" {
		t.Errorf("%q", got)
	}
}

func TestPack(t *testing.T) {
	packed, err := pack([]cpio.Record{cpio.StaticFile("etc/modules", "/a\n", 0o444), cpio.Symlink("usr/lib/x", "y")})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	content, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(content)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range records {
		names = append(names, r.Name)
	}
	if got := strings.Join(names, " "); got != "etc etc/modules usr usr/lib usr/lib/x" {
		t.Errorf("packed %s", got)
	}
}

func TestKeyDependsOnEveryPackage(t *testing.T) {
	a := []debian.Package{{Name: "a", Version: "1", SHA256: "x"}, {Name: "b", Version: "1", SHA256: "y"}}
	b := []debian.Package{{Name: "a", Version: "1", SHA256: "x"}, {Name: "b", Version: "2", SHA256: "y"}}
	if key(a) == key(b) || key(a) != key(slices.Clone(a)) {
		t.Errorf("keys %s and %s", key(a), key(b))
	}
}
