package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// extent is one extent as read and hashed. Its digests stay; its data is given
// back when the last holder releases it.
type extent struct {
	number uint32
	// blocks and zero are those of an extent of which nothing was read only
	// after load.
	blocks []manifest.Digest
	zero   uint64 // blocks that are all zero
	digest manifest.Digest
	read   uint64 // blocks that were read; the others are assumed

	hashed  chan struct{}
	err     error // why it could not be hashed
	holders atomic.Int32
	chunks  []*blockio.Chunk // nil where nothing was read
	sparse  [][]byte         // in place of chunks when few blocks were read; by number

	sums    []uint32 // of the parts of what was read, where they are asked for
	assumed *assumptions
	key     manifest.Key
	mu      sync.Mutex        // held by load
	base    []manifest.Digest // those of Base, where they were needed
}

// release gives up one hold on the data.
func (e *extent) release() {
	if e.holders.Add(-1) == 0 {
		for _, c := range e.chunks {
			if c != nil {
				c.Release()
			}
		}
		for _, p := range e.sparse {
			if p != nil {
				blockPool.Put((*[manifest.BlockSize]byte)(p))
			}
		}
		e.chunks, e.sparse = nil, nil
	}
}

// blockPool holds buffers of single blocks.
var blockPool = sync.Pool{New: func() any { return new([manifest.BlockSize]byte) }}

// thin moves the data of an extent of which few blocks were read out of the
// scanner's buffers, of which each block may take one.
func (e *extent) thin() {
	if bits.OnesCount64(e.read) > manifest.BlocksPerExtent/4 {
		return
	}
	sparse := make([][]byte, len(e.blocks))
	for b := range ones(e.read) {
		sparse[b] = blockPool.Get().(*[manifest.BlockSize]byte)[:]
		copy(sparse[b], e.block(b))
	}
	for _, c := range e.chunks {
		if c != nil {
			c.Release()
		}
	}
	e.chunks, e.sparse = nil, sparse
}

// weight is the memory that the data of an extent takes, in blocks.
func (e *extent) weight() int {
	if read := bits.OnesCount64(e.read); read <= manifest.BlocksPerExtent/4 {
		return read
	}
	return manifest.BlocksPerExtent
}

// load makes sure of the block digests: those of an extent of which nothing was
// read are not asked for before somebody needs them.
func (e *extent) load(ctx context.Context) error {
	if e.read != 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.blocks != nil {
		return nil
	}
	h := e.key.NewHasher()
	_, base, _ := e.assumed.split(e.number)
	if base == 0 {
		e.blocks, e.zero = slices.Clone(e.assumed.zero(e.number).blocks), fullBitmap(e.assumed.geometry, e.number)
		return nil
	}
	blocks, err := e.assumed.baseBlocks(ctx, e.number, h)
	if err != nil {
		return err
	}
	for b := range blocks {
		if blocks[b] == h.ZeroBlock(blockLength(e.assumed.geometry, e.number, b)) {
			e.zero |= 1 << b
		}
	}
	e.blocks = blocks
	return nil
}

// has reports whether the data of block b is here. The caller holds the extent.
func (e *extent) has(b int) bool { return e.read>>b&1 == 1 }

