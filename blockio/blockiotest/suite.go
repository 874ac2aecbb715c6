package blockiotest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/understudy-dr/understudy/blockio"
)

// oddSize has whole sectors of either size, a tail of half a sector and a byte, and more than one request.
const oddSize = blockio.RequestSize + 3*blockio.Alignment + 257

// TestDevice runs the suite. newDevice makes a writable device of exactly size bytes, any number, that reads as zeroes.
func TestDevice(t *testing.T, newDevice func(t *testing.T, size int64) blockio.Device) {
	suite := []struct {
		name string
		test func(t *testing.T, newDevice maker)
	}{
		{"shape", testShape},
		{"ends", testEnds},
		{"tail", testTail},
		{"out of range", testOutOfRange},
		{"zeroes", testZeroes},
		{"read-only", testReadOnly},
		{"close", testClose},
		{"histories", testHistories},
		{"neighbours", testNeighbours},
		{"sector and part of it", testSectorAndPart},
		{"zeroing beside writing", testZeroingBesideWriting},
		{"scan", testScan},
		{"allocation", testAllocation},
	}
	for _, part := range suite {
		t.Run(part.name, func(t *testing.T) { part.test(t, newDevice) })
	}
}

type maker func(t *testing.T, size int64) blockio.Device

// open makes a device that is closed when the test ends.
func (m maker) open(t *testing.T, size int64) blockio.Device {
	t.Helper()
	device := m(t, size)
	t.Cleanup(func() {
		if err := device.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return device
}

// noise returns bytes without regularity, the same for the same seed.
func noise(size int, seed uint64) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	p := make([]byte, size)
	if _, err := rand.NewChaCha8(key).Read(p); err != nil {
		panic(err) // it never fails
	}
	return p
}

func write(t *testing.T, device blockio.Device, p []byte, off int64) {
	t.Helper()
	if n, err := device.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("WriteAt(%d bytes, %d) = %d, %v", len(p), off, n, err)
	}
}

func content(t *testing.T, device blockio.Device) []byte {
	t.Helper()
	p := blockio.AlignedBuffer(int(device.Size()))
	if n, err := device.ReadAt(p, 0); n != len(p) || err != nil {
		t.Fatalf("ReadAt(%d bytes, 0) = %d, %v", len(p), n, err)
	}
	return p
}

// expect compares the whole device and names the first byte that differs.
func expect(t *testing.T, device blockio.Device, want []byte) {
	t.Helper()
	if at := firstDifference(content(t, device), want); at >= 0 {
		t.Fatalf("content differs at byte %d of %d", at, len(want))
	}
}

func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func testShape(t *testing.T, newDevice maker) {
	for _, size := range []int64{1, 511, 512, 513, 4095, 4096, 4097, oddSize} {
		device := newDevice.open(t, size)
		if device.Size() != size {
			t.Fatalf("Size() = %d, want %d", device.Size(), size)
		}
		if sector := device.SectorSize(); sector != 512 && sector != 4096 {
			t.Fatalf("SectorSize() = %d", sector)
		}
		expect(t, device, make([]byte, size))
		if err := device.Flush(); err != nil {
			t.Fatalf("Flush: %v", err)
		}
	}
}

// testEnds reads across the device's end.
func testEnds(t *testing.T, newDevice maker) {
	device := newDevice.open(t, oddSize)
	want := noise(oddSize, 1)
	write(t, device, want, 0)
	cases := []struct {
		off    int64
		length int
		n      int
		err    error
	}{
		{oddSize - 10, 10, 10, nil},
		{oddSize - 10, 11, 10, io.EOF},
		{oddSize - 5000, blockio.RequestSize, 5000, io.EOF},
		{0, oddSize + 4096, oddSize, io.EOF},
		{oddSize, 1, 0, io.EOF},
		{oddSize + 4096, 4096, 0, io.EOF},
		{math.MaxInt64 - 1, 4096, 0, io.EOF},
		{oddSize, 0, 0, nil},
		{17, 0, 0, nil},
		{-1, 1, 0, blockio.ErrOutOfRange},
		{math.MinInt64, 4096, 0, blockio.ErrOutOfRange},
	}
	for _, c := range cases {
		p := noise(c.length, 2)
		n, err := device.ReadAt(p, c.off)
		if n != c.n || !errors.Is(err, c.err) {
			t.Errorf("ReadAt(%d bytes, %d) = %d, %v; want %d, %v", c.length, c.off, n, err, c.n, c.err)
			continue
		}
		if n > 0 && !bytes.Equal(p[:n], want[c.off:c.off+int64(n)]) {
			t.Errorf("ReadAt(%d bytes, %d) returns other bytes", c.length, c.off)
		}
		if !bytes.Equal(p[n:], noise(c.length, 2)[n:]) {
			t.Errorf("ReadAt(%d bytes, %d) changes the buffer beyond what it read", c.length, c.off)
		}
	}
}

// testTail writes and zeroes up to the last byte of devices of many sizes.
func testTail(t *testing.T, newDevice maker) {
	for _, size := range []int64{1, 100, 512, 700, 4096, 4100, 8191, 8192 + 512, oddSize} {
		device := newDevice.open(t, size)
		want := noise(int(size), uint64(size))
		write(t, device, want, 0)
		write(t, device, []byte{0xaa}, size-1)
		want[size-1] = 0xaa
		expect(t, device, want)
		if err := device.WriteZeroes(size/2, size-size/2); err != nil {
			t.Fatalf("WriteZeroes: %v", err)
		}
		clear(want[size/2:])
		expect(t, device, want)
		if err := device.Flush(); err != nil {
			t.Fatalf("Flush: %v", err)
		}
		expect(t, device, want)
	}
}

