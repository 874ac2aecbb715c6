package manifest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/zeebo/blake3"
	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/manifest"
)

// fatal is what testing.T and rapid.T have in common.
type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

// testKey is the key of the specification's examples: 00 01 … 1f, plus a shift to have others.
func testKey(shift byte) manifest.Key {
	secret := make([]byte, manifest.KeySize)
	for i := range secret {
		secret[i] = byte(i) + shift
	}
	k, err := manifest.ParseKey(secret)
	if err != nil {
		panic(err)
	}
	return k
}

// digestOf makes distinct block digests without having blocks.
func digestOf(parts ...uint64) manifest.Digest {
	var p []byte
	for _, n := range parts {
		p = binary.BigEndian.AppendUint64(p, n)
	}
	return blake3.Sum256(p)
}

// recordOf makes the record of an extent; the same seed makes the same content, as far as the blocks' lengths are the same.
func recordOf(g manifest.Geometry, extent uint32, seed uint64) manifest.Record {
	r := manifest.Record{Extent: extent}
	for i := range g.BlocksIn(extent) {
		_, length := g.BlockRange(extent*manifest.BlocksPerExtent + uint32(i))
		r.Blocks = append(r.Blocks, digestOf(seed, uint64(extent), uint64(i), uint64(length)))
	}
	return r
}

func header(size int64, generation byte) manifest.Header {
	h := manifest.Header{Geometry: manifest.Geometry{Size: size}}
	h.Generation[0] = generation
	return h
}

// build writes a manifest extent by extent.
func build(t fatal, key manifest.Key, h manifest.Header, blocks [][]manifest.Digest) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := manifest.NewWriter(&out, key, h)
	must(t, err)
	for e, b := range blocks {
		must(t, w.Add(manifest.Record{Extent: uint32(e), Blocks: b}))
	}
	_, err = w.Close()
	must(t, err)
	return out.Bytes()
}

// buildSeeded writes a manifest whose extents all have recordOf(seed).
func buildSeeded(t fatal, key manifest.Key, h manifest.Header, seed uint64) []byte {
	t.Helper()
	var blocks [][]manifest.Digest
	for e := range h.Geometry.Extents() {
		blocks = append(blocks, recordOf(h.Geometry, e, seed).Blocks)
	}
	return build(t, key, h, blocks)
}

func open(t fatal, data []byte) *manifest.Reader {
	t.Helper()
	r, err := manifest.Open(bytes.NewReader(data), int64(len(data)))
	must(t, err)
	return r
}

func openDelta(t fatal, data []byte) *manifest.Delta {
	t.Helper()
	d, err := manifest.OpenDelta(bytes.NewReader(data), int64(len(data)))
	must(t, err)
	return d
}

// readAll opens a manifest and reads every block digest; the first error ends it.
func readAll(data []byte) error {
	r, err := manifest.Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	for e := range r.Header().Geometry.Extents() {
		if _, err := r.BlockDigests(e); err != nil {
			return err
		}
	}
	return nil
}

// readAllOver opens a delta, lays it over base and reads every block digest.
func readAllOver(key manifest.Key, base manifest.View, data []byte) error {
	d, err := manifest.OpenDelta(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	o, err := manifest.NewOverlay(key, base, d)
	if err != nil {
		return err
	}
	for e := range o.Header().Geometry.Extents() {
		if _, err := o.BlockDigests(e); err != nil {
			return err
		}
	}
	return nil
}

func must(t fatal, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("unexpected error: %v", err)
	}
}

func wantError(t fatal, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want one that is %q", err, want)
	}
}

// sizes draws logical sizes of up to four extents, on and beside every boundary.
func sizes() *rapid.Generator[int64] {
	return rapid.Custom(func(t *rapid.T) int64 {
		unit := rapid.SampledFrom([]int64{1, 512, manifest.BlockSize, manifest.ExtentSize}).Draw(t, "unit")
		n := rapid.Int64Range(0, 4*manifest.ExtentSize/unit).Draw(t, "units")
		return max(1, n*unit+rapid.Int64Range(-1, 1).Draw(t, "beside"))
	})
}

// limitedWriter fails once so many bytes have passed.
type limitedWriter struct {
	left int
	err  error
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return w.left, w.err
	}
	w.left -= len(p)
	return len(p), nil
}

// brokenReaderAt fails beyond an offset, with an error that is not the end.
type brokenReaderAt struct {
	r    io.ReaderAt
	from int64
	err  error
}

func (b brokenReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.from {
		return 0, b.err
	}
	return b.r.ReadAt(p, off)
}

// checksum is the specification's: the first half of the unkeyed BLAKE3.
func checksum(parts ...[]byte) []byte {
	sum := blake3.Sum256(bytes.Join(parts, nil))
	return sum[:16]
}

// reseal corrects the checksums of a file after a change, so that a test reaches what lies behind them. Offsets are those of
// docs/manifest.md.
func reseal(data []byte) {
	if len(data) < 112+64 {
		return
	}
	copy(data[96:], checksum(data[:96]))
	entry := 32
	if string(data[:8]) == "USDYDELT" {
		entry = 36
	}
	end := len(data) - 64
	n := int(binary.BigEndian.Uint32(data[end+40:]))
	if n <= end/entry && end-n*entry >= 112 {
		copy(data[end+48:], checksum(data[:112], data[end-n*entry:end+48]))
		for record := data[112 : end-n*entry]; len(record) >= 60; record = record[min(2076, len(record)):] {
			body := min(2076, len(record)) - 16
			copy(record[body:], checksum(record[:body]))
		}
	}
}

func clone(data []byte, change func(p []byte)) []byte {
	p := bytes.Clone(data)
	change(p)
	return p
}

func TestResealLeavesSoundFilesAlone(t *testing.T) {
	data := buildSeeded(t, testKey(0), header(manifest.ExtentSize+1, 1), 1)
	if !bytes.Equal(clone(data, reseal), data) {
		t.Fatal("the tests' own idea of the checksums differs")
	}
}
