package vhd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"testing/iotest"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim/vhd"
)

// seal makes the checksums of the beginning right again.
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

func TestReadRefuses(t *testing.T) {
	whole := write(t, vhd.Disk{Size: 5 * mib, ID: id}, []int64{0, 2}, noise(5*mib))
	long := func(at int, value uint64) func([]byte) {
		return func(b []byte) { binary.BigEndian.PutUint64(b[at:], value); seal(b) }
	}
	short := func(at int, value uint32) func([]byte) {
		return func(b []byte) { binary.BigEndian.PutUint32(b[at:], value); seal(b) }
	}
	for name, test := range map[string]struct {
		damage func([]byte)
		want   error
	}{
		"no footer":              {func(b []byte) { b[0] = 'X' }, vhd.ErrFormat},
		"an altered footer":      {func(b []byte) { b[70] ^= 1 }, vhd.ErrChecksum},
		"an altered header":      {func(b []byte) { b[1535] ^= 1 }, vhd.ErrChecksum},
		"an altered last footer": {func(b []byte) { b[len(b)-1] ^= 1 }, vhd.ErrChecksum},
		"another version":        {short(12, 0x00020000), vhd.ErrFormat},
		"another header version": {short(536, 0x00020000), vhd.ErrFormat},
		"no header":              {func(b []byte) { b[512] = 'X'; seal(b) }, vhd.ErrFormat},
		"a fixed disk":           {short(60, 2), vhd.ErrFormat},
		"a huge disk":            {long(48, vhd.MaxSize+512), vhd.ErrSize},
		"a negative size":        {long(48, 1<<63), vhd.ErrSize},
		"a header far away":      {long(16, 1<<40), vhd.ErrTruncated},
		"a header before":        {long(16, 0), vhd.ErrFormat},
		"a table far away":       {long(528, 1<<62), vhd.ErrTruncated},
		"a table before":         {long(528, 512), vhd.ErrFormat},
		"a table at the end":     {long(528, 1<<63-1), vhd.ErrTruncated},
		"too few entries":        {short(540, 2), vhd.ErrSize},
		"too many entries":       {short(540, 1<<31), vhd.ErrSize},
		"no blocks' size":        {short(544, 0), vhd.ErrSize},
		"a crooked blocks' size": {short(544, 3<<20), vhd.ErrSize},
		"a block beyond":         {func(b []byte) { short(540, 4)(b); short(2060, 5)(b) }, vhd.ErrSize},
		"a block in the header":  {short(2048, 1), vhd.ErrFormat},
		"blocks that overlap":    {short(2048, 0x1000), vhd.ErrFormat},
		"one block twice":        {short(2048, 0x1006), vhd.ErrFormat},
		"a block far away":       {short(2048, 0xfffffffe), vhd.ErrTruncated},
	} {
		file := bytes.Clone(whole)
		test.damage(file)
		if _, err := apply(bytes.NewReader(file), int64(len(file)), nil); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	for _, length := range []int{0, 1, 511, 512, 1535, 2048, 2559, 2560, 3072, 5000, len(whole) - 513, len(whole) - 1} {
		for _, told := range []int{length, len(whole)} {
			_, err := apply(bytes.NewReader(whole[:length]), int64(told), nil)
			// A stream that ends at a sector has something there for a footer, if not the right thing.
			if !errors.Is(err, vhd.ErrTruncated) && !errors.Is(err, vhd.ErrFormat) {
				t.Errorf("%d bytes of %d: %v", length, told, err)
			}
		}
	}
	broken := errors.New("broken")
	if _, err := apply(iotest.ErrReader(broken), 1<<20, nil); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// FuzzReader: a stream is whole, or the error says what is wrong with it; nothing panics and no memory is taken on trust.
func FuzzReader(f *testing.F) {
	for _, d := range []vhd.Disk{{Size: 4096, ID: id}, {Size: 4 * mib, ID: id, Parent: &parent}} {
		file := write(f, d, nil, nil)
		f.Add(file)
		f.Add(file[:len(file)-1])
	}
	small := write(f, vhd.Disk{Size: 4096, ID: id}, nil, nil)
	binary.BigEndian.PutUint32(small[544:], 4096) // one small block, after the table
	binary.BigEndian.PutUint32(small[2048:], 5)
	seal(small)
	small = append(small[:2560:2560], append(bytes.Repeat([]byte{0xff}, 512+4096), small[:512]...)...)
	if _, err := apply(bytes.NewReader(small), int64(len(small)), nil); err != nil {
		f.Fatal(err)
	}
	f.Add(small)
	f.Fuzz(func(t *testing.T, file []byte) {
		// With the right checksums, so that the fuzzer gets past them.
		if len(file) >= 1536 {
			file = bytes.Clone(file)
			seal(file)
		}
		_, err := apply(bytes.NewReader(file), int64(len(file)), nil)
		for _, kind := range []error{nil, vhd.ErrFormat, vhd.ErrChecksum, vhd.ErrSize, vhd.ErrTruncated} {
			if errors.Is(err, kind) {
				return
			}
		}
		t.Fatal(err)
	})
}
