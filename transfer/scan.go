package transfer

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/manifest"
)

// scan reads the target, at most scanWindow extents beyond PASSED, and tells the
// sender what it holds.
func (r *receiver) scan(ctx context.Context) error {
	batch := baseline{first: r.from, digests: make([]manifest.Digest, 0, baselineBatch)}
	flush := func() error {
		if len(batch.digests) == 0 {
			return nil
		}
		err := r.Conn.WriteFrame(ctx, typeBaseline, batch.append(nil))
		batch = baseline{first: batch.first + uint32(len(batch.digests)), digests: batch.digests[:0]}
		return err
	}
	h := r.Key.NewHasher()
	survey := surveyor{next: r.from}
	err := scanExtents(ctx, r.Target, r.geometry, r.from, r.Key, r.Tuning, r.progress, r.assumed, true, func(e *extent) error {
		r.seen.putExtent(e, ^uint64(0), firstBlock(e.number), firstBlock(r.settledBelow()))
		r.sight(survey.survey(e, 0), firstBlock(r.settledBelow()))
		e.sums = nil
		err := r.match(ctx, e, h)
		e.release()
		if err != nil {
			return err
		}
		for r.ahead(e.number) >= scanWindow {
			if err := flush(); err != nil {
				return err
			}
			select {
			case <-r.passOn:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		r.mu.Lock()
		r.scanned[e.number] = e
		r.mu.Unlock()
		batch.digests = append(batch.digests, e.digest)
		if len(batch.digests) == baselineBatch {
			return flush()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("scan the target: %w", err)
	}
	r.searchOver()
	return flush()
}

// settledBelow is the extent below which what the target holds does not change
// any more, but for what is on its way.
func (r *receiver) settledBelow() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reached
}

// ahead is how far beyond PASSED an extent lies.
func (r *receiver) ahead(number uint32) uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return number - min(number, r.passed)
}
