package transfer

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// sendSession speaks the sender's side with one sink.
//
//	extents ─> compare ─> todo ─> hold ─> offer ──OFFER, PASSED──> sink
//	                                                         │
//	sink <──DATA── deliver <── answered <── receive <──WANT, BASELINE, ACK
//
// compare finds the extents that differ, offer describes them, and of a trusted
// sink holds back those whose content may still be met at the sink; receive takes the
// sink's frames and never waits for anything else, deliver sends what is wanted.
type sendSession struct {
	SinkSpec
	source   Source
	key      manifest.Key
	geometry manifest.Geometry
	progress *Progress
	records  *recorder
	pace     *pace
	packers  int
	room     int    // bytes of content in a parcel
	seen     *index // of a trusted run: what the sink holds by now
	hold     *hold  // of a trusted run
	chain    chain  // of the offers
	moved    search // for the offers
	result   manifest.Digest

	in       chan *extent
	todo     chan *pending
	answered chan *answer  // first answers
	late     chan *answer  // second ones, which are delivered while there is no first one
	nudge    chan struct{} // offer should send PASSED now
	look     chan struct{} // offer should look what it need not hold back any more
	done     chan struct{}

	places   chan struct{} // one for each extent between its offer and the delivery of the first answer
	compared atomic.Uint32 // every extent below was compared, and put into todo when it differs
	told     atomic.Uint32 // the sink was told of every extent below
	acked    atomic.Uint32 // ACK said last
	ackCame  chan struct{}
	baseline baselineQueue
	ended    chan struct{} // closed when result is final and END is sent
	over     chan struct{} // closed when RESULT came and is right

	grace atomic.Int64 // nanoseconds

	mu      sync.Mutex
	offered map[uint32]*pending // that an answer is still to come for
	owed    int                 // extents of which a second answer is to come, or to be delivered
	owes    chan struct{}       // owed became less
	kept    []*pending          // that hold their data, oldest first
	sent    map[uint32]uint64   // blocks that were sent, of extents that are not durable
	freed   chan struct{}       // kept became shorter, or something in it less important
	keep    int

	partial   map[uint32]*pending // of which blocks were sent in parts, until ACK covers them
	again     []*answer           // that ask for such blocks whole
	againCame chan struct{}
}

// pending is an extent on its way from compare to deliver.
type pending struct {
	*extent
	parts   bool    // the offer asked for part digests
	listed  uint64  // blocks that an answer may ask for; set before the offer
	anchors anchors // where the sink looks for them

	// Guarded by the session's mu.
	holds    bool     // its data is held
	waits    bool     // its offer is held back
	answered bool     // the first answer has come
	later    uint64   // what the second answer will be about
	answers  int      // to be delivered, so that the data will be used soon; before, one for the search
	partial  []uint16 // for each block, the parts that were sent if not all were
}

// answer is what is wanted of an extent.
type answer struct {
	*pending
	want   *want
	again  bool // whole, of blocks that were sent in parts before
	first  bool
	covers int // bytes of content that need nothing more when it is delivered
}

