package vhd_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/vhd"
	writer "github.com/understudy-dr/understudy/qemu-tests/xapisim/vhd"
)

const mib = 1 << 20

// written is an image by the simulator's writer.
func written(t testing.TB, differencing bool, size int64, blocks ...int64) []byte {
	t.Helper()
	disk := writer.Disk{Size: size, ID: writer.ID{1}}
	if differencing {
		disk.Parent = &writer.Parent{ID: writer.ID{2}, Modified: time.Unix(1772400000, 0), Name: "/var/run/sr-mount/a/b.vhd"}
	}
	var b bytes.Buffer
	if err := writer.Write(&b, disk, blocks, bytes.NewReader(make([]byte, size))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// all reads the blocks of an image.
func all(stream io.Reader, largest int64) (r *vhd.Reader, blocks []int64, err error) {
	if r, err = vhd.NewReader(stream, largest); err != nil {
		return nil, nil, err
	}
	for {
		block, err := r.Next()
		if errors.Is(err, io.EOF) {
			return r, blocks, nil
		} else if err != nil {
			return r, blocks, err
		}
		blocks = append(blocks, block)
	}
}

func TestBlocks(t *testing.T) {
	for name, test := range map[string]struct {
		differencing bool
		size         int64
		blocks       []int64
	}{
		"nothing":            {true, 5 * mib, nil},
		"first and last":     {true, 5 * mib, []int64{0, 2}},
		"a whole disk":       {false, 4 * mib, []int64{0, 1}},
		"a table of sectors": {true, 1 << 30, []int64{7, 130, 511}},
	} {
		image := written(t, test.differencing, test.size, test.blocks...)
		r, blocks, err := all(iotest.OneByteReader(bytes.NewReader(image)), test.size)
		if err != nil || r.Differencing != test.differencing || r.Size != test.size || r.BlockSize != 2*mib || !slices.Equal(blocks, test.blocks) {
			t.Errorf("%s: %+v, blocks %v, %v", name, r, blocks, err)
		}
	}
}

// TestGolden reads the beginning of an image as it was stored once: a disk of 6 MiB that differs in its second block.
func TestGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/differencing.hex")
	if err != nil {
		t.Fatal(err)
	}
	image, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	r, blocks, err := all(bytes.NewReader(image), 6*mib)
	if err != nil || !r.Differencing || r.Size != 6*mib || !slices.Equal(blocks, []int64{1}) {
		t.Errorf("%+v, blocks %v, %v", r, blocks, err)
	}
	if stored := written(t, true, 6*mib, 1); !bytes.Equal(image, stored[:len(image)]) {
		t.Error("the simulator writes another beginning than the stored one")
	}
}

// TestAnotherTool reads an image that QEMU wrote.
func TestAnotherTool(t *testing.T) {
	f, err := os.Open("../../qemu-tests/xapisim/vhd/testdata/qemu.vhd.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stream, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	image, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	judge, err := writer.NewReader(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	var want []int64
	for {
		extent, err := judge.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if block := extent.Offset / (2 * mib); !slices.Contains(want, block) {
			want = append(want, block)
		}
	}
	slices.Sort(want)
	r, blocks, err := all(bytes.NewReader(image), vhd.MaxSize)
	if err != nil || r.Differencing || len(want) == 0 {
		t.Fatalf("%+v, %v; %d blocks wanted", r, err, len(want))
	}
	for _, block := range want { // of a listed block the simulator's reader tells only the sectors that are marked
		if !slices.Contains(blocks, block) {
			t.Errorf("block %d is missing of %v", block, blocks)
		}
	}
}

// seal makes the checksums right again.
func seal(file []byte) {
	for _, part := range []struct{ from, to, field int }{{0, 512, 64}, {512, 1536, 36}} {
		b := file[part.from:part.to]
		clear(b[part.field : part.field+4])
		var sum uint32
		for _, c := range b {
			sum += uint32(c)
		}
		binary.BigEndian.PutUint32(b[part.field:], ^sum)
	}
}

func TestRefuses(t *testing.T) {
	long := func(at int, value uint64) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], value); seal(b); return b }
	}
	short := func(at int, value uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], value); seal(b); return b }
	}
	cut := func(length int) func([]byte) []byte { return func(b []byte) []byte { return b[:length] } }
	for name, test := range map[string]struct {
		damage func([]byte) []byte
		want   error
	}{
		"a late failure":         {func([]byte) []byte { return append([]byte("HTTP/1.1 500 Internal Error\r\n"), make([]byte, 512)...) }, vhd.ErrFormat},
		"an altered footer":      {func(b []byte) []byte { b[70] ^= 1; return b }, vhd.ErrFormat},
		"an altered header":      {func(b []byte) []byte { b[1535] ^= 1; return b }, vhd.ErrFormat},
		"another version":        {short(12, 0x00020000), vhd.ErrFormat},
		"another header version": {short(536, 0x00020000), vhd.ErrFormat},
		"no header":              {func(b []byte) []byte { b[512] = 'X'; seal(b); return b }, vhd.ErrFormat},
		"a fixed disk":           {short(60, 2), vhd.ErrFormat},
		"a larger disk":          {long(48, 8*mib), vhd.ErrFormat},
		"a negative size":        {long(48, 1<<63), vhd.ErrFormat},
		"no size":                {long(48, 0), vhd.ErrFormat},
		"a header far away":      {long(16, 1<<40), vhd.ErrFormat},
		"a header before":        {long(16, 0), vhd.ErrFormat},
		"a table far away":       {long(528, 1<<62), vhd.ErrFormat},
		"a table before":         {long(528, 512), vhd.ErrFormat},
		"a table at the end":     {long(528, 1<<63-1), vhd.ErrFormat},
		"too few entries":        {short(540, 2), vhd.ErrFormat},
		"no blocks' size":        {short(544, 0), vhd.ErrFormat},
		"a crooked blocks' size": {short(544, 3<<20), vhd.ErrFormat},
		"nothing":                {cut(0), vhd.ErrTruncated},
		"half a footer":          {cut(300), vhd.ErrTruncated},
		"half a header":          {cut(1000), vhd.ErrTruncated},
		"no table":               {cut(1600), vhd.ErrTruncated},
		"half a table":           {cut(2048 + 6), vhd.ErrTruncated},
	} {
		image := test.damage(written(t, true, 5*mib, 0))
		if _, _, err := all(bytes.NewReader(image), 6*mib); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	broken := errors.New("broken")
	if _, _, err := all(io.MultiReader(bytes.NewReader(written(t, true, 5*mib)[:600]), iotest.ErrReader(broken)), 5*mib); !errors.Is(err, broken) {
		t.Errorf("a stream that breaks: %v", err)
	}
}

