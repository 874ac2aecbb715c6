package transfer

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash"
	"math/bits"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/understudy-dr/understudy/manifest"
)

// offer describes the extents that differ, in order, and says how far the
// comparison has come.
func (s *sendSession) offer(ctx context.Context) error {
	o := &offering{sendSession: s, list: newResultDigest(), passed: s.Start}
	for {
		select {
		case p, more := <-s.todo:
			if !more {
				if err := o.overdue(ctx, true); err != nil {
					return err
				}
				if err := o.tell(ctx, s.geometry.Extents()); err != nil {
					return err
				}
				return s.finish(ctx, o.list)
			}
			d, err := s.describe(ctx, p)
			s.giveBack(p)
			if err != nil {
				return err
			}
			if s.hold == nil {
				err = o.send(ctx, d)
			} else {
				err = o.holdBack(ctx, d)
			}
			if err != nil {
				return err
			}
			if o.behind {
				if err := o.catchUp(ctx); err != nil {
					return err
				}
			}
		case <-s.look:
			if err := o.overdue(ctx, false); err != nil {
				return err
			}
		case <-s.nudge:
			if err := o.catchUp(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// offering is the state of offer.
type offering struct {
	*sendSession
	list   *resultDigest
	passed uint32
	frame  []byte
	behind bool // PASSED is due as soon as todo is empty
}

// tell says that all below n was compared and offered.
func (o *offering) tell(ctx context.Context, n uint32) error {
	if n <= o.passed {
		return nil
	}
	o.passed = n
	o.told.Store(max(n, o.told.Load()))
	return o.Conn.WriteFrame(ctx, typePassed, appendNumber(nil, n))
}

// catchUp tells how far the comparison has come: all that differs below compared is
// in todo, held back or offered.
func (o *offering) catchUp(ctx context.Context) error {
	n := o.compared.Load()
	if o.behind = len(o.todo) > 0; o.behind {
		return nil
	}
	if o.hold != nil {
		if oldest, ok := o.hold.oldest(); ok {
			n = min(n, oldest)
		}
	}
	if n == o.geometry.Extents() {
		return nil // the end of todo, which is near, tells it together with END
	}
	return o.tell(ctx, n)
}

// holdBack puts an extent behind those that are held back, and offers what is due.
func (o *offering) holdBack(ctx context.Context, d *described) error {
	o.hold.push(d)
	if err := o.overdue(ctx, false); err != nil {
		return err
	}
	if o.hold.holds(d) {
		o.mu.Lock()
		d.waits = true
		o.mu.Unlock()
		signal(o.freed)
	}
	return nil
}

// overdue offers what need not be held back any more.
func (o *offering) overdue(ctx context.Context, over bool) error {
	for o.hold != nil {
		d := o.hold.next(o.compared.Load(), over)
		if d == nil {
			return nil
		}
		if err := o.send(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// send offers one extent.
func (o *offering) send(ctx context.Context, d *described) error {
	select {
	case o.places <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m := d.message()
	_, fresh := o.Trusted.(*zeroBaseline) // whose blocks have no parts worth keeping
	m.parts = !fresh && o.pace.askParts()
	d.parts = m.parts
	o.list.add(d.number, m.blocks, d.extent.blocks)
	o.mu.Lock()
	d.waits = false
	d.listed = m.blocks &^ m.zero
	o.offered[d.number] = d.pending
	o.mu.Unlock()
	o.told.Store(d.number + 1)
	o.frame = m.append(o.frame[:0])
	if err := o.Conn.WriteFrame(ctx, typeOffer, o.frame); err != nil {
		return err
	}
	if d.number+1 >= o.passed+o.batch() {
		return o.tell(ctx, d.number+1)
	}
	return nil
}

// finish waits until every offer is answered and the answers are sent, then ends
// the conversation.
func (s *sendSession) finish(ctx context.Context, list *resultDigest) error {
	for range maxOffers { // every place taken back: no first answer is on its way
		select {
		case s.places <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for s.owedAnswers() > 0 {
		select {
		case <-s.owes:
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

func (s *sendSession) owedAnswers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owed
}

// describe finds out what differs in an extent, and where a trusted sink holds it.
func (s *sendSession) describe(ctx context.Context, p *pending) (*described, error) {
	d := &described{pending: p, blocks: fullBitmap(s.geometry, p.number)}
	if err := p.load(ctx); err != nil {
		return nil, err
	}
	if s.Trusted == nil {
		d.zero = p.zero
		return d, nil
	}
	if d.look = s.Trusted.Extents()[p.number] == (manifest.Digest{}); d.look {
		d.zero = p.zero
		s.locate(d, nil)
		return d, nil
	}
	held, err := s.held(ctx, p.extent)
	if err != nil {
		return nil, fmt.Errorf("block digests of extent %d: %w", p.number, err)
	}
	if len(held) != len(p.blocks) {
		return nil, fmt.Errorf("%w: %d block digests for extent %d, which has %d", ErrTask, len(held), p.number, len(p.blocks))
	}
	for b := range p.blocks {
		if held[b] == p.blocks[b] {
			d.blocks &^= 1 << b
		}
	}
	if d.blocks == 0 {
		return nil, fmt.Errorf("%w: the manifest's block digests of extent %d do not belong to its extent digest", ErrMismatch, p.number)
	}
	d.zero = p.zero & d.blocks
	s.locate(d, held)
	return d, nil
}

// locate finds where the sink holds the blocks that differ, when this extent is
// offered: where it does not change, where it was offered before, or in this extent,
// for the sink reads before it writes. What the extent held is met by those that are
// held back before it.
func (s *sendSession) locate(d *described, held []manifest.Digest) {
	first := firstBlock(d.number)
	s.hold.meet(d.number, held, ^uint64(0))
	s.seen.putExtent(d.extent, ^d.blocks, first, ^uint32(0)) // rather than what is overwritten
	wanted := d.blocks &^ d.zero
	for b := range ones(wanted) {
		if from, ok, gap := s.seen.lookUp(d.extent.blocks[b].Short()); ok {
			d.found.set(b, from)
		} else if i := slices.Index(held, d.extent.blocks[b]); i >= 0 {
			d.found.set(b, blockPosition(first+uint32(i)))
		} else if gap {
			d.found.gaps |= 1 << b
		}
	}
	s.hold.same(bits.OnesCount64(fullBitmap(s.geometry, d.number)&^d.blocks&^d.extent.zero | d.found.known))
	if s.seen.sampling() {
		s.chain.extend(&d.found, blockPosition(first), wanted, s.limit(), true)
	}
	s.search(d, held)
	s.seen.putExtent(d.extent, ^uint64(0), first, ^uint32(0))
}

// message is the offer of an extent.
func (d *described) message() *offer {
	m := &offer{extent: d.number, look: d.look, blocks: d.blocks, zero: d.zero}
	for b := range ones(d.blocks &^ d.zero) {
		m.digests = append(m.digests, d.extent.blocks[b].Short())
		if (d.found.known|d.found.guess)>>b&1 == 1 {
			m.copied |= 1 << b
			m.sources = append(m.sources, d.found.from[b])
		}
	}
	m.anchors = d.anchors.only(d.blocks &^ d.zero &^ m.copied)
	return m
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