func newSendSession(sink SinkSpec, spec SendSpec, g manifest.Geometry, keep int) *sendSession {
	s := &sendSession{
		SinkSpec: sink, source: spec.Source, key: spec.Key, geometry: g, progress: orNew(sink.Progress),
		records: newRecorder(spec.Known, sink.Records, sink.Start), pace: newPace(spec.Tuning, packers(spec.Memory), sink.Conn.Stats().RTT, limitOf(sink.Conn)), packers: packers(spec.Memory), room: parcelBytes(spec.Memory),
		in: make(chan *extent), todo: make(chan *pending, maxOffers), answered: make(chan *answer, maxOffers), late: make(chan *answer, runAhead),
		nudge: make(chan struct{}, 1), look: make(chan struct{}, 1), done: make(chan struct{}), places: make(chan struct{}, maxOffers),
		ackCame: make(chan struct{}, 1), ended: make(chan struct{}), over: make(chan struct{}), freed: make(chan struct{}, 1), owes: make(chan struct{}, 1),
		offered: make(map[uint32]*pending), sent: make(map[uint32]uint64), keep: keep,
		partial: make(map[uint32]*pending), againCame: make(chan struct{}, 1),
	}
	if sink.Trusted != nil {
		s.seen = newIndex(cmp.Or(spec.Index, DefaultIndex)/int64(len(spec.Sinks)), int64(g.Blocks()))
		s.hold = newHold(spec.Tuning, g, sink.Trusted, spec.Key)
	}
	maps.Copy(s.sent, sink.Sent) // which may be cut again before it gets there
	s.forget(sink.Start)
	s.grace.Store(int64(minGrace))
	s.compared.Store(sink.Start)
	s.told.Store(sink.Start)
	s.acked.Store(sink.Start)
	s.baseline.first = sink.Start
	s.Conn = cuttable{sink.Conn}
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
	s.progress.begin(s.geometry, s.Start)
	s.progress.watchWire(func() int64 { stats := s.Conn.Stats(); return stats.BytesRead + stats.BytesWritten })
	err := s.records.during(ctx, func(ctx context.Context) error {
		group, ctx := newGroup(ctx)
		group.Go(func() error { return s.receive(ctx) })
		group.Go(func() error { return s.compare(ctx) })
		group.Go(func() error { return s.offer(ctx) })
		group.Go(func() error { return s.deliver(ctx) })
		return group.Wait()
	})
	s.drop()
	stats := s.Conn.Stats()
	s.progress.spent(StageLine, stats.WriteBlocked+stats.WindowBlocked)
	s.progress.end()
	if err != nil {
		closeWith(s.Conn, err)
		return fmt.Errorf("send %s: %w", s.Task, err)
	}
	_ = s.Conn.Close() // the sink has said its last word: whether ours arrives changes nothing
	return nil
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
		m, err := decodeWant(p, s.geometry)
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
		if n < s.acked.Load() {
			return false, malformed("ACK", "extent %d after %d", n, s.acked.Load())
		}
		s.acked.Store(n)
		s.forget(n)
		s.forgetPartial(n)
		signal(s.ackCame)
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

// answer takes a WANT: the first of an extent may leave blocks for a second one.
func (s *sendSession) answer(m *want) error {
	s.mu.Lock()
	p := s.offered[m.extent]
	if p == nil || p.answered && m.blocks&^p.later != 0 {
		s.mu.Unlock()
		return s.askedAgain(m)
	}
	a := &answer{pending: p, want: m, first: !p.answered}
	open, holds := p.listed, p.holds
	if !a.first {
		open = p.later
	}
	if (m.blocks|m.later)&^open != 0 || !a.first && m.later != 0 || m.parted != 0 && !p.parts {
		s.mu.Unlock()
		return malformed("WANT", "blocks %#x, later %#x of extent %d, where %#x are open", m.blocks, m.later, m.extent, open)
	}
	if a.first {
		open = fullBitmap(s.geometry, m.extent) &^ m.later
		if m.later != 0 {
			s.owed++
		}
	}
	a.covers = contentLength(s.geometry, m.extent, open)
	p.answered, p.later = true, m.later
	p.answers++
	if m.later == 0 {
		delete(s.offered, m.extent)
	}
	s.mu.Unlock()
	if p.parts {
		s.pace.answered(bits.OnesCount64(m.blocks &^ m.parted))
		if a.first {
			s.pace.lacks(bits.OnesCount64(m.blocks | m.later))
		}
	}
	if a.first && !holds {
		s.regret(a)
	}
	if m.blocks == 0 {
		s.settle(a)
		return nil
	}
	queue := s.late
	if a.first {
		queue = s.answered
	}
	select {
	case queue <- a: // it has room for all that may be due
		return nil
	default:
		return malformed("WANT", "more answers of extents beyond ACK than were offered")
	}
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
	case m.bytesTotal != s.geometry.Size-bytesBelow(s.geometry, s.Start):
		return malformed("RESULT", "it covers %d bytes of %d from extent %d on", m.bytesTotal, s.geometry.Size, s.Start)
	case m.sent != s.progress.sent.Load() || m.spared != s.progress.spared.Load():
		return malformed("RESULT", "it counts %d bytes sent and %d spared, this side %d and %d", m.sent, m.spared, s.progress.sent.Load(), s.progress.spared.Load())
	}
	s.progress.same.Store(m.same)
	s.progress.zero.Store(m.zero)
	s.progress.copied.Store(m.copied)
	s.acked.Store(s.geometry.Extents())
	s.records.advance(s.geometry.Extents())
	close(s.over)
	return nil
}

// signal wakes the one who waits on c, now or the next time it waits.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
