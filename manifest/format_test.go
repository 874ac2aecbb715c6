package manifest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
)

// smallFiles returns a manifest of two extents, the second short, and a delta that changes both.
func smallFiles(t fatal) (base, delta []byte) {
	key, size := testKey(0), int64(manifest.ExtentSize+2*manifest.BlockSize+5)
	base = buildSeeded(t, key, header(size, 1), 1)
	g := manifest.Geometry{Size: size}
	var out bytes.Buffer
	_, err := manifest.ComposeDelta(&out, key, header(size, 2), open(t, base), manifest.MissingFails,
		manifest.Sorted([]manifest.Record{recordOf(g, 1, 2), recordOf(g, 0, 2)}))
	must(t, err)
	return base, out.Bytes()
}

// isTyped reports whether an error is one that a caller of Open can decide on.
func isTyped(err error) bool {
	return errors.Is(err, manifest.ErrCorrupt) || errors.Is(err, manifest.ErrVersion)
}

// TestEveryFlippedBitIsFound flips each bit of the specification's files, of one extent, and one in eleven of larger ones.
func TestEveryFlippedBitIsFound(t *testing.T) {
	spec := golden(t)
	base, delta := smallFiles(t)
	for name, file := range map[string]struct {
		manifest, delta []byte
		step            int
	}{
		"one extent":  {spec["manifest"], spec["delta"], 1},
		"two extents": {base, delta, 11},
	} {
		view := open(t, file.manifest)
		flip := func(data []byte, read func([]byte) error) {
			must(t, read(data))
			p := bytes.Clone(data)
			for bit := 0; bit < 8*len(p); bit += file.step {
				p[bit/8] ^= 1 << (bit % 8)
				if err := read(p); !isTyped(err) {
					t.Fatalf("%s, %.8s, bit %d of byte %d: error is %v", name, data, bit%8, bit/8, err)
				}
				p[bit/8] ^= 1 << (bit % 8)
			}
		}
		flip(file.manifest, readAll)
		flip(file.delta, func(p []byte) error { return readAllOver(testKey(0), view, p) })
	}
}

func TestEveryTruncationIsFound(t *testing.T) {
	base, delta := smallFiles(t)
	for n := range base {
		wantError(t, readAll(base[:n]), manifest.ErrTruncated)
	}
	view := open(t, base)
	for n := range delta {
		wantError(t, readAllOver(testKey(0), view, delta[:n]), manifest.ErrTruncated)
	}
	wantError(t, readAll(append(bytes.Clone(base), 0)), manifest.ErrCorrupt)
	wantError(t, readAllOver(testKey(0), view, append(bytes.Clone(delta), 0)), manifest.ErrCorrupt)
}