// block returns the data of block b, which was read. The caller holds the extent.
func (e *extent) block(b int) []byte {
	if e.sparse != nil {
		_, n := e.assumed.geometry.BlockRange(e.number*manifest.BlocksPerExtent + uint32(b))
		return e.sparse[b][:n]
	}
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
// cores. It calls visit for each extent from start on, in order; visit owns one
// hold on it. What is assumed is not read. Parts are summed when the scan is for anchors.
//
//	disk ─ reads in flight ─> extents ─> hashers ─> in order ─> visit
func scanExtents(ctx context.Context, src Source, g manifest.Geometry, start uint32, key manifest.Key, t Tuning, p *Progress, assumed *assumptions, summed bool, visit func(*extent) error) error {
	workers := hashers()
	p.workers(StageHash, workers)
	buffers, depth, _ := t.buffers(workers)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pool := blockio.NewPool(buffers)
	if err := assumed.test(ctx, src, key, pool, depth, p); err != nil {
		return err
	}
	group, ctx := newGroup(ctx)
	scanner := blockio.NewScanner(ctx, src, blockio.ScanOptions{
		QueueDepth: depth, Pool: pool, Start: bytesBelow(g, start), End: g.Size, Only: assumed.only,
	})
	todo := make(chan *extent)
	ordered := make(chan *extent, workers)

	group.Go(func() error {
		defer close(todo)
		defer close(ordered)
		for number := start; number < g.Extents(); number++ {
			if assumed.skips(number) {
				continue
			}
			assumed.lookAhead(number)
			read, _, _ := assumed.split(number)
			e, err := nextExtent(scanner, g, number, read, p)
			if err != nil {
				return err
			}
			assumed.assume(number, p)
			e.assumed, e.key = assumed, key
			if summed {
				e.sums = make([]uint32, 0, len(e.chunks)*(blockio.RequestSize/partSize))
			}
			if digest, ok := assumed.whole(number); ok {
				e.digest = digest
				close(e.hashed)
			} else {
				select {
				case todo <- e:
				case <-ctx.Done():
					e.release()
					return context.Cause(ctx)
				}
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
				e.err = e.hash(ctx, h, g, p)
				close(e.hashed)
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
			if failed = e.err; failed != nil {
				e.release()
			} else {
				failed = visit(e)
			}
			if failed != nil {
				cancel(failed) // reading stops; what is on its way is drained here
			}
		}
		return failed
	})
	return errors.Join(group.Wait(), scanner.Close())
}

// nextExtent gathers the chunks of one extent in which blocks are to be read.
func nextExtent(s *blockio.Scanner, g manifest.Geometry, number uint32, read uint64, p *Progress) (*extent, error) {
	const perChunk = blockio.RequestSize / manifest.BlockSize
	e := &extent{number: number, read: read, hashed: make(chan struct{})}
	e.holders.Store(1)
	for first := 0; first < g.BlocksIn(number); first += perChunk {
		blocks := read & ((1<<perChunk - 1) << first)
		if blocks == 0 {
			e.chunks = append(e.chunks, nil)
			continue
		}
		start := time.Now()
		c, err := s.Next()
		p.spend(StageRead, start)
		if err != nil {
			e.release()
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read extent %d: %w", number, err)
		}
		e.chunks = append(e.chunks, c)
		p.read.Add(int64(contentLength(g, number, blocks)))
	}
	return e, nil
}

// hash makes the digests of an extent. Those of blocks that were not read are
// taken from what is assumed of them.
func (e *extent) hash(ctx context.Context, h *manifest.Hasher, g manifest.Geometry, p *Progress) error {
	_, base, zero := e.assumed.split(e.number)
	if base != 0 {
		var err error
		if e.base, err = e.assumed.baseBlocks(ctx, e.number, h); err != nil {
			return err
		}
	}
	start := time.Now()
	defer p.spend(StageHash, start)
	e.blocks = make([]manifest.Digest, g.BlocksIn(e.number))
	for b := range e.blocks {
		bit := uint64(1) << b
		switch {
		case base&bit != 0:
			e.blocks[b] = e.base[b]
			if e.base[b] == h.ZeroBlock(blockLength(g, e.number, b)) {
				e.zero |= bit
			}
		case zero&bit != 0 || manifest.IsZero(e.block(b)):
			e.zero |= bit
			e.blocks[b] = h.ZeroBlock(blockLength(g, e.number, b))
		default:
			e.blocks[b] = h.Block(e.block(b))
		}
		if e.sums != nil && e.has(b) {
			e.sums = appendSums(e.sums, e.block(b))
		}
	}
	e.digest = h.Extent(e.blocks)
	if base|zero != 0 {
		e.thin()
	}
	return nil
}

// Scan reads and hashes a disk and returns its root, which is zero when it does
// not start at the beginning. Extents that differ from
// spec.Known go to spec.Records.
func Scan(ctx context.Context, spec ScanSpec) (ScanResult, error) {
	g := manifest.Geometry{Size: spec.Size}
	p := orNew(spec.Progress)
	if err := errors.Join(checkKnown(g, spec.Known), checkStart(g, spec.Start)); err != nil {
		return ScanResult{}, err
	}
	assumed, err := newAssumptions(spec.Hint, g, spec.Key)
	if err != nil {
		return ScanResult{}, err
	}
	p.begin(g, spec.Start)
	defer p.end()
	root, err := rootFrom(nil, spec.Key, g, spec.Start)
	if err != nil {
		return ScanResult{}, err
	}
	rec := newRecorder(spec.Known, spec.Records, spec.Start)
	err = rec.during(ctx, func(ctx context.Context) error {
		return scanExtents(ctx, spec.Source, g, spec.Start, spec.Key, spec.Tuning, p, assumed, false, func(e *extent) error {
			defer e.release()
			root.add(e)
			if err := rec.addExtent(ctx, e); err != nil {
				return err
			}
			rec.advance(e.number + 1)
			_, length := g.ExtentRange(e.number)
			p.processed.Add(int64(length))
			return nil
		})
	})
	if err != nil {
		return ScanResult{Hint: assumed.result}, err
	}
	sum, err := root.sum()
	return ScanResult{Root: sum, Hint: assumed.result}, err
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
