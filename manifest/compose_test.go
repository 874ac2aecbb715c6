package manifest_test

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/manifest"
)

// model is a disk's block digests in memory: what composing must arrive at.
type model struct {
	header manifest.Header
	blocks [][]manifest.Digest
}

// drawRecords draws changed extents in any order, some several times. A single block differs as often as all do.
func drawRecords(t *rapid.T, m model) []manifest.Record {
	g := m.header.Geometry
	extents := rapid.SliceOfN(rapid.Uint32Range(0, g.Extents()-1), 0, 6).Draw(t, "changed")
	var records []manifest.Record
	for _, e := range extents {
		r := recordOf(g, e, rapid.Uint64Range(1, 3).Draw(t, "seed"))
		if rapid.Bool().Draw(t, "one block") && len(m.blocks[e]) == len(r.Blocks) {
			one := slices.Clone(m.blocks[e])
			i := rapid.IntRange(0, len(one)-1).Draw(t, "block")
			one[i] = r.Blocks[i]
			r.Blocks = one
		}
		records = append(records, r)
	}
	return records
}

// next returns the model after a run: its disk perhaps of another size, with the records applied, zeroes in what is new.
func (m model) next(t *rapid.T, generation byte) (model, []manifest.Record) {
	h := header(m.header.Geometry.Size, generation)
	if rapid.IntRange(0, 3).Draw(t, "resized") == 0 {
		h.Geometry.Size = sizes().Draw(t, "new size")
	}
	after := model{header: h}
	hasher := testKey(0).NewHasher()
	for e := range h.Geometry.Extents() {
		blocks := hasher.ZeroBlocks(h.Geometry, e)
		if int(e) < len(m.blocks) {
			_, length := h.Geometry.ExtentRange(e)
			if _, before := m.header.Geometry.ExtentRange(e); before == length {
				blocks = m.blocks[e]
			}
		}
		after.blocks = append(after.blocks, blocks)
	}
	records := drawRecords(t, after)
	for _, r := range records {
		after.blocks[r.Extent] = r.Blocks
	}
	return after, records
}

// equalViews compares a View with a manifest built from scratch, digest by digest.
func equalViews(t fatal, got manifest.View, m model) {
	t.Helper()
	want := open(t, build(t, testKey(0), m.header, m.blocks))
	if got.Root() != want.Root() || got.Header() != want.Header() || !slices.Equal(got.Extents(), want.Extents()) {
		t.Fatalf("composed: root %s, %+v\nfrom scratch: root %s, %+v", got.Root(), got.Header(), want.Root(), want.Header())
	}
	for e, blocks := range m.blocks {
		have, err := got.BlockDigests(uint32(e))
		must(t, err)
		if !slices.Equal(have, blocks) {
			t.Fatalf("blocks of extent %d differ", e)
		}
	}
	differing, err := manifest.Diff(got, want)
	must(t, err)
	for e := range differing {
		t.Fatalf("extent %d differs", e)
	}
}