// TestDamageBehindChecksums changes fields and corrects the checksums: what a broken or hostile writer could leave.
func TestDamageBehindChecksums(t *testing.T) {
	base, delta := smallFiles(t)
	big := binary.BigEndian
	footer := func(p []byte) []byte { return p[len(p)-64:] }
	for name, c := range map[string]struct {
		data   []byte
		change func(p []byte)
		want   error
	}{
		"other magic":        {base, func(p []byte) { p[0] = 'X' }, manifest.ErrCorrupt},
		"a delta":            {base, func(p []byte) { copy(p, "USDYDELT") }, manifest.ErrCorrupt},
		"version 2":          {base, func(p []byte) { p[9] = 2 }, manifest.ErrVersion},
		"unknown flag":       {base, func(p []byte) { p[11] |= 2 }, manifest.ErrVersion},
		"reserved bytes":     {base, func(p []byte) { p[15] = 1 }, manifest.ErrVersion},
		"size 0":             {base, func(p []byte) { big.PutUint64(p[24:], 0) }, manifest.ErrInvalid},
		"negative size":      {base, func(p []byte) { big.PutUint64(p[24:], 1<<63) }, manifest.ErrInvalid},
		"absurd size":        {base, func(p []byte) { big.PutUint64(p[24:], manifest.MaxSize+1) }, manifest.ErrCorrupt},
		"size of 64 TiB":     {base, func(p []byte) { big.PutUint64(p[24:], manifest.MaxSize) }, manifest.ErrTruncated},
		"smaller size":       {base, func(p []byte) { big.PutUint64(p[24:], 5) }, manifest.ErrCorrupt},
		"no generation":      {base, func(p []byte) { clear(p[32:48]) }, manifest.ErrCorrupt},
		"base in a manifest": {base, func(p []byte) { p[48] = 1 }, manifest.ErrCorrupt},
		"root of no base":    {base, func(p []byte) { p[64] = 1 }, manifest.ErrCorrupt},
		"fewer records":      {base, func(p []byte) { footer(p)[43]-- }, manifest.ErrCorrupt},
		"2³² records":        {base, func(p []byte) { big.PutUint32(footer(p)[40:], 1<<32-1) }, manifest.ErrCorrupt},
		"footer reserved":    {base, func(p []byte) { footer(p)[47] = 1 }, manifest.ErrCorrupt},
		"record elsewhere":   {base, func(p []byte) { p[112+7] = 1 }, manifest.ErrCorrupt},
		"record of 63":       {base, func(p []byte) { p[112+11] = 63 }, manifest.ErrCorrupt},
		"record of 65":       {base, func(p []byte) { p[112+11] = 65 }, manifest.ErrCorrupt},
		"record of 0":        {base, func(p []byte) { p[112+11] = 0 }, manifest.ErrCorrupt},
		"record tag":         {base, func(p []byte) { p[112] = 'X' }, manifest.ErrCorrupt},
		"delta: no base":     {delta, func(p []byte) { clear(p[48:64]) }, manifest.ErrCorrupt},
		"delta: other base":  {delta, func(p []byte) { p[48]++ }, manifest.ErrBase},
		"delta: other root":  {delta, func(p []byte) { p[64]++ }, manifest.ErrBase},
		"delta: index":       {delta, func(p []byte) { p[len(p)-64-2*36+3] = 1 }, manifest.ErrCorrupt},
		"delta: index ≥":     {delta, func(p []byte) { p[len(p)-64-2*36+7] = 2 }, manifest.ErrCorrupt},
		"delta: records":     {delta, func(p []byte) { footer(p)[43] = 3 }, manifest.ErrCorrupt},
		"delta: new root":    {delta, func(p []byte) { footer(p)[0]++ }, manifest.ErrCorrupt},
		"delta: digest":      {delta, func(p []byte) { p[len(p)-64-1]++ }, manifest.ErrCorrupt},
		"delta: key":         {delta, func(p []byte) { p[16]++ }, manifest.ErrKey},
		"delta: block":       {delta, func(p []byte) { p[112+12]++ }, manifest.ErrCorrupt},
		"delta: size 64 TiB": {delta, func(p []byte) { big.PutUint64(p[24:], manifest.MaxSize) }, manifest.ErrCorrupt},
		"delta: is manifest": {delta, func(p []byte) { copy(p, "USDYMANI") }, manifest.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			p := clone(clone(c.data, c.change), reseal)
			err := readAll(p)
			if string(c.data[:8]) == "USDYDELT" {
				err = readAllOver(testKey(0), open(t, base), p)
			}
			wantError(t, err, c.want)
		})
	}
}

// TestVerifyFindsWhatChecksumsCannot: blocks, table or root exchanged by somebody without the key.
func TestVerifyFindsWhatChecksumsCannot(t *testing.T) {
	base, _ := smallFiles(t)
	p := clone(clone(base, func(p []byte) { p[112+12]++ }), reseal)
	must(t, readAll(p))
	r := open(t, p)
	must(t, r.Verify(testKey(0)))
	_, err := r.BlockDigests(0)
	wantError(t, err, manifest.ErrCorrupt)
	if _, err = r.BlockDigests(1); err != nil {
		t.Errorf("the other extent is sound: %v", err)
	}
	for _, at := range []int{len(base) - 64, len(base) - 64 - 1} { // root, table
		p := clone(clone(base, func(p []byte) { p[at]++ }), reseal)
		wantError(t, open(t, p).Verify(testKey(0)), manifest.ErrCorrupt)
	}
	wantError(t, open(t, base).Verify(testKey(1)), manifest.ErrKey)
	wantError(t, open(t, base).Verify(manifest.Key{}), manifest.ErrKey)
}

