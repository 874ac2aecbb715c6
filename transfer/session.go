package transfer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// sendSession speaks the sender's side with one sink.
//
//	extents ─> compare ─> todo ─> offer ──OFFER, PASSED──> sink
//	                                                         │
//	sink <──DATA── deliver <── answered <── receive <──WANT, BASELINE, ACK
//
// compare finds the extents that differ, offer describes them, receive takes the
// sink's frames and never waits for anything else, deliver sends what is wanted.
type sendSession struct {
	SinkSpec
	source   Source
	key      manifest.Key
	geometry manifest.Geometry
	progress *Progress
	records  *recorder
	packer   *packer
	seen     *index // of a trusted run: what the sink holds by now
	result   manifest.Digest

	in       chan *extent
	todo     chan *pending
	answered chan *pending
	nudge    chan struct{} // offer should send PASSED now
	done     chan struct{}

	places   chan struct{} // one for each extent between compare and deliver
	compared atomic.Uint32 // every extent below was compared, and put into todo when it differs
	told     atomic.Uint32 // the sink was told of every extent below
	baseline baselineQueue
	ended    chan struct{} // closed when result is final and END is sent
	over     chan struct{} // closed when RESULT came and is right

	grace atomic.Int64 // nanoseconds

	mu      sync.Mutex
	offered map[uint32]*pending // without an answer
	kept    []*pending          // that hold their data, oldest first
	freed   chan struct{}       // kept became shorter
	keep    int
}

// pending is an extent on its way from compare to deliver.
type pending struct {
	*extent
	want uint64 // set by the answer

	// Guarded by the session's mu.
	holds  bool // its data is held
	pinned bool // the answer has come, so that the data will be used soon
}

func newSendSession(sink SinkSpec, spec SendSpec, g manifest.Geometry, keep int) *sendSession {
	s := &sendSession{
		SinkSpec: sink, source: spec.Source, key: spec.Key, geometry: g, progress: orNew(sink.Progress),
		records: newRecorder(spec.Known, sink.Records), packer: newPacker(spec.Compression),
		in: make(chan *extent), todo: make(chan *pending, maxOffers), answered: make(chan *pending, maxOffers),
		nudge: make(chan struct{}, 1), done: make(chan struct{}), places: make(chan struct{}, maxOffers),
		ended: make(chan struct{}), over: make(chan struct{}), freed: make(chan struct{}, 1), offered: make(map[uint32]*pending), keep: keep,
	}
	if sink.Trusted != nil {
		s.seen = newIndex(spec.Memory)
	}
	s.grace.Store(int64(minGrace))
	return s
}

// take hands an extent to the session, which then owns the caller's hold. It
// reports false when the session has ended.
func (s *sendSession) take(ctx context.Context, e *extent) bool {
	select {
	case s.in <- e:
		return true
	case <-s.done:
		return false
	case <-ctx.Done():
		return false
	}
}

func (s *sendSession) run(ctx context.Context) error {
	defer close(s.done)
	s.progress.size.Store(s.geometry.Size)
	s.progress.watchWire(func() int64 { stats := s.Conn.Stats(); return stats.BytesRead + stats.BytesWritten })
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.receive(ctx) })
	group.Go(func() error { return s.compare(ctx) })
	group.Go(func() error { return s.offer(ctx) })
	group.Go(func() error { return s.deliver(ctx) })
	group.Go(func() error { return s.records.run(ctx) })
	err := group.Wait()
	s.drop()
	stats := s.Conn.Stats()
	s.progress.spent(StageLine, stats.WriteBlocked+stats.WindowBlocked)
	if err != nil {
		closeWith(s.Conn, err)
		return fmt.Errorf("send %s: %w", s.Task, err)
	}
	return s.Conn.Close()
}

// drop gives back the data that a failed session still holds.
func (s *sendSession) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.kept {
		p.release()
	}
	s.kept = nil
}

