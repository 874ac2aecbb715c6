package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// seed is a Seed whose blocks are numbered from first on, after the target's.
type seed struct {
	Seed
	geometry manifest.Geometry
	first    uint32
	// credit is how many times more a block is tried at the same place. Used by
	// the resolver alone.
	credit int
}

const (
	// seedCredit is how many blocks may be other than a seed's at the same
	// place before only one in seedProbe is still tried there.
	seedCredit = 256
	seedProbe  = 64
)

// newSeeds numbers the blocks of seeds; limit is the number of blocks of target
// and seeds.
func newSeeds(spec ReceiveSpec) (seeds []*seed, limit int64, err error) {
	limit = int64(manifest.Geometry{Size: spec.Size}.Blocks())
	if len(spec.Seeds) > MaxSeeds {
		return nil, 0, fmt.Errorf("%w: %d seeds; at most %d can be used", ErrTask, len(spec.Seeds), MaxSeeds)
	}
	for i, s := range spec.Seeds {
		g := manifest.Geometry{Size: s.Size}
		if err := g.Validate(); err != nil {
			return nil, 0, fmt.Errorf("seed %d: %w", i, err)
		}
		switch {
		case s.Source.Size() < s.Size:
			return nil, 0, fmt.Errorf("%w: seed %d has %d bytes, %d are announced", ErrTask, i, s.Source.Size(), s.Size)
		case s.Digests != nil && (s.Digests.Header().KeyID != spec.Key.ID() || s.Digests.Header().Geometry != g):
			return nil, 0, fmt.Errorf("%w: the digests of seed %d have another key or size", ErrTask, i)
		case limit+int64(g.Blocks()) > 1<<32:
			return nil, 0, fmt.Errorf("%w: target and seeds have more than 2³² blocks", ErrTask)
		}
		seeds = append(seeds, &seed{Seed: s, geometry: g, first: uint32(limit), credit: seedCredit})
		limit += int64(g.Blocks())
	}
	return seeds, limit, nil
}

// locate tells where a position lies, and how many bytes its disk has from there on.
func (r *receiver) locate(p position) (src io.ReaderAt, off, rest int64) {
	for _, s := range r.seeds {
		if first := blockPosition(s.first); p >= first && p.block()-s.first < s.geometry.Blocks() {
			off = int64(p-first) * partSize
			return s.Source, off, s.Size - off
		}
	}
	off = int64(p) * partSize
	return r.Target, off, r.Size - off
}

// tryBeside adds, for blocks that were found nowhere, the same places on the
// seeds: a VM made from the template of another has most of its blocks there.
func (v *resolver) tryBeside(c *candidate) {
	for _, s := range v.seeds {
		block := firstBlock(c.it.number) + uint32(c.b)
		beside := blockPosition(s.first + block)
		if block < s.geometry.Blocks() && (s.credit > 0 || c.b%seedProbe == 0) && !slices.Contains(c.from, beside) {
			c.from = append(c.from, beside)
		}
	}
}

// judge adapts the credit of seeds to what became of a candidate.
func (v *resolver) judge(c *candidate) {
	for _, s := range v.seeds {
		beside := blockPosition(s.first + firstBlock(c.it.number) + uint32(c.b))
		switch {
		case !slices.Contains(c.from, beside):
		case c.held && c.at == beside:
			s.credit = seedCredit
		case !c.held:
			s.credit--
		}
	}
}

// learn reads the seeds once something is missing, one after the other.
func (r *receiver) learn(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	group, ctx := newGroup(ctx)
	group.Go(func() error {
		select {
		case <-r.told:
			cancel(errNothingMissing)
		case <-ctx.Done():
		}
		return nil
	})
	group.Go(func() error {
		defer cancel(nil)
		select {
		case <-r.missing:
		case <-ctx.Done():
			return nil
		}
		for i, s := range r.seeds {
			if err := r.learnOne(ctx, s); err != nil {
				return fmt.Errorf("read seed %d: %w", i, err)
			}
		}
		r.searchOver()
		return nil
	})
	if err := group.Wait(); err != nil && !errors.Is(context.Cause(ctx), errNothingMissing) {
		return err
	}
	return nil
}

var errNothingMissing = errors.New("nothing is missing any more")

// learnOne indexes one seed, and serves those who wait for what it holds.
func (r *receiver) learnOne(ctx context.Context, s *seed) error {
	h := r.Key.NewHasher()
	if s.Digests == nil {
		whole := &assumptions{geometry: s.geometry}
		var survey surveyor
		return scanExtents(ctx, s.Source, s.geometry, 0, r.Key, r.Tuning, r.progress, whole, true, func(e *extent) error {
			defer e.release()
			r.seen.putExtent(e, ^uint64(0), s.first+firstBlock(e.number), ^uint32(0))
			r.sight(survey.survey(e, blockPosition(s.first)), ^uint32(0))
			return r.match(ctx, e, h)
		})
	}
	buf := blockio.AlignedBuffer(manifest.BlockSize)
	for number := range s.geometry.Extents() {
		blocks, err := s.Digests.BlockDigests(number)
		if err != nil {
			return err
		}
		e := &extent{number: number, blocks: blocks}
		for b, d := range blocks {
			if d == h.ZeroBlock(blockLength(s.geometry, number, b)) {
				e.zero |= 1 << b
			}
		}
		r.seen.putExtent(e, ^uint64(0), s.first+firstBlock(number), ^uint32(0))
		for b, d := range blocks {
			if e.zero>>b&1 == 1 || !r.awaits(d.Short()) {
				continue
			}
			off, n := s.geometry.BlockRange(firstBlock(number) + uint32(b))
			if err := readFull(s.Source, buf[:n], off); err != nil {
				return err
			}
			r.progress.read.Add(int64(n))
			if h.Block(buf[:n]) != d {
				continue // not what its manifest says: it is asked for
			}
			if err := r.serve(ctx, d, buf[:n], h); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}
