package xva_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/image/xva"
)

// What a pool exported, packed both ways, with XXH64 checksums.
func TestReadExportsOfXapi(t *testing.T) {
	var contents [2][]byte
	for n, name := range []string{"exported-by-xapi.xva.gz", "exported-by-xapi.xva.zst"} {
		file := sample(t, name)
		got, err := xva.Check(bytes.NewReader(file))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.Name != "exp1" || got.Kind != "" || got.Version != "" || got.Bytes != int64(len(file)) {
			t.Errorf("%s: %+v", name, got)
		}
		if len(got.Disks) != 1 || got.Disks[0].Size != 16*mib || got.Disks[0].Chunks != 3 || got.Disks[0].Name != "exp1-root" {
			t.Errorf("%s: %+v", name, got.Disks)
		}
		var classes []string
		for _, o := range got.Objects {
			classes = append(classes, o.Class)
		}
		if diff := cmp.Diff([]string{"VM", "VM_metrics", "VBD", "VIF", "network", "VDI", "SR"}, classes); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		machine := got.Objects[0].Snapshot
		if machine["memory_static_min"] != "536870912" || machine["has_vendor_device"] != true || machine["HVM_shadow_multiplier"] != 1.0 ||
			machine["snapshot_time"] != xva.DateTime("19700101T00:00:00Z") || got.Objects[0].Table("other_config")["foo"] != "bar" {
			t.Errorf("%s: %v", name, machine)
		}
		disks, err := read(file)
		if err != nil {
			t.Fatal(err)
		}
		contents[n] = disks[got.Disks[0].ID]
	}
	if !bytes.Equal(contents[0], contents[1]) {
		t.Error("the exports of one VM hold different disks")
	}
	if sum := sha1.Sum(contents[0]); hex.EncodeToString(sum[:]) != "155ded53a04dabb52567dc2a5c032e50ec71a3a4" {
		t.Errorf("SHA-1 of the disk %x", sum)
	}
}

// A disk of 5 MiB: data in the chunks 0 and 3, the last one short.
func TestReadHoles(t *testing.T) {
	content := disk(5*mib-100, 0, 3*mib, 5*mib-200)
	size := vdi.with("virtual_size", fmt.Sprint(len(content)))
	full := join(ova(vm, sr, size, vbd), chunk("Ref:2", 0, content[:mib]), chunk("Ref:2", 3, content[3*mib:4*mib]), chunk("Ref:2", 4, content[4*mib:]))
	half := join(ova(vm, sr, size, vbd), chunk("Ref:2", 0, content[:mib/2]), chunk("Ref:2", 6, content[3*mib:3*mib+mib/2]), chunk("Ref:2", 9, content[5*mib-mib/2:]))
	alive := join(ova(vm, sr, size, vbd), chunk("Ref:2", 0, content[:mib]), chunk("Ref:2", 3, content[3*mib:4*mib]), chunk("Ref:2", 4, nil), chunk("Ref:2", 5, content[4*mib:]))
	for name, file := range map[string][]byte{
		"ustar": pack(t, tar.FormatUSTAR, full...), "pax": pack(t, tar.FormatPAX, full...), "gnu": pack(t, tar.FormatGNU, full...),
		"chunks of 512 KiB": pack(t, tar.FormatUSTAR, half...), "kept alive": pack(t, tar.FormatUSTAR, alive...),
		"gzip": packed(t, pack(t, tar.FormatUSTAR, full...), "gzip"), "zstd": packed(t, pack(t, tar.FormatUSTAR, full...), "zstd"),
		"padded": append(pack(t, tar.FormatUSTAR, full...), make([]byte, 10240)...),
	} {
		disks, err := read(file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(disks["Ref:2"], content) {
			t.Errorf("%s: another disk came back", name)
		}
	}
}

// Whatever zeroes a writer leaves out, and however often it keeps the connection alive, the disk comes out as it was.
func TestReadAnyHoles(t *testing.T) {
	const unit = 512
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(1, 20*unit).Draw(rt, "size")
		content := make([]byte, size)
		entries := ova(vm, sr, vdi.with("virtual_size", fmt.Sprint(size)), vbd)
		number := 0
		for at := 0; at < size; at += unit {
			piece := content[at:min(at+unit, size)]
			if data := rapid.Bool().Draw(rt, "data"); data {
				for i := range piece {
					piece[i] = byte(at/unit + i + 1)
				}
			} else if at > 0 && at+unit < size {
				number++ // left out
				continue
			}
			for at > 0 && rapid.IntRange(0, 4).Draw(rt, "kept alive") == 0 {
				entries = append(entries, chunk("Ref:2", number, nil)...)
				number++
			}
			entries = append(entries, chunk("Ref:2", number, piece)...)
			number++
		}
		disks, err := read(pack(t, tar.FormatUSTAR, entries...))
		if err != nil {
			rt.Fatal(err)
		}
		if !bytes.Equal(disks["Ref:2"], content) {
			rt.Fatal("another disk came back")
		}
	})
}