// TestComposingEqualsBuildingFromScratch plays random histories of runs and checks every way to a new manifest: composed
// whole, as a chain of deltas laid over the first, and flattened.
func TestComposingEqualsBuildingFromScratch(t *testing.T) {
	key := testKey(0)
	rapid.Check(t, func(t *rapid.T) {
		h := header(sizes().Draw(t, "size"), 1)
		m := model{header: h}
		for e := range h.Geometry.Extents() {
			m.blocks = append(m.blocks, recordOf(h.Geometry, e, 1).Blocks)
		}
		first := open(t, build(t, key, m.header, m.blocks))
		var base manifest.View = first
		var deltas []*manifest.Delta
		for generation := range byte(rapid.IntRange(1, 4).Draw(t, "runs")) {
			after, records := m.next(t, generation+2)

			var whole bytes.Buffer
			root, err := manifest.Compose(&whole, key, after.header, base, manifest.MissingIsZero, manifest.Sorted(records))
			must(t, err)
			after.header.KeyID = key.ID()
			if !bytes.Equal(whole.Bytes(), build(t, key, after.header, after.blocks)) || open(t, whole.Bytes()).Root() != root {
				t.Fatalf("a composed manifest differs from one built from scratch")
			}

			var delta bytes.Buffer
			deltaRoot, err := manifest.ComposeDelta(&delta, key, after.header, base, manifest.MissingIsZero, manifest.Sorted(records))
			must(t, err)
			deltas = append(deltas, openDelta(t, delta.Bytes()))
			overlay, err := manifest.NewOverlay(key, first, deltas...)
			must(t, err)
			if deltaRoot != root {
				t.Fatalf("root %s through a delta, %s without", deltaRoot, root)
			}
			equalViews(t, overlay, after)
			changed, err := manifest.Diff(base, overlay)
			must(t, err)
			inNew := func(e uint32) bool { return e >= after.header.Geometry.Extents() }
			if want := slices.DeleteFunc(slices.Collect(changed), inNew); !slices.Equal(want, deltas[len(deltas)-1].Changed()) {
				t.Fatalf("the delta holds extents %v, those that differ are %v", deltas[len(deltas)-1].Changed(), want)
			}

			var flat bytes.Buffer
			_, err = manifest.Flatten(&flat, key, overlay)
			must(t, err)
			if !bytes.Equal(flat.Bytes(), whole.Bytes()) {
				t.Fatalf("a flattened overlay differs from a composed manifest")
			}
			m, base = after, overlay
		}
	})
}

func TestComposeWithoutBase(t *testing.T) {
	key, h := testKey(0), header(3*manifest.ExtentSize+1, 1)
	h.KeyID = key.ID()
	g := h.Geometry
	var all []manifest.Record
	for e := range g.Extents() {
		all = append(all, recordOf(g, e, 1))
	}
	var out bytes.Buffer
	_, err := manifest.Compose(&out, key, h, nil, manifest.MissingFails, manifest.Sorted(all))
	must(t, err)
	if !bytes.Equal(out.Bytes(), buildSeeded(t, key, h, 1)) {
		t.Error("records alone make another manifest")
	}
	for missing := range all {
		_, err := manifest.Compose(&out, key, h, nil, manifest.MissingFails, manifest.Sorted(slices.Delete(slices.Clone(all), missing, missing+1)))
		wantError(t, err, manifest.ErrMissing)
	}
	_, err = manifest.Compose(&out, key, h, nil, manifest.MissingFails, nil)
	wantError(t, err, manifest.ErrMissing)
	out.Reset()
	_, err = manifest.Compose(&out, key, h, nil, manifest.MissingIsZero, manifest.Sorted(all[1:2]))
	must(t, err)
	zero := key.NewHasher()
	equalViews(t, open(t, out.Bytes()), model{h, [][]manifest.Digest{zero.ZeroBlocks(g, 0), all[1].Blocks, zero.ZeroBlocks(g, 2), zero.ZeroBlocks(g, 3)}})
}

func TestComposeRefusesBadChanges(t *testing.T) {
	key, h := testKey(0), header(2*manifest.ExtentSize, 2)
	base := open(t, buildSeeded(t, key, header(2*manifest.ExtentSize, 1), 1))
	cause := errors.New("the journal cannot be read")
	yields := func(records []manifest.Record, err error) manifest.Changes {
		return func(yield func(manifest.Record, error) bool) {
			for _, r := range records {
				if !yield(r, nil) {
					return
				}
			}
			if err != nil {
				yield(manifest.Record{}, err)
			}
		}
	}
	r := func(e uint32) manifest.Record {
		return recordOf(manifest.Geometry{Size: 4 * manifest.ExtentSize}, e, 2)
	}
	for name, c := range map[string]struct {
		changes manifest.Changes
		want    error
	}{
		"an error":     {yields([]manifest.Record{r(0)}, cause), cause},
		"descending":   {yields([]manifest.Record{r(1), r(0)}, nil), manifest.ErrInvalid},
		"beyond":       {yields([]manifest.Record{r(1), r(3)}, nil), manifest.ErrInvalid},
		"short record": {yields([]manifest.Record{{Extent: 1, Blocks: r(1).Blocks[:63]}}, nil), manifest.ErrInvalid},
		"empty record": {yields([]manifest.Record{{Extent: 1}}, nil), manifest.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := manifest.Compose(&bytes.Buffer{}, key, h, base, manifest.MissingFails, c.changes)
			wantError(t, err, c.want)
			_, err = manifest.ComposeDelta(&bytes.Buffer{}, key, h, base, manifest.MissingFails, c.changes)
			wantError(t, err, c.want)
		})
	}
}

