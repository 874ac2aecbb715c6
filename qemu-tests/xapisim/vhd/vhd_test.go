package vhd_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim/vhd"
)

const mib = 1 << 20

var (
	id     = vhd.ID{0: 0x11, 15: 0x99}
	parent = vhd.Parent{ID: vhd.ID{0: 0xaa, 15: 0xbb}, Modified: time.Unix(1795341600, 0).UTC(), Name: "/dev/sm/backend/žluť.vhd"}
)

func write(t testing.TB, d vhd.Disk, blocks []int64, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := vhd.Write(&out, d, blocks, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if want := vhd.Length(d.Size, len(blocks)); int64(out.Len()) != want {
		t.Errorf("%d bytes, foretold were %d", out.Len(), want)
	}
	return out.Bytes()
}

// apply writes what a stream says over a disk.
func apply(stream io.Reader, size int64, disk []byte) (vhd.Disk, error) {
	x, err := vhd.NewReader(stream, size)
	if err != nil {
		return vhd.Disk{}, err
	}
	for {
		extent, err := x.Next()
		if errors.Is(err, io.EOF) {
			if x.Done() != x.Blocks() {
				return vhd.Disk{}, errors.New("blocks are left")
			}
			return x.Disk(), nil
		} else if err != nil {
			return vhd.Disk{}, err
		}
		if extent.Offset < 0 || len(extent.Data) == 0 || extent.Offset+int64(len(extent.Data)) > x.Disk().Size {
			return vhd.Disk{}, errors.New("an extent outside of the disk")
		}
		if disk != nil {
			copy(disk[extent.Offset:], extent.Data)
		}
	}
}

func noise(size int64) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

// The fields of the specification, at their places.
func TestGolden(t *testing.T) {
	whole := write(t, vhd.Disk{Size: 5 * mib, ID: id}, []int64{0, 2}, noise(5*mib))
	difference := write(t, vhd.Disk{Size: 5 * mib, ID: id, Parent: &parent}, nil, nil)
	for _, want := range []struct {
		name   string
		file   []byte
		at     int
		golden string
	}{
		{"cookie, features, version, header's place", whole, 0, "636f6e6563746978" + "00000002" + "00010000" + "0000000000000200"},
		{"time, creator, version, host", whole, 24, "00000000" + "63616d6c" + "00000001" + "00000000"},
		{"sizes", whole, 40, "0000000000500000" + "0000000000500000"},
		{"geometry 150/4/17, kind, checksum", whole, 56, "0096" + "04" + "11" + "00000003" + "fffff907"},
		{"id, saved state", whole, 68, "11000000000000000000000000000099" + "00"},
		{"cookie, no data, table's place", whole, 512, "6378737061727365" + "ffffffffffffffff" + "0000000000000800"},
		{"version, entries, block size", whole, 536, "00010000" + "00000003" + "00200000"},
		{"no parent", whole, 552, strings.Repeat("00", 1024+512-40-4)},
		{"table", whole, 2048, "00000005" + "ffffffff" + "00001006" + strings.Repeat("ff", 500)},
		{"bitmap", whole, 2560, strings.Repeat("ff", 512)},
		{"differencing", difference, 60, "00000004"},
		{"parent's id and time", difference, 552, "aa0000000000000000000000000000bb" + "329579a0" + "00000000"},
		{"parent's name", difference, 576, "002f006400650076002f0073006d002f006200610063006b0065006e0064002f017e006c0075016500" + "2e0076006800640000"},
		{"locator", difference, 1088, "4d616358" + "00000001" + "00000021" + "00000000" + "0000000000000600" + strings.Repeat("00", 24)},
		{"locator's text", difference, 1536, hex.EncodeToString([]byte("file:///dev/sm/backend/žluť.vhd")) + "0000"},
		{"an empty table", difference, 2048, strings.Repeat("ff", 512)},
	} {
		if got := hex.EncodeToString(want.file[want.at : want.at+len(want.golden)/2]); got != want.golden {
			t.Errorf("%s: %s, want %s", want.name, got, want.golden)
		}
	}
	if !bytes.Equal(whole[:512], whole[len(whole)-512:]) {
		t.Error("the footer is not like its copy")
	}
	if len(difference) != 2048+512+512 {
		t.Errorf("a difference without blocks has %d bytes", len(difference))
	}
}

// What another program wrote: qemu-img convert -O vpc, of a disk of 5 MiB with 'first' at 0, 'second' at 3 MiB + 7 and
// 'last' in its last sector.
func TestReadWhatQEMUWrote(t *testing.T) {
	packed, err := os.Open("testdata/qemu.vhd.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	unpacked, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	file, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 6*mib)
	d, err := apply(bytes.NewReader(file), int64(len(file)), got)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 6*mib)
	copy(want, "first")
	copy(want[3*mib+7:], "second")
	copy(want[5*mib-512:], "last")
	if d.Size < 5*mib || d.Size > 6*mib || d.Parent != nil || !bytes.Equal(got, want) {
		t.Errorf("%+v, SHA-256 %x", d, sha256.Sum256(got))
	}
}

func TestThereAndBack(t *testing.T) {
	everything := noise(5 * mib)
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 5*mib/512).Draw(t, "sectors") * 512
		all := (size + vhd.BlockSize - 1) / vhd.BlockSize
		var blocks []int64
		for n := range all {
			if rapid.Bool().Draw(t, "block is there") {
				blocks = append(blocks, n)
			}
		}
		d := vhd.Disk{Size: size, ID: id}
		if rapid.Bool().Draw(t, "differencing") {
			d.Parent = &vhd.Parent{ID: parent.ID, Modified: parent.Modified, Name: parent.Name, Locator: "file://" + parent.Name}
		}
		content := everything[:size]
		var out bytes.Buffer
		if err := vhd.Write(&out, d, blocks, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		want, got := make([]byte, size), make([]byte, size)
		for _, n := range blocks {
			end := min((n+1)*vhd.BlockSize, size)
			copy(want[n*vhd.BlockSize:end], content[n*vhd.BlockSize:end])
		}
		read, err := apply(iotest.HalfReader(bytes.NewReader(out.Bytes())), int64(out.Len()), got)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, read); diff != "" || !bytes.Equal(want, got) {
			t.Fatalf("another disk came back: %s", diff)
		}
	})
}

