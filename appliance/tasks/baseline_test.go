package tasks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
)

// disk is the digests of a disk of three extents.
func disk(t testing.TB) (g manifest.Geometry, key manifest.Key, body []byte, list []manifest.Record) {
	t.Helper()
	key, err := manifest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	g = manifest.Geometry{Size: 2*manifest.ExtentSize + 1}
	h := key.NewHasher()
	for e := range g.Extents() {
		r := manifest.Record{Extent: e}
		for b := range g.BlocksIn(e) {
			r.Blocks = append(r.Blocks, manifest.Digest{byte(e), byte(b)})
		}
		digest := h.Extent(r.Blocks)
		body = append(body, digest[:]...)
		list = append(list, r)
	}
	return g, key, body, list
}

func filled(t *testing.T, patience time.Duration) (*baseline, []manifest.Record) {
	t.Helper()
	g, key, body, list := disk(t)
	b := newBaseline(newTable(g.Extents()), g, key, patience)
	if err := b.fill(bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	return b, list
}

func TestTableIsFilledOnce(t *testing.T) {
	g, _, body, _ := disk(t)
	table := newTable(g.Extents())
	torn := io.MultiReader(bytes.NewReader(body[:40]), iotest.ErrReader(errors.New("cut")))
	if err := table.fill(torn); err == nil || !strings.Contains(err.Error(), "cut") {
		t.Errorf("torn body: %v", err)
	}
	select {
	case <-table.ready:
		t.Error("a torn body made the table complete")
	default:
	}
	for range 2 {
		if err := table.fill(iotest.OneByteReader(bytes.NewReader(body))); err != nil {
			t.Fatal(err)
		}
	}
	<-table.ready
	other := slices.Clone(body)
	other[33]++
	var answer *control.Error
	if err := table.fill(bytes.NewReader(other)); !errors.As(err, &answer) || answer.Code != control.CodeConflict {
		t.Errorf("another body: %v, want conflict", err)
	}
	if digests := table.digests(); !bytes.Equal(digests[1][:], body[32:64]) {
		t.Error("the other body changed the table")
	}
	table.drop()
	if err := table.fill(bytes.NewReader(body)); err == nil || table.digests() != nil {
		t.Errorf("after the task's end: %v, and %d digests", err, len(table.digests()))
	}
}

func TestBlocksArrive(t *testing.T) {
	b, list := filled(t, time.Minute)
	b.Prefetch(2, 0)
	b.Prefetch(0)
	ended := make(chan struct{})
	page := b.list(t.Context(), 0, ended)
	if !slices.Equal(page.Extents, []uint32{2, 0}) {
		t.Fatalf("wanted is %v, want 2 and 0 in their order", page.Extents)
	}
	b.Prefetch(1)
	if later := b.list(t.Context(), page.Sequence, ended); !slices.Equal(later.Extents, []uint32{1}) {
		t.Errorf("later wanted is %v, want 1", later.Extents)
	}
	if all := b.list(t.Context(), 0, ended); !slices.Equal(all.Extents, []uint32{2, 0, 1}) {
		t.Errorf("all wanted is %v", all.Extents)
	}
	if err := b.put(list); err != nil {
		t.Fatal(err)
	}
	for _, want := range list {
		blocks, err := b.Blocks(t.Context(), want.Extent)
		if err != nil || !slices.Equal(blocks, want.Blocks) {
			t.Errorf("blocks of extent %d: %v", want.Extent, err)
		}
	}
	close(ended)
	if rest := b.list(t.Context(), 0, ended); len(rest.Extents) != 0 {
		t.Errorf("still wanted: %v", rest.Extents)
	}
	// Nobody waits for these: they are not kept.
	if err := b.put(list); err != nil || len(b.arrived) != 0 {
		t.Errorf("%d unwanted digests kept, %v", len(b.arrived), err)
	}
}

// One wrong record spoils the whole request.
func TestBlocksAreChecked(t *testing.T) {
	b, list := filled(t, time.Minute)
	b.Prefetch(0, 1)
	wrong := manifest.Record{Extent: 1, Blocks: slices.Clone(list[1].Blocks)}
	wrong.Blocks[63][31] ^= 1
	var answer *control.Error
	if err := b.put([]manifest.Record{list[0], wrong}); !errors.As(err, &answer) || answer.Code != control.CodeMismatch {
		t.Errorf("error is %v, want mismatch", err)
	}
	if len(b.arrived) != 0 || len(b.wanted) != 2 {
		t.Errorf("%d arrived, %d wanted", len(b.arrived), len(b.wanted))
	}
}

func TestBlocksAreWaitedFor(t *testing.T) {
	b, list := filled(t, time.Minute)
	got := make(chan []manifest.Digest)
	go func() {
		blocks, _ := b.Blocks(context.Background(), 1)
		got <- blocks
	}()
	if page := b.list(t.Context(), 0, nil); !slices.Equal(page.Extents, []uint32{1}) {
		t.Fatalf("wanted is %v", page.Extents)
	}
	if err := b.put(list[1:2]); err != nil {
		t.Fatal(err)
	}
	if blocks := <-got; !slices.Equal(blocks, list[1].Blocks) {
		t.Error("blocks are wrong")
	}
}

func TestPatienceEnds(t *testing.T) {
	b, _ := filled(t, 10*time.Millisecond)
	if _, err := b.Blocks(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "extent 1") {
		t.Errorf("error is %v, want one that names the extent", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errCancelled)
	if _, err := b.Blocks(ctx, 1); !errors.Is(err, errCancelled) {
		t.Errorf("error is %v, want the cause", err)
	}
}

func FuzzTable(f *testing.F) {
	_, _, body, _ := disk(f)
	f.Add(body)
	f.Add(body[:31])
	f.Fuzz(func(t *testing.T, body []byte) {
		table := newTable(3)
		err := table.fill(bytes.NewReader(body))
		if (err == nil) != (len(body) >= 96) {
			t.Errorf("a body of %d bytes: %v", len(body), err)
		}
	})
}