func packed(t testing.TB, file []byte, how string) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&out)
	if how == "zstd" {
		var err error
		if w, err = zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write(file); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Disks come sorted by the text of their ids; those of CD drives, empty ones and those nobody uses have no content.
func TestReadSeveralDisks(t *testing.T) {
	other := func(o object, id string) object { return object{o.class, id, o.fields} }
	iso := other(sr, "Ref:6").with("content_type", "iso")
	objects := []object{
		vm, sr, iso, network, vif,
		vdi, vbd, other(vdi, "Ref:10").with("virtual_size", "100"), other(vbd, "Ref:11").with("VDI", "Ref:10"),
		other(vdi, "Ref:12").with("virtual_size", "0"), other(vbd, "Ref:13").with("VDI", "Ref:12"),
		other(vdi, "Ref:20"), other(vbd, "Ref:21").with("VDI", "Ref:20").with("type", "CD"),
		other(vdi, "Ref:22").with("SR", "Ref:6"), other(vbd, "Ref:23").with("VDI", "Ref:22"),
		other(vdi, "Ref:30"), other(vbd, "Ref:31").with("VDI", "nothing").with("empty", "<boolean>1</boolean>"),
		other(vdi, "Ref:40").with("virtual_size", "7"), other(vm, "Ref:41").with("suspend_VDI", "Ref:40"),
	}
	file := pack(t, tar.FormatUSTAR, join(ova(objects...),
		chunk("Ref:10", 0, bytes.Repeat([]byte{1}, 100)), chunk("Ref:2", 0, disk(mib)), chunk("Ref:2", 1, disk(4*mib)), chunk("Ref:40", 0, []byte("suspend")))...)
	got, err := xva.Check(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	want := []xva.DiskInfo{{ID: "Ref:10", Size: 100, Chunks: 1, Bytes: 100}, {ID: "Ref:12"}, {ID: "Ref:2", Size: 5 * mib, Chunks: 2, Bytes: 5 * mib}, {ID: "Ref:40", Size: 7, Chunks: 1, Bytes: 7}}
	if diff := cmp.Diff(want, got.Disks); diff != "" {
		t.Error(diff)
	}
	for name, c := range map[string]struct {
		kind    error
		entries []entry
	}{
		"a disk without its last chunk": {xva.ErrFormat, join(chunk("Ref:10", 0, make([]byte, 99)), chunk("Ref:2", 0, disk(mib)))},
		"disks not sorted":              {xva.ErrOrder, join(chunk("Ref:2", 0, disk(mib)), chunk("Ref:10", 0, make([]byte, 100)))},
		"a disk without VBD":            {xva.ErrUnexpected, join(chunk("Ref:10", 0, make([]byte, 100)), chunk("Ref:20", 0, disk(mib)))},
	} {
		if _, err := xva.Check(bytes.NewReader(pack(t, tar.FormatUSTAR, join(ova(objects...), c.entries)...))); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
	}
}

// Complete is true before the end of the archive has been read: from there on a pool waits for nothing.
func TestReadCompleteWithoutTheEnd(t *testing.T) {
	file := write(t, appliance(disk(4*mib, 0)))
	x, err := xva.NewReader(io.MultiReader(bytes.NewReader(file[:len(file)-1024]), iotest.ErrReader(errors.New("read too far"))))
	if err != nil {
		t.Fatal(err)
	}
	for !x.Complete() {
		if _, err := x.Next(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	whole := disk(5*mib, 0, 2*mib)
	first, last := chunk("Ref:2", 0, whole[:mib]), chunk("Ref:2", 4, whole[4*mib:])
	middle := chunk("Ref:2", 2, whole[2*mib:3*mib])
	link := func(h *tar.Header) { h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, "ova.xml", 0 }
	bad := slices.Clone(first)
	bad[1] = entry{name: bad[1].name, content: []byte(strings.Repeat("0", 40))}
	for name, c := range map[string]struct {
		kind    error
		entries []entry
	}{
		"nothing in it":                {xva.ErrFormat, nil},
		"metadata not first":           {xva.ErrUnexpected, join(first, ova(), last)},
		"metadata a link":              {xva.ErrUnexpected, []entry{{name: "ova.xml", header: link}}},
		"no first chunk":               {xva.ErrOrder, join(ova(), middle, last)},
		"no last chunk":                {xva.ErrFormat, join(ova(), first, middle)},
		"no chunk at all":              {xva.ErrFormat, ova()},
		"chunks swapped":               {xva.ErrOrder, join(ova(), first, last[:0], chunk("Ref:2", 3, whole[3*mib:4*mib]), middle, last)},
		"a chunk twice":                {xva.ErrOrder, join(ova(), first, middle, middle, last)},
		"no checksum":                  {xva.ErrUnexpected, join(ova(), first[:1], last)},
		"no checksum at the end":       {xva.ErrFormat, join(ova(), first, last[:1])},
		"a checksum of something else": {xva.ErrUnexpected, join(ova(), first[:1], last[1:], last)},
		"an unknown checksum":          {xva.ErrUnexpected, join(ova(), first[:1], []entry{{name: "Ref:2/00000000.md5", content: []byte("0")}}, last)},
		"a checksum too long":          {xva.ErrSize, join(ova(), first[:1], []entry{{name: first[1].name, content: make([]byte, 41)}}, last)},
		"a wrong checksum":             {xva.ErrChecksum, join(ova(), bad, last)},
		"a chunk too long":             {xva.ErrSize, join(ova(), first, chunk("Ref:2", 4, make([]byte, mib+1)))},
		"a chunk beyond the disk":      {xva.ErrSize, join(ova(), first, chunk("Ref:2", 7, whole[:mib]))},
		"a chunk behind the last":      {xva.ErrSize, join(ova(), first, last, chunk("Ref:2", 5, whole[:mib]))},
		"an empty first chunk":         {xva.ErrFormat, join(ova(), chunk("Ref:2", 0, nil), last)},
		"a stranger's chunk":           {xva.ErrUnexpected, join(ova(), first, chunk("Ref:9", 1, whole[:mib]), last)},
		"a stray file":                 {xva.ErrUnexpected, join(ova(), first, last, []entry{{name: "README"}})},
		"a number too short":           {xva.ErrUnexpected, join(ova(), []entry{{name: "Ref:2/0", content: whole[:mib]}})},
		"a number too long":            {xva.ErrUnexpected, join(ova(), first, []entry{{name: "Ref:2/99999999999", content: whole[:mib]}})},
		"a signed number":              {xva.ErrUnexpected, join(ova(), first, []entry{{name: "Ref:2/+0000001", content: whole[:mib]}})},
		"a folder":                     {xva.ErrUnexpected, join(ova(), []entry{{name: "Ref:2/", header: func(h *tar.Header) { h.Typeflag = tar.TypeDir }}}, first, last)},
	} {
		_, err := xva.Check(bytes.NewReader(pack(t, tar.FormatUSTAR, c.entries...)))
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
		if _, ok := errors.AsType[*xva.Error](err); !ok || strings.Contains(fmt.Sprint(err), "%!") {
			t.Errorf("%s: %T %v", name, err, err)
		}
	}
}

// Sizes are held against the limits before anything is read: the claimed bytes are not there.
func TestReadRefusesHugeClaims(t *testing.T) {
	claim := func(before []entry, name string, size int64) io.Reader {
		var header bytes.Buffer
		if err := tar.NewWriter(&header).WriteHeader(&tar.Header{Name: name, Size: size, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		file := pack(t, tar.FormatUSTAR, before...)
		return io.MultiReader(bytes.NewReader(file[:len(file)-1024]), &header)
	}
	for _, r := range []io.Reader{
		claim(nil, "ova.xml", 16*mib+1),
		claim(ova(vm, sr, vdi.with("virtual_size", "1099511627776"), vbd), "Ref:2/00000000", 64*mib+1),
		claim(join(ova(), chunk("Ref:2", 0, make([]byte, mib))), "Ref:2/00000001", 4*mib+1),
	} {
		if _, err := xva.Check(r); !errors.Is(err, xva.ErrSize) {
			t.Errorf("%v", err)
		}
	}
}

func TestReadRefusesWhatIsNoArchive(t *testing.T) {
	for name, c := range map[string]struct {
		kind error
		file []byte
	}{
		"nothing":              {xva.ErrTruncated, nil},
		"two bytes":            {xva.ErrTruncated, []byte{0x1f, 0x8b}},
		"gzip's magic alone":   {xva.ErrTruncated, []byte{0x1f, 0x8b, 8, 0}},
		"noise":                {xva.ErrNoArchive, disk(2*mib, 0)},
		"gzip with noise":      {xva.ErrNoArchive, packed(t, disk(mib, 0), "gzip")},
		"gzip of another kind": {xva.ErrFormat, []byte{0x1f, 0x8b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		"zeroes":               {xva.ErrFormat, make([]byte, 4096)},
		"data behind the end":  {xva.ErrFormat, append(write(t, appliance(disk(2*mib))), 'x')},
		"zeroes without end":   {xva.ErrFormat, packed(t, append(write(t, appliance(disk(2*mib))), make([]byte, 2*mib)...), "zstd")},
		"data behind gzip":     {xva.ErrFormat, append(packed(t, write(t, appliance(disk(2*mib))), "gzip"), "garbage behind it"...)},
	} {
		if _, err := xva.Check(bytes.NewReader(c.file)); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
	}
}

func TestReadPassesErrorsOn(t *testing.T) {
	broken := errors.New("broken")
	file := write(t, appliance(disk(4*mib, 0)))
	for _, at := range []int{0, 1, 600, 512 + 9000, 2 * mib, len(file) - 512, len(file)} {
		_, err := xva.Check(io.MultiReader(bytes.NewReader(file[:at]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) {
			t.Errorf("broken at %d: %v", at, err)
		}
	}
}