// compare decides for each extent whether the sink holds it. It closes todo only
// when it has seen the whole source.
func (s *sendSession) compare(ctx context.Context) error {
	m := open{mode: modeScan, size: s.geometry.Size, key: s.key.ID(), task: s.Task}
	if s.Trusted != nil {
		m.mode = modeTrusted
	}
	if err := s.Conn.WriteFrame(ctx, typeOpen, m.append(nil)); err != nil {
		return err
	}
	count := uint32(0)
	for {
		var e *extent
		var more bool
		select {
		case e, more = <-s.in:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !more {
			break
		}
		if err := s.compareOne(ctx, e); err != nil {
			return err
		}
		count = e.number + 1
		s.compared.Store(count)
		if count%s.batch() == 0 {
			signal(s.nudge)
		}
	}
	if count != s.geometry.Extents() {
		return errors.New("the source ended early") // the reader's error is the cause
	}
	close(s.todo)
	return nil
}

// batch is how often PASSED is sent, in extents: as often as the sink's scan
// needs it, or as seldom as a trusted run allows.
func (s *sendSession) batch() uint32 {
	if s.Trusted != nil {
		return ackExtents
	}
	return baselineBatch
}

// signal wakes the one who waits on c, now or the next time it waits.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// compareOne owns one hold on e.
func (s *sendSession) compareOne(ctx context.Context, e *extent) error {
	digest, err := s.sinkDigest(ctx, e.number)
	if err == nil {
		if s.records.full() {
			signal(s.nudge) // PASSED lets the sink acknowledge
		}
		err = s.records.add(ctx, e.number, e.digest, e.blocks)
	}
	if err != nil {
		e.release()
		return err
	}
	if digest == e.digest {
		e.release()
		if s.Trusted != nil { // else the sink indexes what it scans
			s.seen.putExtent(e, ^uint64(0))
		}
		_, length := s.geometry.ExtentRange(e.number)
		s.progress.same.Add(int64(length))
		s.progress.processed.Add(int64(length))
		return nil
	}
	p := &pending{extent: e, holds: true}
	if err := s.admit(ctx, p); err != nil {
		e.release()
		return err
	}
	if s.Trusted != nil {
		s.Trusted.Prefetch(e.number)
	}
	s.todo <- p // never waits: there are as many places as it has room for
	return nil
}

// sinkDigest is what the sink holds, waiting for its scan when there is one.
func (s *sendSession) sinkDigest(ctx context.Context, number uint32) (manifest.Digest, error) {
	if s.Trusted != nil {
		return s.Trusted.Extents()[number], nil
	}
	if d, ok := s.baseline.poll(); ok {
		return d, nil
	}
	return s.baseline.next(ctx)
}

// The grace is how long admit waits for an answer before it gives up data that
// may have to be read again. It starts longer than a local network takes, and
// grows while giving up proves dear; on a long line with few changes it shrinks, so
// that the comparison goes on.
const (
	minGrace = 5 * time.Millisecond
	maxGrace = 500 * time.Millisecond
)

// regret adapts the grace to an extent whose data was given up.
func (s *sendSession) regret(p *pending) {
	grace := time.Duration(s.grace.Load())
	if wanted := bits.OnesCount64(p.want); 2*wanted > len(p.blocks) {
		grace = min(2*grace, maxGrace)
	} else if 8*wanted < len(p.blocks) {
		grace = max(grace/2, minGrace)
	}
	s.grace.Store(int64(grace))
}

// admit takes a place for an extent and keeps its data. When too much is kept it
// gives up the oldest data that nobody has asked for yet; while all of it is
// asked for, the line is the bottleneck, and admit waits.
func (s *sendSession) admit(ctx context.Context, p *pending) error {
	select {
	case s.places <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	patient := true
	for {
		s.mu.Lock()
		if len(s.kept) < s.keep || !patient && s.dropOldest() {
			s.kept = append(s.kept, p)
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-s.freed:
		case <-time.After(time.Duration(s.grace.Load())):
			patient = false
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// dropOldest gives up the data of one extent that has no answer. s.mu is held.
func (s *sendSession) dropOldest() bool {
	for i, p := range s.kept {
		if !p.pinned {
			s.kept = append(s.kept[:i], s.kept[i+1:]...)
			p.holds = false
			p.release()
			return true
		}
	}
	return false
}

// settle ends an extent's way. It frees its place and its data.
func (s *sendSession) settle(p *pending) {
	s.mu.Lock()
	for i, k := range s.kept {
		if k == p {
			s.kept = append(s.kept[:i], s.kept[i+1:]...)
			p.release()
			break
		}
	}
	s.mu.Unlock()
	signal(s.freed)
	_, length := s.geometry.ExtentRange(p.number)
	s.progress.processed.Add(int64(length))
	<-s.places
}

// offer describes the extents that differ, in order, and says how far the
// comparison has come.
func (s *sendSession) offer(ctx context.Context) error {
	list := newResultDigest()
	passed := uint32(0)
	tell := func(n uint32) error {
		if n <= passed {
			return nil
		}
		passed = n
		s.told.Store(n)
		return s.Conn.WriteFrame(ctx, typePassed, appendNumber(nil, n))
	}
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
			if err := s.Conn.WriteFrame(ctx, typeOffer, m.append(nil)); err != nil {
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
	if s.Trusted != nil {
		held, err := s.Trusted.Blocks(ctx, p.number)
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
	return m, nil
}

// receive takes the sink's frames.
func (s *sendSession) receive(ctx context.Context) error {
	for {
		f, err := s.Conn.ReadFrame(ctx)
		if err != nil {
			return peerEnded(err)
		}
		last, err := s.handle(f.Type, f.Payload)
		f.Release()
		if last || err != nil {
			return err
		}
	}
}

func (s *sendSession) handle(t netproto.Type, p []byte) (last bool, err error) {
	switch t {
	case typeBaseline:
		m, err := decodeBaseline(p)
		if err != nil {
			return false, err
		}
		return false, s.baseline.add(m, s.geometry)
	case typeWant:
		m, err := decodeWant(p)
		if err != nil {
			return false, err
		}
		return false, s.answer(m)
	case typeAck:
		n, err := decodeNumber("ACK", p, s.geometry)
		if err != nil {
			return false, err
		}
		if n > s.told.Load() {
			return false, malformed("ACK", "it covers extent %d, of which the sink was not told yet", n-1)
		}
		s.records.advance(n)
		return false, nil
	case typeResult:
		m, err := decodeResult(p)
		if err != nil {
			return false, err
		}
		return true, s.conclude(m)
	}
	return false, fmt.Errorf("%w: a sink sent message type %#x", ErrProtocol, uint8(t))
}

func (s *sendSession) answer(m want) error {
	var holds bool
	s.mu.Lock()
	p := s.offered[m.extent]
	if p != nil {
		delete(s.offered, m.extent)
		p.pinned = true
		holds = p.holds
	}
	s.mu.Unlock()
	if p == nil || m.blocks&^fullBitmap(s.geometry, m.extent) != 0 || m.blocks&p.zero != 0 {
		return malformed("WANT", "blocks %#x of extent %d were not offered", m.blocks, m.extent)
	}
	p.want = m.blocks
	if !holds {
		s.regret(p)
	}
	if p.want == 0 {
		s.settle(p)
		return nil
	}
	s.answered <- p // never waits: it has room for every place
	return nil
}

// conclude checks the sink's RESULT against what this side offered.
func (s *sendSession) conclude(m result) error {
	select {
	case <-s.ended:
	default:
		return malformed("RESULT", "it came before END")
	}
	switch {
	case m.result != s.result:
		return fmt.Errorf("%w: the sink accepted %s, this side offered %s; run again without trust", ErrMismatch, m.result, s.result)
	case m.bytesTotal != s.geometry.Size:
		return malformed("RESULT", "it covers %d of %d bytes", m.bytesTotal, s.geometry.Size)
	case m.sent != s.progress.sent.Load():
		return malformed("RESULT", "it counts %d bytes sent, this side %d", m.sent, s.progress.sent.Load())
	}
	s.progress.same.Store(m.same)
	s.progress.zero.Store(m.zero)
	s.progress.copied.Store(m.copied)
	s.records.advance(s.geometry.Extents())
	s.records.finish()
	close(s.over)
	return nil
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