func testOutOfRange(t *testing.T, newDevice maker) {
	device := newDevice.open(t, oddSize)
	want := noise(oddSize, 3)
	write(t, device, want, 0)
	for _, c := range []struct{ off, length int64 }{
		{-1, 1}, {-4096, 8192}, {math.MinInt64, 1}, {oddSize, 1}, {oddSize - 4096, 4097}, {oddSize + 1, 0}, {math.MaxInt64, 1}, {0, oddSize + 1},
	} {
		if n, err := device.WriteAt(make([]byte, c.length), c.off); n != 0 || !errors.Is(err, blockio.ErrOutOfRange) {
			t.Errorf("WriteAt(%d bytes, %d) = %d, %v; want ErrOutOfRange", c.length, c.off, n, err)
		}
	}
	for _, c := range []struct{ off, length int64 }{
		{-1, 1}, {oddSize, 1}, {oddSize - 4096, 4097}, {0, -1}, {4096, -4096}, {4096, math.MaxInt64}, {math.MaxInt64, math.MaxInt64},
	} {
		if err := device.WriteZeroes(c.off, c.length); !errors.Is(err, blockio.ErrOutOfRange) {
			t.Errorf("WriteZeroes(%d, %d) = %v, want ErrOutOfRange", c.off, c.length, err)
		}
	}
	expect(t, device, want)
	if n, err := device.WriteAt(nil, oddSize); n != 0 || err != nil {
		t.Errorf("WriteAt(nothing, at the end) = %d, %v", n, err)
	}
	if err := device.WriteZeroes(oddSize, 0); err != nil {
		t.Errorf("WriteZeroes(nothing, at the end) = %v", err)
	}
}

// testZeroes zeroes ranges with edges of every alignment, and then more than one request holds.
func testZeroes(t *testing.T, newDevice maker) {
	const size = 4*blockio.Alignment + 257
	device := newDevice.open(t, size)
	edges := []int64{0, 1, 511, 512, 513, 4095, 4096, 4097, 8192, 12000, size - 257, size - 256, size - 1, size}
	full := noise(size, 4)
	write(t, device, full, 0)
	for i, off := range edges {
		for _, end := range edges[i:] {
			if err := device.WriteZeroes(off, end-off); err != nil {
				t.Fatalf("WriteZeroes(%d, %d): %v", off, end-off, err)
			}
			want := bytes.Clone(full)
			clear(want[off:end])
			expect(t, device, want)
			write(t, device, full[off:end], off)
		}
	}
	expect(t, device, full)

	device = newDevice.open(t, oddSize)
	want := noise(oddSize, 4)
	write(t, device, want, 0)
	if err := device.WriteZeroes(1, oddSize-2); err != nil {
		t.Fatalf("WriteZeroes(1, %d): %v", oddSize-2, err)
	}
	clear(want[1 : oddSize-1])
	expect(t, device, want)
}

func testReadOnly(t *testing.T, newDevice maker) {
	device := newDevice.open(t, oddSize)
	want := noise(oddSize, 5)
	write(t, device, want, 0)
	for range 2 {
		if err := device.SetReadOnly(); err != nil {
			t.Fatalf("SetReadOnly: %v", err)
		}
	}
	if n, err := device.WriteAt([]byte{1}, 0); n != 0 || !errors.Is(err, blockio.ErrReadOnly) {
		t.Errorf("WriteAt = %d, %v; want ErrReadOnly", n, err)
	}
	if err := device.WriteZeroes(0, 4096); !errors.Is(err, blockio.ErrReadOnly) {
		t.Errorf("WriteZeroes = %v, want ErrReadOnly", err)
	}
	if err := device.Flush(); err != nil {
		t.Errorf("Flush: %v", err)
	}
	expect(t, device, want)
}

func testClose(t *testing.T, newDevice maker) {
	device := newDevice(t, oddSize)
	for range 3 {
		if err := device.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	_, readErr := device.ReadAt(make([]byte, 10), 0)
	_, writeErr := device.WriteAt(make([]byte, 10), 0)
	for name, err := range map[string]error{
		"ReadAt": readErr, "WriteAt": writeErr, "WriteZeroes": device.WriteZeroes(0, 10), "Flush": device.Flush(), "SetReadOnly": device.SetReadOnly(),
	} {
		if !errors.Is(err, blockio.ErrClosed) || !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s after Close = %v, want ErrClosed", name, err)
		}
	}
	if device.Size() != oddSize {
		t.Errorf("Size() after Close = %d", device.Size())
	}
}

// testScan reads the device in order by a Scanner.
func testScan(t *testing.T, newDevice maker) {
	device := newDevice.open(t, 3*blockio.RequestSize+oddSize)
	want := noise(int(device.Size()), 6)
	write(t, device, want, 0)
	scanner := blockio.NewScanner(t.Context(), device, blockio.ScanOptions{QueueDepth: 3})
	var got []byte
	for {
		chunk, err := scanner.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("Next: %v", err)
		}
		got = append(got, chunk.Data...)
		chunk.Release()
	}
	if err := scanner.Close(); err != nil {
		t.Errorf("Close of the scanner: %v", err)
	}
	if at := firstDifference(got, want); at >= 0 {
		t.Errorf("scan differs at byte %d", at)
	}
}
