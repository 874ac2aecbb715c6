package tasks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
)

// table holds the extent digests of one disk, sent by the orchestrator as one body.
type table struct {
	count int
	ready chan struct{} // closed when complete

	mu      sync.Mutex
	filling bool
	dropped bool              // the task has ended
	extents []manifest.Digest // nil until complete
}

func newTable(extents uint32) *table { return &table{count: int(extents), ready: make(chan struct{})} }

// digests returns the extent digests; nil when they are not complete, or dropped.
func (t *table) digests() []manifest.Digest {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.extents
}

// drop frees the memory when the task has ended.
func (t *table) drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropped, t.extents = true, nil
}

// fill reads the digests. The same body may be sent again, as after a lost answer; another one is a CodeConflict.
func (t *table) fill(body io.Reader) error {
	known, err := t.begin()
	if err != nil {
		return control.NewError(control.CodeConflict, err)
	}
	var read []manifest.Digest
	if known != nil {
		err = compareBody(known, body)
	} else {
		read, err = readBody(t.count, body)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.filling = false
	if err == nil && known == nil && !t.dropped {
		t.extents = read
		close(t.ready)
	}
	return err
}

func (t *table) begin() (known []manifest.Digest, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.dropped:
		return nil, errors.New("the task has ended")
	case t.filling:
		return nil, errors.New("these digests are being sent already: wait for that request to end")
	}
	t.filling = true
	return t.extents, nil
}

func readBody(count int, body io.Reader) ([]manifest.Digest, error) {
	extents := make([]manifest.Digest, count)
	for i := range extents {
		if _, err := io.ReadFull(body, extents[i][:]); err != nil {
			return nil, tornBody(err)
		}
	}
	return extents, nil
}

func compareBody(extents []manifest.Digest, body io.Reader) error {
	for i := range extents {
		var d manifest.Digest
		if _, err := io.ReadFull(body, d[:]); err != nil {
			return tornBody(err)
		}
		if d != extents[i] {
			return control.NewError(control.CodeConflict, fmt.Errorf("other digests were sent before; they differ at extent %d", i))
		}
	}
	return nil
}

func tornBody(err error) error {
	return control.NewError(control.CodeInvalid, fmt.Errorf("the body ended early, send it again: %w", err))
}

// baseline is a transfer.Baseline whose block digests the orchestrator sends when they are wanted.
type baseline struct {
	*table
	geometry manifest.Geometry
	key      manifest.Key
	patience time.Duration // for the orchestrator

	mu      sync.Mutex
	wanted  map[uint32]int64             // extent → number of the want, outstanding
	arrived map[uint32][]manifest.Digest // not asked for by Blocks yet
	last    int64                        // number of the newest want
	changed chan struct{}                // closed and replaced at every change
}

func newBaseline(t *table, g manifest.Geometry, key manifest.Key, patience time.Duration) *baseline {
	return &baseline{
		table: t, geometry: g, key: key, patience: patience,
		wanted: make(map[uint32]int64), arrived: make(map[uint32][]manifest.Digest), changed: make(chan struct{}),
	}
}

// Extents implements transfer.Baseline; the task has waited until they are there.
func (b *baseline) Extents() []manifest.Digest { return b.digests() }

// Prefetch implements transfer.Baseline.
func (b *baseline) Prefetch(extents ...uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range extents {
		if b.wanted[e] == 0 && b.arrived[e] == nil {
			b.last++
			b.wanted[e] = b.last
		}
	}
	b.wake()
}

// wake is called with mu held.
func (b *baseline) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// Blocks implements transfer.Baseline.
func (b *baseline) Blocks(ctx context.Context, extent uint32) ([]manifest.Digest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.patience,
		fmt.Errorf("the orchestrator did not send the block digests of extent %d within %v: check that it runs, then repeat the task", extent, b.patience))
	defer cancel()
	b.Prefetch(extent)
	for {
		b.mu.Lock()
		blocks, changed := b.arrived[extent], b.changed
		delete(b.arrived, extent)
		b.mu.Unlock()
		if blocks != nil {
			return blocks, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// gather is how long a list of wants is held back for more to join it: headers of small requests would otherwise be a good part of
// a trusted run's control bytes. The sender has many more extents under way than it finds in that time.
const gather = 10 * time.Millisecond

// list returns the outstanding wants after a number, in their order. When there are none it waits for one until ctx or the task
// ends; an empty page is no error.
func (b *baseline) list(ctx context.Context, after int64, ended <-chan struct{}) control.WantedPage {
	for {
		page, changed := b.outstanding(after)
		if len(page.Extents) > 0 {
			select {
			case <-time.After(gather):
				page, _ = b.outstanding(after)
			case <-ctx.Done():
			}
			return page
		}
		select {
		case <-changed:
		case <-ended:
			return page
		case <-ctx.Done():
			return page
		}
	}
}

func (b *baseline) outstanding(after int64) (control.WantedPage, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	page := control.WantedPage{Sequence: b.last, Extents: []uint32{}}
	for extent, number := range b.wanted {
		if number > after {
			page.Extents = append(page.Extents, extent)
		}
	}
	slices.SortFunc(page.Extents, func(x, y uint32) int { return cmp.Compare(b.wanted[x], b.wanted[y]) })
	return page, b.changed
}

// put takes block digests after checking all of them against the extent digests. Those that nobody waits for are ignored.
func (b *baseline) put(records []manifest.Record) error {
	extents := b.digests()
	if extents == nil {
		return control.NewError(control.CodeConflict, errors.New("extent digests come first, and while the task runs: PUT known or baseline"))
	}
	hasher := b.key.NewHasher()
	for _, r := range records {
		if err := b.check(hasher, extents, r); err != nil {
			return control.NewError(control.CodeMismatch, err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range records {
		if b.wanted[r.Extent] != 0 {
			delete(b.wanted, r.Extent)
			b.arrived[r.Extent] = r.Blocks
		}
	}
	b.wake()
	return nil
}

func (b *baseline) check(h *manifest.Hasher, extents []manifest.Digest, r manifest.Record) error {
	if r.Extent >= b.geometry.Extents() {
		return fmt.Errorf("extent %d: the disk has %d", r.Extent, b.geometry.Extents())
	}
	if want := b.geometry.BlocksIn(r.Extent); len(r.Blocks) != want {
		return fmt.Errorf("extent %d has %d blocks, not %d", r.Extent, want, len(r.Blocks))
	}
	if h.Extent(r.Blocks) != extents[r.Extent] {
		return fmt.Errorf("extent %d: the block digests do not belong to its extent digest; the cached manifest is inconsistent: scan the disk anew", r.Extent)
	}
	return nil
}
