package manifest_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/manifest"
)

func openJournal(data []byte, durable int, g manifest.Geometry) (*manifest.Journal, error) {
	return manifest.OpenJournal(bytes.NewReader(data), int64(len(data)), int64(durable), g)
}

func collect(t fatal, changes manifest.Changes) (records []manifest.Record) {
	t.Helper()
	for r, err := range changes {
		must(t, err)
		records = append(records, r)
	}
	return records
}

// TestTornJournalIsReadToTheLastWholeRecord cuts random journals anywhere, with garbage after the cut or not.
func TestTornJournalIsReadToTheLastWholeRecord(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := manifest.Geometry{Size: sizes().Draw(t, "size")}
		var data []byte
		ends := []int{0}
		var written []manifest.Record
		for n := range rapid.IntRange(0, 8).Draw(t, "records") {
			r := recordOf(g, rapid.Uint32Range(0, g.Extents()-1).Draw(t, "extent"), uint64(n))
			data = manifest.AppendRecord(data, r)
			written = append(written, r)
			ends = append(ends, len(data))
		}
		cut := rapid.IntRange(0, len(data)).Draw(t, "cut")
		torn := append(bytes.Clone(data[:cut]), rapid.SampledFrom([][]byte{nil, make([]byte, 5000), []byte("USR1garbage")}).Draw(t, "tail")...)
		whole := 0 // records; the tail may happen to complete one
		for whole+1 < len(ends) && bytes.HasPrefix(torn, data[:ends[whole+1]]) {
			whole++
		}
		j, err := openJournal(torn, ends[whole], g)
		must(t, err)
		if j.Whole() != int64(ends[whole]) || (j.Torn() == nil) != (len(torn) == ends[whole]) {
			t.Fatalf("cut at %d of %v: whole up to %d, torn: %v", cut, ends, j.Whole(), j.Torn())
		}
		if j.Torn() != nil {
			wantError(t, j.Torn(), manifest.ErrCorrupt)
		}
		want := make(map[uint32]manifest.Record)
		for _, r := range written[:whole] {
			want[r.Extent] = r
		}
		got := collect(t, j.Records())
		if len(got) != len(want) || len(j.Extents()) != len(want) {
			t.Fatalf("%d records of %d extents", len(got), len(want))
		}
		for i, r := range got {
			if !slices.Equal(r.Blocks, want[r.Extent].Blocks) || r.Extent != j.Extents()[i] || i > 0 && got[i-1].Extent >= r.Extent {
				t.Fatalf("record %d is not the last one of extent %d", i, r.Extent)
			}
		}
		if ends[whole] < len(torn) {
			_, err = openJournal(torn, ends[whole]+1, g)
			wantError(t, err, manifest.ErrCorrupt)
		}
	})
}

func TestDamageInTheDurablePartOfAJournalIsAnError(t *testing.T) {
	g := manifest.Geometry{Size: 2*manifest.ExtentSize + 1}
	data := manifest.AppendRecord(nil, recordOf(g, 2, 1))
	first := len(data)
	data = manifest.AppendRecord(data, recordOf(g, 1, 1))
	for bit := range 8 * first {
		p := clone(data, func(p []byte) { p[bit/8] ^= 1 << (bit % 8) })
		_, err := openJournal(p, first, g)
		wantError(t, err, manifest.ErrCorrupt)
		j, err := openJournal(p, 0, g)
		must(t, err)
		if j.Torn() == nil || j.Whole() != 0 || len(j.Extents()) != 0 {
			t.Fatalf("bit %d: whole up to %d", bit, j.Whole())
		}
	}
	_, err := openJournal(data, len(data)+1, g)
	wantError(t, err, manifest.ErrTruncated)
	// Whole records of another disk are a mix-up, not a torn tail.
	for _, size := range []int64{manifest.ExtentSize, 2*manifest.ExtentSize + manifest.BlockSize + 1} {
		_, err := openJournal(data, 0, manifest.Geometry{Size: size})
		wantError(t, err, manifest.ErrInvalid)
	}
	_, err = openJournal(data, 0, manifest.Geometry{})
	wantError(t, err, manifest.ErrInvalid)
}

func TestJournalPassesOnErrorsOfTheStorage(t *testing.T) {
	g := manifest.Geometry{Size: manifest.ExtentSize}
	data := manifest.AppendRecord(nil, recordOf(g, 0, 1))
	cause := errors.New("the disk is gone")
	_, err := manifest.OpenJournal(brokenReaderAt{bytes.NewReader(data), 0, cause}, int64(len(data)), 0, g)
	wantError(t, err, cause)

	shared := bytes.Clone(data)
	j, err := openJournal(shared, len(shared), g)
	must(t, err)
	shared[20]++
	for _, err := range j.Records() {
		wantError(t, err, manifest.ErrCorrupt)
	}
	clear(shared)
	copy(shared, manifest.AppendRecord(nil, recordOf(manifest.Geometry{Size: 2 * manifest.ExtentSize}, 1, 1)))
	for _, err := range j.Records() {
		wantError(t, err, manifest.ErrCorrupt)
	}
}

func TestReadRecordReadsExactlyOne(t *testing.T) {
	g := manifest.Geometry{Size: manifest.ExtentSize + 1}
	var data []byte
	for e := range uint32(2) {
		data = manifest.AppendRecord(data, recordOf(g, e, 1))
	}
	in := bytes.NewReader(data)
	for e := range uint32(2) {
		r, err := manifest.ReadRecord(in)
		must(t, err)
		if r.Extent != e || !slices.Equal(r.Blocks, recordOf(g, e, 1).Blocks) {
			t.Errorf("record %d is %+v", e, r)
		}
	}
	if _, err := manifest.ReadRecord(in); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	empty := []byte("USR1\x00\x00\x00\x00\x00\x00\x00\x00")
	_, err := manifest.ReadRecord(bytes.NewReader(append(empty, checksum(empty)...)))
	wantError(t, err, manifest.ErrCorrupt)
	for n := 1; n < len(data)-2076; n++ {
		_, err := manifest.ReadRecord(bytes.NewReader(data[2076 : 2076+n]))
		wantError(t, err, manifest.ErrTruncated)
	}
}
