package blockio_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/blockio/blockiotest"
)

const unit = blockio.AllocationUnit

// plain is an allocation map without cleverness.
type plain []bool

func drawSize(t *rapid.T) int64 {
	return rapid.OneOf(rapid.Int64Range(1, 3*unit), rapid.Int64Range(1, 200*unit),
		rapid.Map(rapid.Int64Range(1, 200), func(n int64) int64 { return n * unit })).Draw(t, "size")
}

// drawMap marks random ranges in both kinds of maps.
func drawMap(t *rapid.T, size int64) (*blockio.AllocationMap, plain) {
	m, p := blockio.NewAllocationMap(size), make(plain, (size+unit-1)/unit)
	for range rapid.IntRange(0, 6).Draw(t, "ranges") {
		off := rapid.Int64Range(-unit, size+unit).Draw(t, "off")
		length := rapid.OneOf(rapid.Int64Range(-1, 3*unit), rapid.Int64Range(0, size)).Draw(t, "length")
		m.Mark(off, length)
		for i := range p {
			first := int64(i) * unit
			p[i] = p[i] || max(first, off) < min(first+unit, off+length, size)
		}
	}
	return m, p
}

func check(t *rapid.T, m *blockio.AllocationMap, p plain) {
	total, last := int64(0), int64(-1)
	marked := make(plain, len(p))
	for off, length := range m.Ranges() {
		if off <= last || length <= 0 || off%unit != 0 || off+length > m.Size() {
			t.Fatalf("range of %d bytes at %d after %d", length, off, last)
		}
		last = off + length
		total += length
		for i := off / unit; i*unit < off+length; i++ {
			marked[i] = true
		}
	}
	if !slices.Equal(marked, p) || total != m.Bytes() {
		t.Fatalf("marked are %v with %d of %d bytes, want %v", marked, m.Bytes(), total, p)
	}
	for i := range p {
		if m.Word(i/64)>>(i%64)&1 == 1 != p[i] || m.Marked(int64(i)*unit+7, 1) != (p[i] && int64(i)*unit+7 < m.Size()) {
			t.Fatalf("unit %d of %v", i, p)
		}
	}
}

func TestAllocationMapProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := drawSize(t)
		a, pa := drawMap(t, size)
		b, pb := drawMap(t, size)
		check(t, a, pa)

		decoded, err := blockio.ParseAllocationMap(a.Append(nil), size)
		if err != nil {
			t.Fatal(err)
		}
		check(t, decoded, pa)

		union, both := slices.Clone(pa), slices.Clone(pa)
		bitmap := make([]byte, (len(pa)+7)/8+1)
		bitmap[len(bitmap)-1] = 0xff // beyond the disk
		for i := range pa {
			union[i], both[i] = pa[i] || pb[i], pa[i] && pb[i]
			if pa[i] {
				bitmap[i/8] |= 0x80 >> (i % 8)
			}
		}
		parsed, err := blockio.ParseBitmap(bitmap, size)
		if err != nil {
			t.Fatal(err)
		}
		check(t, parsed, pa)
		if err := errors.Join(decoded.Union(b), parsed.Intersect(b)); err != nil {
			t.Fatal(err)
		}
		check(t, decoded, union)
		check(t, parsed, both)

		resized := drawSize(t)
		want := make(plain, (resized+unit-1)/unit)
		for i := range want {
			want[i] = i >= len(pa) || pa[i] || int64(i+1)*unit > size && resized > size
		}
		check(t, a.Resize(resized), want)
	})
}

func TestAllocationMapRefuses(t *testing.T) {
	a, b := blockio.NewAllocationMap(10*unit), blockio.NewAllocationMap(10*unit+1)
	if err := errors.Join(a.Union(b)); !errors.Is(err, blockio.ErrMap) {
		t.Errorf("Union of different sizes: %v", err)
	}
	if err := a.Intersect(b); !errors.Is(err, blockio.ErrMap) {
		t.Errorf("Intersect of different sizes: %v", err)
	}
	if _, err := blockio.ParseBitmap(make([]byte, 1), 10*unit); !errors.Is(err, blockio.ErrMap) {
		t.Errorf("ParseBitmap of too few bytes: %v", err)
	}
	scanner := blockio.NewScanner(t.Context(), blockio.NewMemory(11*unit), blockio.ScanOptions{Only: a})
	defer closeScanner(t, scanner)
	if _, err := scanner.Next(); !errors.Is(err, blockio.ErrMap) {
		t.Errorf("a scan by the map of another device: %v", err)
	}
}

