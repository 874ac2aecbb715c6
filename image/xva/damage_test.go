package xva_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/image/xva"
)

func checkCut(t interface{ Errorf(string, ...any) }, name string, file []byte, at int) {
	if _, err := xva.Check(bytes.NewReader(file[:at])); !errors.Is(err, xva.ErrTruncated) && !errors.Is(err, xva.ErrFormat) {
		t.Errorf("%s cut at %d of %d: %v", name, at, len(file), err)
	}
}

// smallXVA has chunks of 1 KiB, so that there are many boundaries in few bytes.
func smallXVA(t testing.TB) []byte {
	content := disk(10<<10, 0)
	entries := ova(vm, sr, vdi.with("virtual_size", "10240"), vbd)
	for n := range 10 {
		entries = append(entries, chunk("Ref:2", n, content[n<<10:(n+1)<<10])...)
	}
	return pack(t, tar.FormatUSTAR, entries...)
}

func TestCutAtEveryBoundary(t *testing.T) {
	file := smallXVA(t)
	for at := 0; at < len(file); at += 512 {
		checkCut(t, "small", file, at)
	}
	for _, near := range []int{1, 511, 513, 1023} {
		checkCut(t, "small", file, len(file)-near)
	}
	for _, name := range []string{"exported-by-xapi.xva.gz", "exported-by-xapi.xva.zst"} {
		file := sample(t, name)
		for at := 0; at < len(file); at += 397 {
			checkCut(t, name, file, at)
		}
		checkCut(t, name, file, len(file)-1)
	}
}

func TestCutAnywhere(t *testing.T) {
	files := map[string][]byte{
		"written": write(t, appliance(disk(4*mib, 0, 3*mib))), "small": smallXVA(t), "packed": packed(t, smallXVA(t), "gzip"),
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"written", "small", "packed"}).Draw(t, "file")
		checkCut(t, name, files[name], rapid.IntRange(0, len(files[name])-1).Draw(t, "at"))
	})
}

// A flipped bit in a disk's data is always found, whatever the disk's data are.
func TestFlippedBits(t *testing.T) {
	original := smallXVA(t)
	var data []int // where chunks begin
	for at := 0; at < len(original); at += 512 {
		if bytes.HasPrefix(original[at:], []byte("Ref:2/")) && !bytes.Contains(original[at:at+100], []byte("checksum")) {
			data = append(data, at+512)
		}
	}
	if len(data) != 10 {
		t.Fatalf("chunks at %v", data)
	}
	rapid.Check(t, func(t *rapid.T) {
		file := bytes.Clone(original)
		at := rapid.SampledFrom(data).Draw(t, "chunk") + rapid.IntRange(0, 1023).Draw(t, "at")
		file[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := xva.Check(bytes.NewReader(file)); !errors.Is(err, xva.ErrChecksum) {
			t.Fatalf("%v", err)
		}
	})
}

// Outside of the data a flipped bit is found or changes no disk.
func TestFlippedBitsAnywhere(t *testing.T) {
	original := smallXVA(t)
	disks, err := read(original)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		file := bytes.Clone(original)
		file[rapid.IntRange(0, len(file)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if got, err := read(file); err == nil && !bytes.Equal(got["Ref:2"], disks["Ref:2"]) {
			t.Fatal("another disk was read")
		}
	})
}
