package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The whole demonstration, on small disks.
func TestDemonstration(t *testing.T) {
	keep := t.TempDir()
	var out, complaints bytes.Buffer
	if code := run(t.Context(), []string{"--disk-size", "64MiB", "--keep", keep}, &out, &complaints); code != exitEqual {
		t.Fatalf("exit code %d\n%s\n%s", code, out.String(), complaints.String())
	}
	for _, want := range []string{"3 pull", "report.log", "photos.bin", "moved-", "disk 1: 16 MiB are equal"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in what the demo prints:\n%s", want, out.String())
		}
	}
	content, err := os.ReadFile(filepath.Join(keep, "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d document
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	if len(d.Disks) != 2 || len(d.Runs) != 6 {
		t.Fatalf("%d disks and %d rows: %s", len(d.Disks), len(d.Runs), content)
	}
	for i, disk := range d.Disks {
		source, replica := read(t, keep, disk.Source), read(t, keep, disk.Replica)
		if want := int64(64<<20) >> (2 * i); int64(len(source)) != want || !bytes.Equal(source, replica) {
			t.Errorf("disk %s: %d and %d bytes, equal %v", disk.Disk, len(source), len(replica), bytes.Equal(source, replica))
		}
	}
	for i, row := range d.Runs {
		if sum := row.Same + row.Zero + row.Copied + row.Sent + row.Spared; sum != row.Size {
			t.Errorf("row %d: the verdicts add up to %d of %d", i, sum, row.Size)
		}
		if moved := row.Sent + row.Copied; i >= 2 && moved > row.Size/4 {
			t.Errorf("row %d: a later run moved %d of %d bytes", i, moved, row.Size)
		}
	}
	if second := d.Runs[3]; second.Sent != 0 || second.Wire > 64<<10 {
		t.Errorf("the unchanged second disk: %+v", second)
	}
	if first := d.Runs[0]; first.Sent == 0 {
		t.Errorf("the first copy sent nothing: %+v", first)
	}
}

func read(t *testing.T, dir, path string) []byte {
	t.Helper()
	if path == "" || filepath.IsAbs(path) {
		t.Fatalf("path %q is not relative", path)
	}
	content, err := os.ReadFile(filepath.Join(dir, path))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestCompareNamesTheFirstDifferentByte(t *testing.T) {
	const size = 5<<20 + 512
	dir := folder(t)
	content := noise(size, 7)
	other := bytes.Clone(content)
	other[3<<20+17] ^= 1
	other[size-1] ^= 1
	for name, p := range map[string][]byte{"a": content, "same": content, "other": other, "longer": append(bytes.Clone(content), 1), "shorter": content[:size-512]} {
		if err := os.WriteFile(filepath.Join(dir, name), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(name string) error {
		return compare(t.Context(), filepath.Join(dir, "a"), filepath.Join(dir, name), size)
	}
	if err := errors.Join(check("same"), check("longer")); err != nil {
		t.Error(err)
	}
	var different *differentError
	if err := check("other"); !errors.As(err, &different) || different.offset != 3<<20+17 {
		t.Errorf("error %v, want one with offset %d", err, 3<<20+17)
	}
	if err := check("shorter"); err == nil {
		t.Error("a replica that is too short passes")
	}
}

func TestCopySparseKeepsContentAndHoles(t *testing.T) {
	dir := folder(t)
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "deep", "to")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(noise(100<<10, 1), 2<<20)
	_, too := f.WriteAt(noise(5000, 2), 70<<20)
	if err := errors.Join(err, too, f.Truncate(100<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := copySparse(t.Context(), from, to, 90<<20); err != nil {
		t.Fatal(err)
	}
	if err := compare(t.Context(), to, from, 90<<20); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(to); err != nil || info.Size() != 90<<20 {
		t.Errorf("the copy: %v, %v", info, err)
	}
}

// folder is on the disk of the source tree: a /tmp may lie in memory, where there is no direct I/O.
func folder(t *testing.T) string {
	t.Helper()
	root, err := moduleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	build := filepath.Join(root, "build")
	if err := os.MkdirAll(build, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(build, "demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestWrongUsage(t *testing.T) {
	for _, args := range [][]string{{"--disk-size", "many"}, {"--disk-size", "1MiB"}, {"--no-such-flag"}, {"argument"}, {"--world", "moon"}} {
		if code := run(t.Context(), args, io.Discard, io.Discard); code != exitUsage {
			t.Errorf("%v ends with %d, want %d", args, code, exitUsage)
		}
	}
}