func TestErrorsNameCauseAndMend(t *testing.T) {
	base, _ := smallFiles(t)
	for want, err := range map[string]error{
		"this program reads version 1; upgrade": readAll(clone(base, func(p []byte) { p[9] = 9 })),
		"scan the disk anew or use the key":     open(t, base).Verify(testKey(1)),
		"ends too early":                        readAll(base[:len(base)-1]),
		"header: corrupt":                       readAll(clone(base, func(p []byte) { p[26]++ })), // not 'too short' for a size that is wrong
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

// TestAbsurdSizesTakeNoMemory: a header of a 64 TiB disk needs 512 MiB of extent digests; the file does not have them.
func TestAbsurdSizesTakeNoMemory(t *testing.T) {
	base, _ := smallFiles(t)
	view := open(t, base)
	var delta bytes.Buffer // one that would be sound on such a disk
	_, err := manifest.ComposeDelta(&delta, testKey(0), header(view.Header().Geometry.Size, 2), view, manifest.MissingFails,
		manifest.Sorted([]manifest.Record{recordOf(view.Header().Geometry, 0, 2)}))
	must(t, err)
	readOver := func(p []byte) error { return readAllOver(testKey(0), view, p) }
	for name, c := range map[string]struct {
		data    []byte
		records uint32
		read    func(p []byte) error
	}{
		"manifest":           {base, 1 << 24, readAll},
		"delta, all extents": {delta.Bytes(), 1 << 24, readOver},
		"delta, one extent":  {delta.Bytes(), 1, readOver},
	} {
		p := clone(clone(c.data, func(p []byte) {
			binary.BigEndian.PutUint64(p[24:], manifest.MaxSize)
			binary.BigEndian.PutUint32(p[len(p)-64+40:], c.records)
		}), reseal)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := c.read(p)
		runtime.ReadMemStats(&after)
		wantError(t, err, manifest.ErrCorrupt)
		if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
			t.Errorf("%s: %d bytes were taken", name, took)
		}
	}
}

// TestOpenDeltaChecksItsShape: what no Overlay and no key is needed to see.
func TestOpenDeltaChecksItsShape(t *testing.T) {
	_, delta := smallFiles(t)
	index := len(delta) - 64 - 2*36
	for name, p := range map[string][]byte{
		"twice one":  clone(delta, func(p []byte) { p[index+3] = 1 }),
		"descending": clone(delta, func(p []byte) { p[index+3], p[index+7] = 1, 0 }),
		"beyond":     clone(delta, func(p []byte) { p[index+7] = 2 }),
		"a gap":      slices.Insert(bytes.Clone(delta), index, 0),
		"a lack":     slices.Delete(bytes.Clone(delta), index-1, index),
	} {
		reseal(p)
		_, err := manifest.OpenDelta(bytes.NewReader(p), int64(len(p)))
		if !errors.Is(err, manifest.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrorsOfTheStorageArePassedOn(t *testing.T) {
	base, delta := smallFiles(t)
	cause := errors.New("the disk is gone")
	for n := range int64(len(base)) {
		r, err := manifest.Open(brokenReaderAt{bytes.NewReader(base), n, cause}, int64(len(base)))
		wantError(t, err, cause)
		if r != nil || errors.Is(err, manifest.ErrCorrupt) {
			t.Fatalf("an unreadable file is called corrupt: %v", err)
		}
	}
	view := open(t, base)
	g := view.Header().Geometry
	for n := 0; n < len(base); n += 7 {
		_, err := manifest.Flatten(&limitedWriter{n, cause}, testKey(0), view)
		wantError(t, err, cause)
	}
	for n := 0; n < len(delta); n += 7 {
		_, err := manifest.ComposeDelta(&limitedWriter{n, cause}, testKey(0), header(g.Size, 2), view, manifest.MissingFails,
			manifest.Sorted([]manifest.Record{recordOf(g, 0, 2), recordOf(g, 1, 2)}))
		wantError(t, err, cause)
	}
}

// TestWriterStaysFailed: a write that failed on the way is not forgotten by the end.
func TestWriterStaysFailed(t *testing.T) {
	cause := errors.New("the disk is full")
	h := header(64*manifest.ExtentSize, 1)
	w, err := manifest.NewWriter(&limitedWriter{100_000, cause}, testKey(0), h)
	must(t, err)
	var failed uint32
	for e := range h.Geometry.Extents() {
		err := w.Add(recordOf(h.Geometry, e, 1))
		if err != nil && failed == 0 {
			failed = e
		}
		if failed > 0 {
			wantError(t, err, cause)
		}
	}
	if failed == 0 {
		t.Error("no Add failed")
	}
	_, err = w.Close()
	wantError(t, err, cause)
}

func TestWriterRefusesWhatDoesNotFit(t *testing.T) {
	size := int64(manifest.ExtentSize + 1)
	g := manifest.Geometry{Size: size}
	var out bytes.Buffer
	for _, c := range []struct {
		key  manifest.Key
		h    manifest.Header
		want error
	}{
		{manifest.Key{}, header(size, 1), manifest.ErrKey},
		{testKey(0), manifest.Header{Geometry: g, Generation: manifest.NewGeneration(), KeyID: testKey(1).ID()}, manifest.ErrKey},
		{testKey(0), header(0, 1), manifest.ErrInvalid},
		{testKey(0), header(size, 0), manifest.ErrInvalid},
	} {
		_, err := manifest.NewWriter(&out, c.key, c.h)
		wantError(t, err, c.want)
	}
	if out.Len() != 0 {
		t.Errorf("%d bytes were written", out.Len())
	}
	w, err := manifest.NewWriter(&out, testKey(0), header(size, 1))
	must(t, err)
	wantError(t, w.Add(recordOf(g, 1, 1)), manifest.ErrInvalid)
	must(t, w.Add(recordOf(g, 0, 1)))
	wantError(t, w.Add(recordOf(g, 0, 1)), manifest.ErrInvalid)
	wantError(t, w.Add(manifest.Record{Extent: 1, Blocks: make([]manifest.Digest, 2)}), manifest.ErrInvalid)
	wantError(t, w.Add(manifest.Record{Extent: 2, Blocks: make([]manifest.Digest, 1)}), manifest.ErrInvalid)
	must(t, w.Add(recordOf(g, 1, 1)))
	root, err := w.Close()
	must(t, err)
	if !bytes.Equal(out.Bytes(), buildSeeded(t, testKey(0), header(size, 1), 1)) || open(t, out.Bytes()).Root() != root {
		t.Error("refused records leave traces")
	}
	if _, err := w.Close(); err == nil || w.Add(recordOf(g, 1, 1)) == nil {
		t.Error("a closed writer goes on")
	}
	w, err = manifest.NewWriter(&out, testKey(0), header(size, 1))
	must(t, err)
	must(t, w.Add(recordOf(g, 0, 1)))
	_, err = w.Close()
	wantError(t, err, manifest.ErrMissing)
}

func TestReaderRefusesExtentsBeyondTheDisk(t *testing.T) {
	base, delta := smallFiles(t)
	o, err := manifest.NewOverlay(testKey(0), open(t, base), openDelta(t, delta))
	must(t, err)
	for _, v := range []manifest.View{open(t, base), o} {
		for _, e := range []uint32{2, 1<<32 - 1} {
			_, err := v.BlockDigests(e)
			wantError(t, err, manifest.ErrInvalid)
		}
	}
}
