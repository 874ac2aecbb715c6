package xva_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/image/xva"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestWriteIsReproducible(t *testing.T) {
	content := disk(8*mib, 0, 3*mib+100)
	first, second := write(t, appliance(content)), write(t, appliance(content))
	if !bytes.Equal(first, second) {
		t.Error("two writes of one appliance differ")
	}
	const golden = "56ba790b51edd80f65e4c556e64d42f7fedbe9ca2e1b0013492bda63b8fb35de"
	if sum := sha256.Sum256(first); hex.EncodeToString(sum[:]) != golden {
		t.Errorf("SHA-256 %x, was %s: the format has changed", sum, golden)
	}
}

func TestWriteGoldenMetadata(t *testing.T) {
	archive := tar.NewReader(bytes.NewReader(write(t, appliance(disk(2*mib)))))
	if _, err := archive.Next(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(archive)
	if err != nil {
		t.Fatal(err)
	}
	const golden = "appliance.ova.xml"
	if *update {
		if err := os.WriteFile("testdata/"+golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(sample(t, golden)), string(got)); diff != "" {
		t.Error(diff)
	}
}

// The archive is plain ustar: each header alone says everything, and zeroes between the first and the last chunk are not there.
func TestWriteArchive(t *testing.T) {
	archive := tar.NewReader(bytes.NewReader(write(t, appliance(disk(8*mib, 3*mib+100)))))
	var names []string
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if header.Format != tar.FormatUSTAR || header.Typeflag != tar.TypeReg || header.Uid != 0 || header.Uname != "" || header.ModTime.Unix() != 0 {
			t.Errorf("%+v", header)
		}
		names = append(names, header.Name)
	}
	want := []string{"ova.xml"}
	for _, number := range []string{"00000000", "00000003", "00000007"} {
		want = append(want, "Ref:0003/"+number, "Ref:0003/"+number+".checksum")
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

func TestWriteThenRead(t *testing.T) {
	for _, content := range [][]byte{
		disk(2 * mib), disk(2*mib, 0, mib), disk(4*mib, mib-1), disk(6*mib, 5*mib, 6*mib-1), disk(8*mib, 2*mib-1, 4*mib+7, 6*mib),
	} {
		disks, err := read(write(t, appliance(content)))
		if err != nil {
			t.Fatal(err)
		}
		if len(disks) != 1 || !bytes.Equal(disks["Ref:0003"], content) {
			t.Errorf("another disk came back than the one of %d bytes", len(content))
		}
	}
}

func TestWriteThenCheck(t *testing.T) {
	for firmware, want := range map[string]string{"": "bios", "bios": "bios", "uefi": "uefi"} {
		a := appliance(disk(4*mib, mib))
		a.Firmware = firmware
		file := write(t, a)
		got, err := xva.Check(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != a.Name || got.Version != a.Version || got.Kind != xva.KindDelegateTemplate || got.Bytes != int64(len(file)) || got.SHA256 != sha256.Sum256(file) {
			t.Errorf("%+v", got)
		}
		if diff := cmp.Diff([]xva.DiskInfo{{ID: "Ref:0003", Name: "boot", Size: 4 * mib, Chunks: 3, Bytes: 3 * mib}}, got.Disks); diff != "" {
			t.Error(diff)
		}
		machine := got.Objects[0]
		if machine.Class != "VM" || machine.Snapshot["is_a_template"] != true || machine.Snapshot["has_vendor_device"] != false || machine.Text("memory_static_min") != fmt.Sprint(a.Memory) {
			t.Errorf("%v", machine)
		}
		if diff := cmp.Diff(map[string]string{"order": "c", "firmware": want}, machine.Table("HVM_boot_params")); diff != "" {
			t.Error(diff)
		}
		if slices.ContainsFunc(got.Objects, func(o xva.Object) bool { return o.Class == "VIF" }) {
			t.Error("there is a VIF: an import would make a network for it")
		}
	}
}

// GNU tar and sha1sum agree with what was written.
func TestWriteForGNUTools(t *testing.T) {
	for _, tool := range []string{"tar", "sha1sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Logf("%s is not installed: nothing to compare with", tool)
			return
		}
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "a.xva")
	if err := os.WriteFile(file, write(t, appliance(disk(8*mib, mib, 5*mib))), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(name string, arguments ...string) string {
		command := exec.Command(name, arguments...)
		command.Dir = dir
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return string(out)
	}
	list := run("tar", "tvf", file)
	if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 1+2*4 || !strings.HasSuffix(lines[0], " ova.xml") {
		t.Errorf("tar lists:\n%s", list)
	}
	run("tar", "xf", file)
	sums, err := filepath.Glob(filepath.Join(dir, "Ref:0003", "*.checksum"))
	if err != nil || len(sums) != 4 {
		t.Fatalf("%v, %v", sums, err)
	}
	for _, name := range sums {
		sum, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := run("sha1sum", strings.TrimSuffix(name, ".checksum")); !strings.HasPrefix(got, string(sum)+" ") {
			t.Errorf("%s: %s, sha1sum says %s", name, sum, got)
		}
	}
}

// What a pool would export: several disks of any size, checksums of the newer kind, a version.
func TestWriterThenRead(t *testing.T) {
	source, err := xva.NewReader(bytes.NewReader(write(t, appliance(disk(2*mib)))))
	if err != nil {
		t.Fatal(err)
	}
	objects := source.Objects()
	vbd, vdi := objects[1], objects[3]
	second := xva.Object{Class: "VDI", ID: "Ref:0009", Snapshot: maps.Clone(vdi.Snapshot)}
	vdi.Snapshot["virtual_size"], second.Snapshot["virtual_size"] = int64(3*mib+512), int64(512)
	link := xva.Object{Class: "VBD", ID: "Ref:0008", Snapshot: maps.Clone(vbd.Snapshot)}
	link.Snapshot["VDI"] = second.ID
	version := xva.Version{Hostname: "h", Date: "d", ProductVersion: "8.3.0", ProductBrand: "XCP-ng", BuildNumber: "b", Major: 26, Minor: 17}
	contents := map[string][]byte{vdi.ID: disk(3*mib+512, mib, 3*mib), second.ID: disk(512)}
	var out bytes.Buffer
	w, err := xva.NewWriter(&out, version, append(objects, second, link), xva.XXH64)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range slices.Sorted(maps.Keys(contents)) {
		if err := w.Disk(id, int64(len(contents[id])), bytes.NewReader(contents[id])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Disk(vdi.ID, 512, bytes.NewReader(disk(512))); err == nil {
		t.Error("disks may come in any order")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := read(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(contents, got); diff != "" {
		t.Error("other disks came back")
	}
	x, err := xva.NewReader(bytes.NewReader(out.Bytes()))
	if err != nil || x.Version() != version {
		t.Errorf("%+v, %v", x.Version(), err)
	}
	altered := bytes.Clone(out.Bytes())
	altered[bytes.Index(altered, []byte("Ref:0003/00000001\x00"))+512+9] ^= 1
	if _, err := read(altered); !errors.Is(err, xva.ErrChecksum) {
		t.Error(err)
	}
	if x, err = xva.NewReader(bytes.NewReader(altered)); err != nil {
		t.Fatal(err)
	}
	for x.Force = true; err == nil; {
		_, err = x.Next()
	}
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, change := range map[string]func(*xva.Appliance){
		"no name":              func(a *xva.Appliance) { a.Name = "" },
		"no version":           func(a *xva.Appliance) { a.Version = "" },
		"no memory":            func(a *xva.Appliance) { a.Memory = 0 },
		"odd memory":           func(a *xva.Appliance) { a.Memory++ },
		"no CPU":               func(a *xva.Appliance) { a.VCPUs = 0 },
		"unknown firmware":     func(a *xva.Appliance) { a.Firmware = "rom" },
		"no disk":              func(a *xva.Appliance) { a.Disk.Content = nil },
		"an odd size":          func(a *xva.Appliance) { a.Disk.Size = 3 * mib },
		"a huge size":          func(a *xva.Appliance) { a.Disk.Size = 2042 << 30 },
		"a key of the writer":  func(a *xva.Appliance) { a.OtherConfig = map[string]string{xva.KeyVersion: "2"} },
		"text XML cannot hold": func(a *xva.Appliance) { a.Description = "\x01" },
		"text that is no text": func(a *xva.Appliance) { a.Tags = []string{"\xff"} },
	} {
		a := appliance(disk(2 * mib))
		change(&a)
		var out bytes.Buffer
		if err := xva.Write(&out, a); err == nil || out.Len() > 0 {
			t.Errorf("%s: error %v after %d bytes", name, err, out.Len())
		}
	}
	a := appliance(disk(2 * mib))
	a.Disk.Size = 4 * mib
	if err := xva.Write(io.Discard, a); err == nil || !strings.Contains(err.Error(), "before its size") {
		t.Errorf("content shorter than the disk: %v", err)
	}
}

func TestWritePassesErrorsOn(t *testing.T) {
	broken := errors.New("broken")
	a := appliance(disk(2 * mib))
	if err := xva.Write(brokenWriter{broken}, a); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	a.Disk.Content = brokenReader{iotest.ErrReader(broken)}
	if err := xva.Write(io.Discard, a); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

type brokenReader struct{ io.Reader }

func (r brokenReader) ReadAt(p []byte, _ int64) (int, error) { return r.Read(p) }