func TestGrownDiskNeedsItsNewExtents(t *testing.T) {
	key := testKey(0)
	base := open(t, buildSeeded(t, key, header(manifest.ExtentSize+1, 1), 1))
	h := header(2*manifest.ExtentSize+1, 2)
	for _, have := range [][]uint32{nil, {1}, {2}} {
		var records []manifest.Record
		for _, e := range have {
			records = append(records, recordOf(h.Geometry, e, 2))
		}
		for _, compose := range []func() error{
			func() error {
				_, err := manifest.Compose(&bytes.Buffer{}, key, h, base, manifest.MissingFails, manifest.Sorted(records))
				return err
			},
			func() error {
				_, err := manifest.ComposeDelta(&bytes.Buffer{}, key, h, base, manifest.MissingFails, manifest.Sorted(records))
				return err
			},
			func() error {
				w, err := manifest.NewDeltaWriter(&bytes.Buffer{}, key, h, base)
				must(t, err)
				for _, r := range records {
					if err := w.Add(r); err != nil {
						return err
					}
				}
				_, err = w.Close()
				return err
			},
		} {
			wantError(t, compose(), manifest.ErrMissing)
		}
	}
}

func TestBrokenChainsAreRefused(t *testing.T) {
	key, size := testKey(0), int64(2*manifest.ExtentSize)
	first := open(t, buildSeeded(t, key, header(size, 1), 1))
	step := func(base manifest.View, generation byte, seed uint64) *manifest.Delta {
		var out bytes.Buffer
		_, err := manifest.ComposeDelta(&out, key, header(size, generation), base, manifest.MissingFails,
			manifest.Sorted([]manifest.Record{recordOf(base.Header().Geometry, 1, seed)}))
		must(t, err)
		return openDelta(t, out.Bytes())
	}
	second := step(first, 2, 2)
	over, err := manifest.NewOverlay(key, first, second)
	must(t, err)
	third := step(over, 3, 3)
	_, err = manifest.NewOverlay(key, first, second, third)
	must(t, err)
	sameContent := open(t, buildSeeded(t, key, header(size, 9), 1))
	sameGeneration := open(t, buildSeeded(t, key, header(size, 1), 9))
	for _, c := range []struct {
		base   manifest.View
		deltas []*manifest.Delta
	}{
		{first, []*manifest.Delta{third}},
		{first, []*manifest.Delta{third, second}},
		{first, []*manifest.Delta{second, second}},
		{sameContent, []*manifest.Delta{second}},
		{sameGeneration, []*manifest.Delta{second}},
	} {
		_, err := manifest.NewOverlay(key, c.base, c.deltas...)
		wantError(t, err, manifest.ErrBase)
	}
	for _, wrong := range []manifest.Key{testKey(1), {}} {
		_, err = manifest.NewOverlay(wrong, first, second)
		wantError(t, err, manifest.ErrKey)
		_, err = manifest.Compose(&bytes.Buffer{}, wrong, header(size, 2), first, manifest.MissingFails, nil)
		wantError(t, err, manifest.ErrKey)
	}
	_, err = manifest.ComposeDelta(&bytes.Buffer{}, key, header(size, 1), first, manifest.MissingFails, nil)
	wantError(t, err, manifest.ErrInvalid)
}

// TestDamagedBaseIsNotTakenOver: a record whose checksum was made right, but not its keyed digest.
func TestDamagedBaseIsNotTakenOver(t *testing.T) {
	key, size := testKey(0), int64(2*manifest.ExtentSize)
	base := open(t, clone(clone(buildSeeded(t, key, header(size, 1), 1), func(p []byte) { p[112+12]++ }), reseal))
	_, err := manifest.Compose(&bytes.Buffer{}, key, header(size, 2), base, manifest.MissingFails, nil)
	wantError(t, err, manifest.ErrCorrupt)
	// An extent that was written anew does not need the damaged record.
	_, err = manifest.Compose(&bytes.Buffer{}, key, header(size, 2), base, manifest.MissingFails,
		manifest.Sorted([]manifest.Record{recordOf(base.Header().Geometry, 0, 2)}))
	must(t, err)
}