// TestReadsNoMoreThanTheTable: a table of more entries than the disk has blocks is read as far as these, and no block is.
func TestReadsNoMoreThanTheTable(t *testing.T) {
	image := written(t, true, 5*mib, 0)
	binary.BigEndian.PutUint32(image[540:], 0xfffffff0)
	seal(image)
	stream := &counter{Reader: io.MultiReader(bytes.NewReader(image), endless{})}
	if _, blocks, err := all(stream, 5*mib); err != nil || !slices.Equal(blocks, []int64{0}) {
		t.Errorf("blocks %v, %v", blocks, err)
	}
	if stream.n > 128<<10 {
		t.Errorf("%d bytes were read", stream.n)
	}
}

type counter struct {
	io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func FuzzReader(f *testing.F) {
	for _, seed := range [][]byte{written(f, true, 5*mib, 1), written(f, false, 2*mib)} {
		f.Add(seed[:2048+64])
		f.Add(seed[:1600])
	}
	f.Add([]byte("HTTP/1.1 500 Internal Error\r\n\r\n"))
	f.Fuzz(func(t *testing.T, image []byte) {
		for _, sealed := range []bool{false, true} {
			image := slices.Clone(image)
			if sealed && len(image) >= 1536 {
				seal(image)
			}
			const largest = 64 * mib
			stream := &counter{Reader: bytes.NewReader(image)}
			r, blocks, err := all(stream, largest)
			if err != nil {
				if !errors.Is(err, vhd.ErrFormat) && !errors.Is(err, vhd.ErrTruncated) {
					t.Errorf("an error of no kind: %v", err)
				}
				continue
			}
			if r.Size <= 0 || r.Size > largest || !slices.IsSorted(blocks) {
				t.Errorf("size %d, blocks %v", r.Size, blocks)
			}
			for _, block := range blocks {
				if block < 0 || block*r.BlockSize >= r.Size {
					t.Errorf("block %d of %d bytes in a disk of %d", block, r.BlockSize, r.Size)
				}
			}
		}
	})
}
