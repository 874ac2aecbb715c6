package transfer

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash"
	"math/bits"

	"github.com/zeebo/blake3"

	"github.com/understudy-dr/understudy/manifest"
)

// offer describes the extents that differ, in order, and says how far the
// comparison has come.
func (s *sendSession) offer(ctx context.Context) error {
	list := newResultDigest()
	passed := s.Start
	tell := func(n uint32) error {
		if n <= passed {
			return nil
		}
		passed = n
		s.told.Store(n)
		return s.Conn.WriteFrame(ctx, typePassed, appendNumber(nil, n))
	}
	var frame []byte
	behind := false // PASSED is due as soon as todo is empty
	catchUp := func() error {
		// All that differs below compared is in todo or offered.
		compared := s.compared.Load()
		behind = len(s.todo) > 0
		if behind {
			return nil
		}
		return tell(compared)
	}
	for {
		select {
		case p, more := <-s.todo:
			if !more {
				if err := tell(s.geometry.Extents()); err != nil {
					return err
				}
				return s.finish(ctx, list)
			}
			m, err := s.describe(ctx, p)
			if err != nil {
				return err
			}
			list.add(p.number, m.blocks, p.blocks)
			s.mu.Lock()
			s.offered[p.number] = p
			s.mu.Unlock()
			s.told.Store(p.number + 1)
			frame = m.append(frame[:0])
			if err := s.Conn.WriteFrame(ctx, typeOffer, frame); err != nil {
				return err
			}
			if p.number+1 >= passed+s.batch() {
				if err := tell(p.number + 1); err != nil {
					return err
				}
			}
			if behind {
				if err := catchUp(); err != nil {
					return err
				}
			}
		case <-s.nudge:
			if err := catchUp(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// finish waits until every offer is answered and the answers are sent, then ends
// the conversation.
func (s *sendSession) finish(ctx context.Context, list *resultDigest) error {
	for range maxOffers { // every place taken back: nothing is on its way
		select {
		case s.places <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.result = list.sum()
	close(s.ended)
	if err := s.Conn.WriteFrame(ctx, typeEnd, end{s.result}.append(nil)); err != nil {
		return err
	}
	select {
	case <-s.over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// describe makes the offer of one extent that differs.
func (s *sendSession) describe(ctx context.Context, p *pending) (*offer, error) {
	m := &offer{extent: p.number, blocks: fullBitmap(s.geometry, p.number)}
	if err := p.load(ctx); err != nil {
		return nil, err
	}
	m.look = s.Trusted != nil && s.Trusted.Extents()[p.number] == manifest.Digest{}
	if s.Trusted != nil && !m.look {
		held, err := s.held(ctx, p.extent)
		if err != nil {
			return nil, fmt.Errorf("block digests of extent %d: %w", p.number, err)
		}
		if len(held) != len(p.blocks) {
			return nil, fmt.Errorf("%w: %d block digests for extent %d, which has %d", ErrTask, len(held), p.number, len(p.blocks))
		}
		for b := range p.blocks {
			if held[b] == p.blocks[b] {
				m.blocks &^= 1 << b
			}
		}
		if m.blocks == 0 {
			return nil, fmt.Errorf("%w: the manifest's block digests of extent %d do not belong to its extent digest", ErrMismatch, p.number)
		}
	}
	m.zero = p.zero & m.blocks
	m.digests = make([]shortDigest, 0, bits.OnesCount64(m.blocks&^m.zero))
	for b := range ones(m.blocks &^ m.zero) {
		short := p.blocks[b].Short()
		m.digests = append(m.digests, short)
		if s.Trusted == nil {
			continue
		}
		// What the index holds lies in extents that do not change or were
		// offered before: the sink has it there, or finds out.
		if j, ok := s.seen.find(short); ok {
			m.copied |= 1 << b
			m.sources = append(m.sources, j)
		}
	}
	if s.Trusted != nil {
		s.seen.putExtent(p.extent, ^uint64(0))
	}
	_, fresh := s.Trusted.(*zeroBaseline) // whose blocks have no parts worth keeping
	m.parts = !fresh && s.pace.askParts()
	p.parts = m.parts
	return m, nil
}

// held returns the block digests of the sink's extent.
func (s *sendSession) held(ctx context.Context, e *extent) ([]manifest.Digest, error) {
	if s.baseIsTrusted(e) {
		return e.base, nil
	}
	return s.Trusted.Blocks(ctx, e.number)
}

// resultDigest is the digest over the list of block number and full digest of
// all that was offered, in ascending order.
type resultDigest struct{ h hash.Hash }

func newResultDigest() *resultDigest { return &resultDigest{blake3.New()} }

func (r *resultDigest) add(extent uint32, listed uint64, blocks []manifest.Digest) {
	var entry [4 + len(manifest.Digest{})]byte
	for b := range ones(listed) {
		binary.BigEndian.PutUint32(entry[:], extent*manifest.BlocksPerExtent+uint32(b))
		copy(entry[4:], blocks[b][:])
		r.h.Write(entry[:])
	}
}

func (r *resultDigest) sum() (d manifest.Digest) {
	r.h.Sum(d[:0])
	return d
}
