package tasks

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
)

func record(extent uint32) manifest.Record {
	return manifest.Record{Extent: extent, Blocks: []manifest.Digest{{byte(extent)}}}
}

func records(from, to uint32) (list []manifest.Record) {
	for e := from; e < to; e++ {
		list = append(list, record(e))
	}
	return list
}

// A reader that loses answers and asks again sees every record once it goes on, and never a watermark ahead of its records.
func TestJournalLosesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := newJournal()
		var written, got []uint32
		watermark, after := uint32(0), int64(0)
		ended := false
		read := func() {
			page, err := j.page(cancelled(), after, rapid.IntRange(1, 300).Draw(t, "max"))
			if err != nil {
				t.Fatal(err)
			}
			seen := slices.Clone(got)
			for _, r := range page.Records {
				seen = append(seen, r.Extent)
			}
			if page.Sequence != int64(len(seen)) {
				t.Fatalf("sequence %d after %d records", page.Sequence, len(seen))
			}
			for _, e := range written {
				if e < page.Watermark && !slices.Contains(seen, e) {
					t.Fatalf("watermark %d without the record of extent %d", page.Watermark, e)
				}
			}
			if page.End != (ended && len(seen) == len(written)) {
				t.Fatalf("end %v with %d of %d records", page.End, len(seen), len(written))
			}
			if page.End && page.Watermark != watermark {
				t.Fatalf("watermark %d at the end, want %d", page.Watermark, watermark)
			}
			if rapid.Bool().Draw(t, "received") {
				got, after = seen, page.Sequence
			}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "write") {
				next := watermark + rapid.Uint32Range(1, 5).Draw(t, "extents")
				var batch []manifest.Record
				for e := watermark; e < next; e++ {
					if rapid.Bool().Draw(t, "differs") {
						batch = append(batch, record(e))
						written = append(written, e)
					}
				}
				if err := j.add(t.Context(), next, batch); err != nil {
					t.Fatal(err)
				}
				watermark = next
			}
			read()
		}
		j.end()
		ended = true
		for len(got) < len(written) {
			read()
		}
		if !slices.Equal(got, written) {
			t.Fatalf("read %v, want %v", got, written)
		}
	})
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// The writer waits for acknowledgements, even within one batch, and goes on with them.
func TestJournalHoldsTheWriter(t *testing.T) {
	j := newJournal()
	written := make(chan error, 1)
	const count = maxUnacknowledged + 50
	go func() { written <- j.add(t.Context(), count, records(0, count)) }()
	page, err := j.page(t.Context(), 0, 1<<30)
	for err == nil && len(page.Records) < maxUnacknowledged {
		page, err = j.page(t.Context(), 0, 1<<30)
	}
	if err != nil || len(page.Records) != maxUnacknowledged || page.Watermark != 0 {
		t.Fatalf("journal has %d records, watermark %d, %v", len(page.Records), page.Watermark, err)
	}
	select {
	case err := <-written:
		t.Fatalf("the writer was not held: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if _, err := j.page(t.Context(), 50, 1); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	page, err = j.page(t.Context(), 50, 1<<30)
	if err != nil || page.Sequence != count || page.Watermark != count {
		t.Errorf("page is up to %d, watermark %d, %v, want %d", page.Sequence, page.Watermark, err, count)
	}
}

func TestJournalWriterIsCancelled(t *testing.T) {
	j := newJournal()
	if err := j.add(t.Context(), maxUnacknowledged, records(0, maxUnacknowledged)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errCancelled)
	if err := j.add(ctx, maxUnacknowledged+1, records(0, 1)); !errors.Is(err, errCancelled) {
		t.Errorf("error is %v, want the cause", err)
	}
}

func TestJournalBounds(t *testing.T) {
	j := newJournal()
	if err := j.add(t.Context(), 3, records(0, 3)); err != nil {
		t.Fatal(err)
	}
	if _, err := j.page(t.Context(), 2, 1); err != nil {
		t.Fatal(err)
	}
	for after, code := range map[int64]control.Code{1: control.CodeGone, 4: control.CodeInvalid} {
		var answer *control.Error
		if _, err := j.page(t.Context(), after, 1); !errors.As(err, &answer) || answer.Code != code {
			t.Errorf("after %d: %v, want %s", after, err, code)
		}
	}
}

// A reader who waits is woken by a record and by the end, not by a watermark that has hardly moved.
func TestJournalWakes(t *testing.T) {
	j := newJournal()
	pages := make(chan control.JournalPage)
	go func() {
		for after := int64(0); ; {
			page, _ := j.page(context.Background(), after, 1<<20)
			pages <- page
			if page.End {
				return
			}
			after = page.Sequence
		}
	}()
	for _, add := range []struct {
		watermark uint32
		records   []manifest.Record
	}{{5, nil}, {9, records(7, 8)}} {
		if err := j.add(t.Context(), add.watermark, add.records); err != nil {
			t.Fatal(err)
		}
	}
	if page := <-pages; len(page.Records) != 1 || page.End {
		t.Errorf("page is %+v, want one record", page)
	}
	j.end()
	if page := <-pages; !page.End || page.Watermark != 9 {
		t.Errorf("page is %+v, want the end and watermark 9", page)
	}
}

// A long stretch without records does not leave the reader's watermark behind.
func TestJournalTellsOfProgress(t *testing.T) {
	j := newJournal()
	pages := make(chan control.JournalPage)
	go func() {
		defer close(pages)
		for page := (control.JournalPage{}); !page.End; pages <- page {
			page, _ = j.page(context.Background(), 0, 1<<20)
		}
	}()
	for _, want := range []uint32{watermarkStep, 2*watermarkStep + 7} {
		for _, watermark := range []uint32{want - 1, want} {
			if err := j.add(t.Context(), watermark, nil); err != nil {
				t.Fatal(err)
			}
			if watermark < watermarkStep {
				select {
				case page := <-pages:
					t.Errorf("woken by %+v", page)
				case <-time.After(10 * time.Millisecond):
				}
			}
		}
		select {
		case page := <-pages:
			if len(page.Records) != 0 || page.End || page.Watermark < want-1 || page.Watermark > want {
				t.Errorf("page is %+v, want watermark %d", page, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("not woken by watermark %d", want)
		}
	}
	j.end()
	if page := <-pages; !page.End || page.Watermark != 2*watermarkStep+7 {
		t.Errorf("page is %+v, want the end", page)
	}
	<-pages
}

func TestRecordOverhead(t *testing.T) {
	r := record(1)
	if got := len(manifest.AppendRecord(nil, r)) - len(manifest.Digest{}); got != recordOverhead {
		t.Errorf("a record takes %d bytes beside its digests, not %d", got, recordOverhead)
	}
}
