package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// extent is one extent as read and hashed. Its digests stay; its data is given
// back when the last holder releases it.
type extent struct {
	number uint32
	blocks []manifest.Digest
	zero   uint64 // blocks that are all zero
	digest manifest.Digest

	hashed  chan struct{}
	holders atomic.Int32
	chunks  []*blockio.Chunk
}

// release gives up one hold on the data.
func (e *extent) release() {
	if e.holders.Add(-1) == 0 {
		for _, c := range e.chunks {
			c.Release()
		}
		e.chunks = nil
	}
}

// block returns the data of block b. The caller holds the extent.
func (e *extent) block(b int) []byte {
	const perChunk = blockio.RequestSize / manifest.BlockSize
	data := e.chunks[b/perChunk].Data
	off := b % perChunk * manifest.BlockSize
	return data[off:min(off+manifest.BlockSize, len(data))]
}

// buffers splits the memory of one end in 1 MiB buffers: a scanner fills up to
// 3/2 × depth of them, one extent is being gathered and one for each hashing
// goroutine hashed, and the rest may be kept for blocks that are asked for later.
func (t Tuning) buffers(hashers int) (total, depth, keep int) {
	memory := t.Memory
	if memory == 0 {
		memory = DefaultMemory
	}
	total = int(min(max(memory, MinMemory), DefaultMemory) / blockio.RequestSize)
	const perExtent = manifest.ExtentSize / blockio.RequestSize
	depth = t.QueueDepth
	if depth == 0 {
		depth = 16
	}
	depth = max(1, min(depth, total/3))
	return total, depth, max(1, (total-depth*3/2)/perExtent-hashers-1)
}

// scarce tells whether a transfer shares its process's memory with others.
func scarce(memory int64) bool { return memory != 0 && memory < DefaultMemory/2 }

// hashers is how many goroutines hash for one disk.
func hashers() int { return max(1, runtime.GOMAXPROCS(0)) }

// scanExtents reads a disk up to its logical size, in order, and hashes on all
// cores. It calls visit for each extent in order; visit owns one hold on it.
//
//	disk ─ reads in flight ─> extents ─> hashers ─> in order ─> visit
func scanExtents(ctx context.Context, src Source, g manifest.Geometry, key manifest.Key, t Tuning, p *Progress, visit func(*extent) error) error {
	workers := hashers()
	buffers, depth, _ := t.buffers(workers)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	group, ctx := newGroup(ctx)
	scanner := blockio.NewScanner(ctx, src, blockio.ScanOptions{
		QueueDepth: depth, Pool: blockio.NewPool(buffers), End: g.Size,
	})
	todo := make(chan *extent)
	ordered := make(chan *extent, workers)

	group.Go(func() error {
		defer close(todo)
		defer close(ordered)
		for number := range g.Extents() {
			e, err := nextExtent(scanner, number, p)
			if err != nil {
				return err
			}
			select {
			case todo <- e:
			case <-ctx.Done():
				e.release()
				return context.Cause(ctx)
			}
			select {
			case ordered <- e:
			case <-ctx.Done():
				<-e.hashed
				e.release()
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range workers {
		group.Go(func() error {
			h := key.NewHasher()
			for e := range todo {
				start := time.Now()
				e.hash(h, g)
				p.spend(StageHash, start)
			}
			return nil
		})
	}
	group.Go(func() error {
		var failed error
		for e := range ordered {
			<-e.hashed
			if failed != nil || ctx.Err() != nil {
				e.release()
				continue
			}
			if failed = visit(e); failed != nil {
				cancel(failed) // reading stops; what is on its way is drained here
			}
		}
		return failed
	})
	return errors.Join(group.Wait(), scanner.Close())
}

// nextExtent gathers the chunks of one extent.
func nextExtent(s *blockio.Scanner, number uint32, p *Progress) (*extent, error) {
	e := &extent{number: number, hashed: make(chan struct{})}
	e.holders.Store(1)
	for length := 0; length < manifest.ExtentSize; {
		start := time.Now()
		c, err := s.Next()
		p.spend(StageRead, start)
		if errors.Is(err, io.EOF) && length > 0 {
			break
		}
		if err != nil {
			e.release()
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read extent %d: %w", number, err)
		}
		e.chunks = append(e.chunks, c)
		length += len(c.Data)
		p.read.Add(int64(len(c.Data)))
	}
	return e, nil
}

func (e *extent) hash(h *manifest.Hasher, g manifest.Geometry) {
	e.blocks = make([]manifest.Digest, g.BlocksIn(e.number))
	for b := range e.blocks {
		if data := e.block(b); manifest.IsZero(data) {
			e.zero |= 1 << b
			e.blocks[b] = h.ZeroBlock(len(data))
		} else {
			e.blocks[b] = h.Block(data)
		}
	}
	e.digest = h.Extent(e.blocks)
	close(e.hashed)
}

// Scan reads and hashes a disk and returns its root. Extents that differ from
// spec.Known go to spec.Records.
func Scan(ctx context.Context, spec ScanSpec) (manifest.Digest, error) {
	g := manifest.Geometry{Size: spec.Size}
	p := orNew(spec.Progress)
	if err := checkKnown(g, spec.Known); err != nil {
		return manifest.Digest{}, err
	}
	p.size.Store(spec.Size)
	root := spec.Key.NewRoot(g)
	rec := newRecorder(spec.Known, spec.Records)
	group, ctx := newGroup(ctx)
	group.Go(func() error { return rec.run(ctx) })
	group.Go(func() error {
		defer rec.finish()
		return scanExtents(ctx, spec.Source, g, spec.Key, spec.Tuning, p, func(e *extent) error {
			defer e.release()
			root.Add(e.digest)
			if err := rec.add(ctx, e.number, e.digest, e.blocks); err != nil {
				return err
			}
			rec.advance(e.number + 1)
			_, length := g.ExtentRange(e.number)
			p.processed.Add(int64(length))
			return nil
		})
	})
	if err := group.Wait(); err != nil {
		return manifest.Digest{}, err
	}
	return root.Sum()
}

func orNew(p *Progress) *Progress {
	if p == nil {
		return new(Progress)
	}
	return p
}

// checkKnown refuses a baseline of another geometry.
func checkKnown(g manifest.Geometry, known []manifest.Digest) error {
	if err := g.Validate(); err != nil {
		return err
	}
	if known != nil && len(known) != int(g.Extents()) {
		return fmt.Errorf("%w: a manifest of %d extents does not fit a disk of %d bytes (%d extents)", ErrTask, len(known), g.Size, g.Extents())
	}
	return nil
}