// FuzzParseAllocationMap: what is accepted is encoded to the same bytes, but for neighbours that could have been joined.
func FuzzParseAllocationMap(f *testing.F) {
	m := blockio.NewAllocationMap(300*unit + 1)
	f.Add(m.Append(nil), m.Size())
	m.Mark(3*unit, 70*unit)
	m.Mark(300*unit, 1)
	f.Add(m.Append(nil), m.Size())
	f.Fuzz(func(t *testing.T, p []byte, size int64) {
		if size < 0 || size > 1<<35 {
			return
		}
		m, err := blockio.ParseAllocationMap(p, size)
		if err != nil {
			if !errors.Is(err, blockio.ErrMap) {
				t.Fatal(err)
			}
			return
		}
		if got := m.Append(nil); !bytes.Equal(got, p) {
			t.Fatalf("%x is read as %x", p, got)
		}
	})
}

// TestScannerOnly: a scan by a map reads what is marked and nothing else, into chunks at their places.
func TestScannerOnly(t *testing.T) {
	memory := numbered(9*mib + 4097)
	rapid.Check(t, func(t *rapid.T) {
		only, _ := drawMap(t, memory.Size())
		device := blockio.NewMeter(memory)
		scanner := blockio.NewScanner(t.Context(), device, blockio.ScanOptions{QueueDepth: rapid.IntRange(1, 5).Draw(t, "depth"), Only: only})
		defer func() { _ = scanner.Close() }()
		next := int64(0)
		for {
			chunk, err := scanner.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if chunk.Off%mib != 0 || chunk.Off < next || only.Marked(next, chunk.Off-next) || !only.Marked(chunk.Off, int64(len(chunk.Data))) {
				t.Fatalf("chunk at %d after %d", chunk.Off, next)
			}
			for off, length := range only.Within(chunk.Off, int64(len(chunk.Data))) {
				if !bytes.Equal(chunk.Data[off-chunk.Off:][:length], memory.Bytes()[off:][:length]) {
					t.Fatalf("%d bytes at %d are not those of the device", length, off)
				}
			}
			next = chunk.Off + int64(len(chunk.Data))
			chunk.Release()
		}
		if only.Marked(next, memory.Size()) {
			t.Fatalf("the scan ends at %d", next)
		}
		if read := device.Counters().ReadBytes; read != only.Bytes() {
			t.Fatalf("%d bytes were read, %d are marked", read, only.Bytes())
		}
	})
}

// TestAllocationOfAFile: holes are found, through decorators too, and what was written is in the map at once.
func TestAllocationOfAFile(t *testing.T) {
	path := filepath.Join(blockiotest.DirectDirectory(t), "image")
	file, err := blockio.Open(path, blockio.Options{Create: 40*unit + 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, off := range []int64{0, 17 * unit, 40 * unit} {
		if _, err := file.WriteAt(bytes.Repeat([]byte{1}, 100), off); err != nil {
			t.Fatal(err)
		}
	}
	m, err := blockio.Allocation(blockio.NewMeter(blockio.NewFaulty(file)))
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 17 * unit, 40 * unit} {
		if !m.Marked(off, 100) {
			t.Errorf("the data at %d is not in the map", off)
		}
	}
	if m.Bytes() > 10*unit {
		t.Errorf("%d bytes are marked, want the 3 units that hold data or a few more", m.Bytes())
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if m, err := blockio.Allocation(file); err != nil || m.Bytes() != 0 {
		t.Errorf("of a file that was cut: %v, %v", m, err)
	}
	memory, err := blockio.Allocation(blockio.NewMemory(5*unit + 3))
	if err != nil || memory.Bytes() != 5*unit+3 {
		t.Errorf("a device that cannot tell: %v, %v", memory, err)
	}
}