// Sectors that the bitmap does not mark leave the disk as it is; blocks may come in any order, with gaps between them.
func TestBitmapsAndOrder(t *testing.T) {
	content := noise(6 * mib)
	file := write(t, vhd.Disk{Size: 6 * mib, ID: id}, []int64{0, 1, 2}, content)
	first, second := binary.BigEndian.Uint32(file[2048:]), binary.BigEndian.Uint32(file[2052:])
	binary.BigEndian.PutUint32(file[2048:], second)
	binary.BigEndian.PutUint32(file[2052:], first)
	copy(file[2056:], "\xff\xff\xff\xff") // a gap
	bitmap := file[int(first)*512:][:512]
	clear(bitmap)
	bitmap[0], bitmap[511] = 0x41, 0x01
	got := make([]byte, 6*mib)
	if _, err := apply(bytes.NewReader(file), int64(len(file)), got); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 6*mib)
	copy(want, content[2*mib:4*mib])
	for _, sector := range []int{1, 7, 4095} {
		copy(want[2*mib+sector*512:][:512], content[sector*512:])
	}
	if !bytes.Equal(got, want) {
		t.Error("another disk came back")
	}
}

func TestWriteRefuses(t *testing.T) {
	long := parent
	long.Name = strings.Repeat("x", 256)
	for name, test := range map[string]struct {
		disk    vhd.Disk
		blocks  []int64
		content string
		want    error
	}{
		"no size":            {vhd.Disk{}, nil, "", vhd.ErrSize},
		"half a sector":      {vhd.Disk{Size: 768}, nil, "", vhd.ErrSize},
		"too large":          {vhd.Disk{Size: vhd.MaxSize + 512}, nil, "", vhd.ErrSize},
		"a block beyond":     {vhd.Disk{Size: 512}, []int64{1}, "", vhd.ErrSize},
		"a block twice":      {vhd.Disk{Size: 512}, []int64{0, 0}, "", vhd.ErrSize},
		"a negative block":   {vhd.Disk{Size: 512}, []int64{-1}, "", vhd.ErrSize},
		"a nameless parent":  {vhd.Disk{Size: 512, Parent: &vhd.Parent{}}, nil, "", vhd.ErrSize},
		"a long name":        {vhd.Disk{Size: 512, Parent: &long}, nil, "", vhd.ErrSize},
		"content that fails": {vhd.Disk{Size: 512}, []int64{0}, "short", io.ErrUnexpectedEOF},
	} {
		if err := vhd.Write(io.Discard, test.disk, test.blocks, strings.NewReader(test.content)); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	broken := errors.New("broken")
	if err := vhd.Write(failingWriter{broken}, vhd.Disk{Size: 512}, nil, nil); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }
