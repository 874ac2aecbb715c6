package blockiotest

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/blockio"
)

// testHistories runs random histories against a byte slice.
func testHistories(t *testing.T, newDevice maker) {
	source := noise(2*blockio.RequestSize, 9)
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.OneOf(
			rapid.Int64Range(1, 3*blockio.Alignment),
			rapid.Int64Range(1, 16*blockio.Alignment),
			rapid.Map(rapid.Int64Range(1, 64), func(n int64) int64 { return n * 512 }),
			rapid.Int64Range(blockio.RequestSize-5000, blockio.RequestSize+5000),
		).Draw(rt, "size")
		device := newDevice(t, size)
		defer func() {
			if err := device.Close(); err != nil {
				rt.Errorf("Close: %v", err)
			}
		}()
		h := &history{device: device, want: make([]byte, size), source: source}
		rt.Repeat(map[string]func(*rapid.T){
			"write": h.write,
			"zero":  h.zero,
			"read":  h.read,
		})
		h.flushAndCompare(rt)
	})
}

type history struct {
	device blockio.Device
	want   []byte
	source []byte // what is written, from a random place on
}

// span draws a range of the device: anything, with a preference for edges near multiples of the sector and for the end.
func (h *history) span(rt *rapid.T) (off, length int64) {
	size := int64(len(h.want))
	position := func(limit int64) *rapid.Generator[int64] {
		return rapid.OneOf(
			rapid.Int64Range(0, limit),
			rapid.Custom(func(rt *rapid.T) int64 {
				near := rapid.Int64Range(0, limit/512).Draw(rt, "sector") * 512
				return min(max(near+rapid.Int64Range(-1, 1).Draw(rt, "beside"), 0), limit)
			}),
			rapid.Int64Range(max(0, limit-600), limit),
		)
	}
	off = position(size).Draw(rt, "off")
	return off, position(size-off).Draw(rt, "length")
}

// buffer returns length bytes that are aligned in memory, or not.
func buffer(rt *rapid.T, length int64) []byte {
	shift := rapid.SampledFrom([]int{0, 0, 1, 512, 4095}).Draw(rt, "shift in memory")
	return blockio.AlignedBuffer(int(length) + shift)[shift:]
}

func (h *history) write(rt *rapid.T) {
	off, length := h.span(rt)
	p := buffer(rt, length)
	before := h.source[rapid.IntRange(0, len(h.source)-len(p)).Draw(rt, "source"):][:len(p)]
	copy(p, before)
	if n, err := h.device.WriteAt(p, off); n != len(p) || err != nil {
		rt.Fatalf("WriteAt(%d bytes, %d) = %d, %v", length, off, n, err)
	}
	if !bytes.Equal(p, before) {
		rt.Fatalf("WriteAt(%d bytes, %d) changes its argument", length, off)
	}
	copy(h.want[off:], p)
}

func (h *history) zero(rt *rapid.T) {
	off, length := h.span(rt)
	if err := h.device.WriteZeroes(off, length); err != nil {
		rt.Fatalf("WriteZeroes(%d, %d): %v", off, length, err)
	}
	clear(h.want[off : off+length])
}

func (h *history) read(rt *rapid.T) {
	off, length := h.span(rt)
	beyond := rapid.SampledFrom([]int64{0, 0, 1, 5000}).Draw(rt, "beyond")
	p := buffer(rt, length+beyond)
	n, err := h.device.ReadAt(p, off)
	expected := h.want[off:min(off+int64(len(p)), int64(len(h.want)))]
	atEnd := len(expected) < len(p)
	if n != len(expected) || errors.Is(err, io.EOF) != atEnd || (err != nil && !atEnd) {
		rt.Fatalf("ReadAt(%d bytes, %d) = %d, %v; want %d, at the end: %t", len(p), off, n, err, len(expected), atEnd)
	}
	if at := firstDifference(p[:n], expected); at >= 0 {
		rt.Fatalf("ReadAt(%d bytes, %d) differs at byte %d", len(p), off, off+int64(at))
	}
}