func TestLaterRecordsWin(t *testing.T) {
	key, h := testKey(0), header(2*manifest.ExtentSize, 1)
	var records []manifest.Record
	for seed := range uint64(100) {
		records = append(records, recordOf(h.Geometry, uint32(seed%2), seed/2))
	}
	var out bytes.Buffer
	_, err := manifest.Compose(&out, key, h, nil, manifest.MissingFails, manifest.Sorted(records))
	must(t, err)
	if !bytes.Equal(out.Bytes(), buildSeeded(t, key, h, 49)) {
		t.Error("an earlier record won")
	}
}

func TestDeltaWriterRefusesWhatDoesNotFit(t *testing.T) {
	key, size := testKey(0), int64(3*manifest.ExtentSize)
	base := open(t, buildSeeded(t, key, header(size, 1), 1))
	g := base.Header().Geometry
	var out bytes.Buffer
	w, err := manifest.NewDeltaWriter(&out, key, header(size, 2), base)
	must(t, err)
	must(t, w.Add(recordOf(g, 1, 1))) // as the base has it
	for _, r := range []manifest.Record{recordOf(g, 0, 2), recordOf(g, 1, 2), {Extent: 2}, {Extent: 3, Blocks: recordOf(g, 2, 2).Blocks}} {
		wantError(t, w.Add(r), manifest.ErrInvalid)
	}
	must(t, w.Add(recordOf(g, 2, 2)))
	_, err = w.Close()
	must(t, err)
	if got := openDelta(t, out.Bytes()).Changed(); !slices.Equal(got, []uint32{2}) {
		t.Errorf("the delta holds extents %v", got)
	}

	out.Reset()
	w, err = manifest.NewDeltaWriter(&out, key, header(size, 2), base)
	must(t, err)
	root, err := w.Close()
	must(t, err)
	length := out.Len()
	if w.Add(recordOf(g, 2, 2)) == nil || root != base.Root() {
		t.Error("a closed writer goes on, or nothing changed the root")
	}
	if _, err = w.Close(); err == nil || out.Len() != length {
		t.Error("a delta was closed twice")
	}
}

func TestDiff(t *testing.T) {
	key := testKey(0)
	a := open(t, buildSeeded(t, key, header(3*manifest.ExtentSize, 1), 1))
	b := open(t, buildSeeded(t, key, header(4*manifest.ExtentSize, 2), 1))
	for _, pair := range [][2]manifest.View{{a, b}, {b, a}} {
		extents, err := manifest.Diff(pair[0], pair[1])
		must(t, err)
		if got := slices.Collect(extents); !slices.Equal(got, []uint32{3}) {
			t.Errorf("extents %v differ", got)
		}
	}
	_, err := manifest.Diff(a, open(t, buildSeeded(t, testKey(1), header(3*manifest.ExtentSize, 1), 1)))
	wantError(t, err, manifest.ErrKey)
	blocks := recordOf(a.Header().Geometry, 0, 1).Blocks
	for i := range blocks {
		other := slices.Clone(blocks)
		other[i] = manifest.Digest{}
		if got := manifest.DiffBlocks(blocks, other); got != 1<<i {
			t.Errorf("block %d differs, the bitmap is %b", i, got)
		}
	}
	if manifest.DiffBlocks(blocks, blocks) != 0 || manifest.DiffBlocks(blocks[:62], blocks) != 3<<62 || manifest.DiffBlocks(blocks, nil) != 1<<64-1 {
		t.Error("lengths do not count")
	}
}

func TestViewsServeSeveralGoroutines(t *testing.T) {
	base, delta := smallFiles(t)
	r := open(t, base)
	must(t, r.Verify(testKey(0)))
	o, err := manifest.NewOverlay(testKey(0), r, openDelta(t, delta))
	must(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range 50 {
				for _, v := range []manifest.View{r, o} {
					if _, err := v.BlockDigests(uint32(n % 2)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}
