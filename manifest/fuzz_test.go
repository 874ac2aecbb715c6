package manifest_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
)

// Each target also sees its input with the checksums made right, or no change would ever reach what lies behind them.

func FuzzOpen(f *testing.F) {
	base, delta := smallFiles(f)
	f.Add(base)
	f.Add(delta)
	f.Add(base[:200])
	f.Add(buildSeeded(f, testKey(0), header(1, 1), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, p := range [][]byte{data, clone(data, reseal)} {
			r, err := manifest.Open(bytes.NewReader(p), int64(len(p)))
			if err != nil {
				if !isTyped(err) {
					t.Fatalf("untyped error: %v", err)
				}
				continue
			}
			g := r.Header().Geometry
			if len(r.Extents()) != int(g.Extents()) {
				t.Fatalf("%d extent digests of %d", len(r.Extents()), g.Extents())
			}
			for e := range g.Extents() {
				if blocks, err := r.BlockDigests(e); err == nil && len(blocks) != g.BlocksIn(e) || err != nil && !isTyped(err) {
					t.Fatalf("extent %d: %d blocks, %v", e, len(blocks), err)
				}
			}
			if err := r.Verify(testKey(0)); err == nil {
				// The format has one spelling: what was read is written the same.
				var again bytes.Buffer
				if _, err := manifest.Flatten(&again, testKey(0), r); err == nil && !bytes.Equal(again.Bytes(), p) {
					t.Fatal("another spelling of the same manifest")
				}
			}
		}
	})
}

func FuzzOpenDelta(f *testing.F) {
	base, delta := smallFiles(f)
	f.Add(delta)
	f.Add(base)
	f.Add(delta[:len(delta)-36])
	view := open(f, base)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, p := range [][]byte{data, clone(data, reseal)} {
			d, err := manifest.OpenDelta(bytes.NewReader(p), int64(len(p)))
			if err != nil {
				if !isTyped(err) {
					t.Fatalf("untyped error: %v", err)
				}
				continue
			}
			o, err := manifest.NewOverlay(testKey(0), view, d)
			if err != nil {
				if !isTyped(err) && !errors.Is(err, manifest.ErrBase) && !errors.Is(err, manifest.ErrKey) {
					t.Fatalf("untyped error: %v", err)
				}
				continue
			}
			for e := range o.Header().Geometry.Extents() {
				if _, err := o.BlockDigests(e); err != nil && !isTyped(err) {
					t.Fatalf("extent %d: %v", e, err)
				}
			}
		}
	})
}

func FuzzReadRecord(f *testing.F) {
	g := manifest.Geometry{Size: manifest.ExtentSize + 1}
	f.Add(manifest.AppendRecord(nil, recordOf(g, 0, 1)))
	f.Add(manifest.AppendRecord(nil, recordOf(g, 1, 1)))
	f.Add([]byte("USR1\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		sealed := clone(data, func(p []byte) {
			if len(p) >= 16 {
				copy(p[len(p)-16:], checksum(p[:len(p)-16]))
			}
		})
		for _, p := range [][]byte{data, sealed} {
			in := bytes.NewReader(p)
			r, err := manifest.ReadRecord(in)
			switch {
			case err == nil:
				if again := manifest.AppendRecord(nil, r); !bytes.Equal(again, p[:len(p)-in.Len()]) {
					t.Fatalf("%x came back as %x", p, again)
				}
			case err == io.EOF && len(p) == 0, errors.Is(err, manifest.ErrCorrupt):
			default:
				t.Fatalf("untyped error: %v", err)
			}
		}
	})
}

func FuzzOpenJournal(f *testing.F) {
	g := manifest.Geometry{Size: manifest.ExtentSize + 1}
	data := manifest.AppendRecord(manifest.AppendRecord(nil, recordOf(g, 1, 1)), recordOf(g, 0, 1))
	f.Add(data, 0)
	f.Add(data[:100], 80)
	f.Fuzz(func(t *testing.T, data []byte, durable int) {
		j, err := openJournal(data, durable, g)
		if err != nil {
			if !isTyped(err) && !errors.Is(err, manifest.ErrInvalid) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if j.Whole() < int64(durable) || j.Whole() > int64(len(data)) || (j.Torn() == nil) != (j.Whole() == int64(len(data))) {
			t.Fatalf("%d of %d bytes, %d durable, torn: %v", j.Whole(), len(data), durable, j.Torn())
		}
		if n := len(collect(t, j.Records())); n != len(j.Extents()) {
			t.Fatalf("%d records of %d extents", n, len(j.Extents()))
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"clean:a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0", "dirty:A0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0", "invalid", "30a4d0a12740da1b",
		"79ee4d09ec0353b314d476aa1d3b00561b1e3b8a86b4705a1b7810927407b471", "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		check := func(text string, err error) {
			if err == nil && text != s || err != nil && !errors.Is(err, manifest.ErrInvalid) {
				t.Fatalf("%q: read as %q, %v", s, text, err)
			}
		}
		state, err := manifest.ParseState(s)
		check(state.String(), err)
		if err == nil && !state.Valid() {
			t.Fatalf("%q is an invalid state", s)
		}
		generation, err := manifest.ParseGeneration(s)
		check(generation.String(), err)
		digest, err := manifest.ParseDigest(s)
		check(digest.String(), err)
		id, err := manifest.ParseKeyID(s)
		check(id.String(), err)
	})
}