func (h *history) flushAndCompare(rt *rapid.T) {
	if err := h.device.Flush(); err != nil {
		rt.Fatalf("Flush: %v", err)
	}
	p := blockio.AlignedBuffer(len(h.want))
	if n, err := h.device.ReadAt(p, 0); n != len(p) || err != nil {
		rt.Fatalf("ReadAt(all) = %d, %v", n, err)
	}
	if at := firstDifference(p, h.want); at >= 0 {
		rt.Fatalf("content differs at byte %d of %d", at, len(p))
	}
}

// testNeighbours writes pieces that share sectors from several goroutines at once: none may be lost.
func testNeighbours(t *testing.T, newDevice maker) {
	const (
		writers = 4
		piece   = 100
		size    = 8*blockio.Alignment + 300
	)
	device := newDevice.open(t, size)
	want := noise(size, 7)
	var group sync.WaitGroup
	for writer := range writers {
		group.Go(func() {
			for off := writer * piece; off < size; off += writers * piece {
				p := want[off:min(off+piece, size)]
				if n, err := device.WriteAt(p, int64(off)); n != len(p) || err != nil {
					t.Errorf("WriteAt(%d bytes, %d) = %d, %v", len(p), off, n, err)
					return
				}
			}
		})
	}
	group.Wait()
	expect(t, device, want)
}

// testSectorAndPart writes a whole block while others write its first bytes: the rest of the block
// must never go back to what it was.
func testSectorAndPart(t *testing.T, newDevice maker) {
	const rounds, part = 200, 100
	device := newDevice.open(t, 2*blockio.Alignment)
	besideWriter(t, device, part, func() error {
		whole := blockio.AlignedBuffer(blockio.Alignment)
		got := blockio.AlignedBuffer(blockio.Alignment)
		for round := range rounds {
			for i := range whole {
				whole[i] = byte(round)
			}
			if _, err := device.WriteAt(whole, 0); err != nil {
				return err
			}
			if _, err := device.ReadAt(got, 0); err != nil {
				return err
			}
			if at := firstDifference(got[part:], whole[part:]); at >= 0 {
				t.Errorf("round %d: byte %d has gone back to an earlier write", round, part+at)
				return nil
			}
		}
		return nil
	})
}

// testZeroingBesideWriting does the same with zeroing, and with the far edge.
func testZeroingBesideWriting(t *testing.T, newDevice maker) {
	const rounds, part = 200, 100
	device := newDevice.open(t, 2*blockio.Alignment)
	besideWriter(t, device, part, func() error {
		whole := noise(blockio.Alignment-part, 8)
		got := make([]byte, blockio.Alignment-part)
		for round := range rounds {
			if _, err := device.WriteAt(whole, part); err != nil {
				return err
			}
			if err := device.WriteZeroes(0, blockio.Alignment); err != nil {
				return err
			}
			if _, err := device.ReadAt(got, part); err != nil {
				return err
			}
			if at := firstDifference(got, make([]byte, len(got))); at >= 0 {
				t.Errorf("round %d: byte %d is back after zeroing", round, part+at)
				return nil
			}
		}
		return nil
	})
}

// besideWriter runs body while other goroutines write the first part bytes of the device over and over.
func besideWriter(t *testing.T, device blockio.Device, part int, body func() error) {
	t.Helper()
	stop := make(chan struct{})
	var group sync.WaitGroup
	for writer := range 3 {
		group.Go(func() {
			p := noise(part, uint64(writer))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := device.WriteAt(p, 0); err != nil {
					t.Errorf("WriteAt beside: %v", err)
					return
				}
			}
		})
	}
	err := body()
	close(stop)
	group.Wait()
	if err != nil {
		t.Fatal(err)
	}
}
