package vhd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/understudy-dr/understudy/orchestrator/vhd"
	writer "github.com/understudy-dr/understudy/qemu-tests/xapisim/vhd"
)

// noise is a disk without a zero sector.
func noise(size int64) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	return content
}

// imageOf is an image by the simulator's writer of some blocks of a disk, and the disk that it stands for.
func imageOf(t testing.TB, content []byte, blocks ...int64) (image, disk []byte) {
	t.Helper()
	var b bytes.Buffer
	if err := writer.Write(&b, writer.Disk{Size: int64(len(content)), ID: writer.ID{1}}, blocks, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	disk = make([]byte, len(content))
	for _, n := range blocks {
		copy(disk[n*2*mib:min(int64(len(disk)), (n+1)*2*mib)], content[n*2*mib:])
	}
	return b.Bytes(), disk
}

// read reads an image in pieces.
func read(image io.Reader, size int64, piece int) (disk []byte, held []int64, err error) {
	r, err := vhd.NewReader(image, size)
	if err != nil {
		return nil, nil, err
	}
	c, err := r.Content()
	if err != nil {
		return nil, nil, err
	}
	for offset := int64(0); offset < size; {
		length, is := c.Held(offset)
		if !is {
			length = -length
		}
		held = append(held, length)
		offset += max(length, -length)
	}
	buffer := make([]byte, piece)
	for {
		n, err := c.Read(buffer)
		disk = append(disk, buffer[:n]...)
		if errors.Is(err, io.EOF) {
			return disk, held, nil
		} else if err != nil {
			return disk, held, err
		}
	}
}

func TestContent(t *testing.T) {
	odd := int64(5*mib + 512)
	for name, test := range map[string]struct {
		size   int64
		blocks []int64
		held   []int64 // lengths; negative: left out
	}{
		"nothing":        {odd, nil, []int64{-odd}},
		"everything":     {odd, []int64{0, 1, 2}, []int64{odd}},
		"the first":      {odd, []int64{0}, []int64{2 * mib, 2*mib - odd}},
		"the last":       {odd, []int64{2}, []int64{-4 * mib, mib + 512}},
		"with a hole":    {10 * mib, []int64{1, 2, 4}, []int64{-2 * mib, 4 * mib, -2 * mib, 2 * mib}},
		"a whole number": {4 * mib, []int64{1}, []int64{-2 * mib, 2 * mib}},
	} {
		image, want := imageOf(t, noise(test.size), test.blocks...)
		for _, piece := range []int{512, 3 * 512, 4 * mib, 64 << 10} {
			disk, held, err := read(iotest.HalfReader(bytes.NewReader(image)), test.size, piece)
			if err != nil || !bytes.Equal(disk, want) {
				t.Errorf("%s, by %d: %d bytes, %v", name, piece, len(disk), err)
			}
			if len(held) != len(test.held) {
				t.Errorf("%s: held %d, want %d", name, held, test.held)
				continue
			}
			for i := range held {
				if held[i] != test.held[i] {
					t.Errorf("%s: held %d, want %d", name, held, test.held)
				}
			}
		}
	}
}

// TestContentOfMarkedSectors: what stands in place of a sector that is not marked does not count.
func TestContentOfMarkedSectors(t *testing.T) {
	image, want := imageOf(t, noise(2*mib), 0)
	at := len(image) - 512 - 2*mib - 512
	image[at] = 0xfe
	clear(want[7*512 : 8*512])
	if disk, _, err := read(bytes.NewReader(image), 2*mib, mib); err != nil || !bytes.Equal(disk, want) {
		t.Errorf("%v, or sector 7 is not zero", err)
	}
}

func TestContentRefuses(t *testing.T) {
	whole, _ := imageOf(t, noise(6*mib), 0, 2)
	changed := func(change func(image []byte)) []byte {
		image := bytes.Clone(whole)
		change(image)
		return image
	}
	const table = 2048
	for name, test := range map[string]struct {
		image []byte
		want  error
	}{
		"differencing":     {written(t, true, 6*mib, 0), vhd.ErrFormat},
		"without a footer": {whole[:len(whole)-512], vhd.ErrTruncated},
		"cut in a block":   {whole[:len(whole)-mib], vhd.ErrTruncated},
		"cut in the table": {whole[:table+4], vhd.ErrTruncated},
		"a late failure":   {append(bytes.Clone(whole[:len(whole)-512]), "HTTP/1.1 500 Internal Error\r\n"...), vhd.ErrTruncated},
		"another end":      {changed(func(image []byte) { image[len(image)-512] = 'x' }), vhd.ErrFormat},
		"out of order": {changed(func(image []byte) {
			first, last := binary.BigEndian.Uint32(image[table:]), binary.BigEndian.Uint32(image[table+8:])
			binary.BigEndian.PutUint32(image[table:], last)
			binary.BigEndian.PutUint32(image[table+8:], first)
		}), vhd.ErrOrder},
		"overlapping":  {changed(func(image []byte) { copy(image[table+8:table+12], image[table:]) }), vhd.ErrOrder},
		"a block away": {changed(func(image []byte) { binary.BigEndian.PutUint32(image[table:], 1<<30) }), vhd.ErrFormat},
	} {
		if _, _, err := read(bytes.NewReader(test.image), 6*mib, 64<<10); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
