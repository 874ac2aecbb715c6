package transfer

import (
	"context"
	"sync"

	"github.com/understudy-dr/understudy/manifest"
)

// baselineQueue holds the extent digests that the sink sent and the sender has
// not compared yet; the scan window bounds it. The zero value is ready.
type baselineQueue struct {
	mu      sync.Mutex
	digests []manifest.Digest
	first   uint32 // number of digests[0]
	arrived chan struct{}
}

// add takes a BASELINE, which must follow the last one without a gap.
func (q *baselineQueue) add(m baseline, g manifest.Geometry) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	next := q.first + uint32(len(q.digests))
	if m.first != next || uint32(len(m.digests)) > g.Extents()-next {
		return malformed("BASELINE", "extents %d to %d; %d is next of %d", m.first, int(m.first)+len(m.digests)-1, next, g.Extents())
	}
	if len(q.digests)+len(m.digests) > scanWindow {
		return malformed("BASELINE", "the sink scans more than %d extents ahead", scanWindow)
	}
	q.digests = append(q.digests, m.digests...)
	if q.arrived != nil {
		close(q.arrived)
		q.arrived = nil
	}
	return nil
}

// poll takes the next digest when it is there.
func (q *baselineQueue) poll() (d manifest.Digest, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.digests) == 0 {
		return d, false
	}
	d = q.digests[0]
	q.digests = q.digests[1:]
	q.first++
	return d, true
}

// next waits for the next digest.
func (q *baselineQueue) next(ctx context.Context) (manifest.Digest, error) {
	for {
		if d, ok := q.poll(); ok {
			return d, nil
		}
		q.mu.Lock()
		if len(q.digests) > 0 {
			q.mu.Unlock()
			continue
		}
		if q.arrived == nil {
			q.arrived = make(chan struct{})
		}
		arrived := q.arrived
		q.mu.Unlock()
		select {
		case <-arrived:
		case <-ctx.Done():
			return manifest.Digest{}, context.Cause(ctx)
		}
	}
}

// zeroBaseline is the content of a disk that reads as zeroes.
type zeroBaseline struct {
	geometry manifest.Geometry
	extents  []manifest.Digest

	mu     sync.Mutex
	hasher *manifest.Hasher
}

// ZeroBaseline is the baseline of a disk of size bytes that reads as zeroes,
// such as a new VDI of a format proven to do so.
func ZeroBaseline(key manifest.Key, size int64) Baseline {
	z := &zeroBaseline{geometry: manifest.Geometry{Size: size}, hasher: key.NewHasher()}
	count := z.geometry.Extents()
	z.extents = make([]manifest.Digest, count)
	whole := z.hasher.Extent(z.hasher.ZeroBlocks(manifest.Geometry{Size: manifest.ExtentSize}, 0))
	for i := range z.extents {
		z.extents[i] = whole
	}
	if count > 0 {
		z.extents[count-1] = z.hasher.Extent(z.hasher.ZeroBlocks(z.geometry, count-1))
	}
	return z
}

func (z *zeroBaseline) Extents() []manifest.Digest { return z.extents }

func (z *zeroBaseline) Prefetch(...uint32) {}

func (z *zeroBaseline) Blocks(_ context.Context, extent uint32) ([]manifest.Digest, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.hasher.ZeroBlocks(z.geometry, extent), nil
}

// viewBaseline is a manifest at hand.
type viewBaseline struct{ view manifest.View }

// ViewBaseline is the baseline of a disk whose manifest is at hand.
func ViewBaseline(v manifest.View) Baseline {
	return viewBaseline{v}
}

func (v viewBaseline) Extents() []manifest.Digest { return v.view.Extents() }

func (v viewBaseline) Prefetch(...uint32) {}

func (v viewBaseline) Blocks(_ context.Context, extent uint32) ([]manifest.Digest, error) {
	return v.view.BlockDigests(extent)
}
