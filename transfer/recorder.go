package transfer

import (
	"context"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/manifest"
)

// maxRecords bounds the records that wait to become durable or to be taken
// (2 KiB each). At most runAhead of them are not durable, so that whoever waits
// for room waits for the RecordFunc, never for the conversation.
const maxRecords = 2048

// recorder holds the digests of extents that differ from the known manifest
// until they are durable, and then hands them to a RecordFunc, in order. A nil
// recorder records nothing.
type recorder struct {
	known []manifest.Digest
	fn    RecordFunc
	start uint32 // what lies below was recorded before

	mu        sync.Mutex
	waiting   []manifest.Record
	watermark uint32
	told      uint32 // what lies below was taken
	finished  bool
	changed   chan struct{} // closed and replaced at every change
}

func newRecorder(known []manifest.Digest, fn RecordFunc, start uint32) *recorder {
	if fn == nil {
		return nil
	}
	return &recorder{known: known, fn: fn, start: start, watermark: start, told: start, changed: make(chan struct{})}
}

// during hands out records while stages run. When they fail it hands out what is
// durable all the same, for as long as the caller's context lasts: another attempt
// goes on from there.
func (r *recorder) during(ctx context.Context, stages func(context.Context) error) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var handing sync.WaitGroup
	var failed error
	handing.Go(func() {
		if failed = r.guarded(ctx); failed != nil {
			cancel(failed)
		}
	})
	err := stages(inner)
	r.finish()
	handing.Wait()
	if err != nil {
		return err
	}
	return failed
}

func (r *recorder) guarded(ctx context.Context) (err error) {
	defer guard(&err)
	return r.run(ctx)
}

// taken is how much of what is durable was recorded too.
func (r *recorder) taken(durable uint32) uint32 {
	if r == nil {
		return durable
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return min(durable, r.told)
}

// wake tells all who wait that something changed. r.mu is held.
func (r *recorder) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// add takes an extent's digests; it waits while too many records are held. The
// slice must not change afterwards.
func (r *recorder) add(ctx context.Context, number uint32, digest manifest.Digest, blocks []manifest.Digest) error {
	if r == nil || number < r.start || (r.known != nil && r.known[number] == digest) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.waiting) >= maxRecords {
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
	r.waiting = append(r.waiting, manifest.Record{Extent: number, Blocks: blocks})
	return nil
}

// addExtent is add for an extent whose block digests may not be loaded; they are
// when it differs.
func (r *recorder) addExtent(ctx context.Context, e *extent) error {
	if r == nil || (r.known != nil && r.known[e.number] == e.digest) {
		return nil
	}
	if err := e.load(ctx); err != nil {
		return err
	}
	return r.add(ctx, e.number, e.digest, e.blocks)
}

// wait releases r.mu until something changes.
func (r *recorder) wait(ctx context.Context) error {
	changed := r.changed
	r.mu.Unlock()
	defer r.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// advance says that every extent below watermark is durable and was added.
func (r *recorder) advance(watermark uint32) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if watermark > r.watermark {
		r.watermark = watermark
		r.wake()
	}
}

// finish says that nothing follows.
func (r *recorder) finish() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finished = true
	r.wake()
}

// run hands out what is durable until finish was called and everything below
// the watermark is taken.
func (r *recorder) run(ctx context.Context) error {
	if r == nil {
		return nil
	}
	for {
		r.mu.Lock()
		for r.watermark == r.told && !r.finished {
			if err := r.wait(ctx); err != nil {
				r.mu.Unlock()
				return err
			}
		}
		watermark := r.watermark
		if watermark == r.told {
			r.mu.Unlock()
			return nil
		}
		// An untrusted receiver settles extents out of order.
		slices.SortFunc(r.waiting, func(a, b manifest.Record) int { return int(a.Extent) - int(b.Extent) })
		n, _ := slices.BinarySearchFunc(r.waiting, watermark, func(rec manifest.Record, w uint32) int { return int(rec.Extent) - int(w) })
		durable := slices.Clone(r.waiting[:n])
		r.waiting = slices.Delete(r.waiting, 0, n)
		r.mu.Unlock()

		if err := r.fn(ctx, watermark, durable); err != nil {
			return err
		}
		r.mu.Lock()
		r.told = watermark
		r.wake()
		r.mu.Unlock()
	}
}
