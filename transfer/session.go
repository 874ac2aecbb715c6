package transfer

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

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
	pace     *pace
	packers  int
	room     int    // bytes of content in a parcel
	seen     *index // of a trusted run: what the sink holds by now
	result   manifest.Digest

	in       chan *extent
	todo     chan *pending
	answered chan *answer
	nudge    chan struct{} // offer should send PASSED now
	done     chan struct{}

	places   chan struct{} // one for each extent between compare and deliver
	compared atomic.Uint32 // every extent below was compared, and put into todo when it differs
	told     atomic.Uint32 // the sink was told of every extent below
	acked    atomic.Uint32 // ACK said last
	ackCame  chan struct{}
	baseline baselineQueue
	ended    chan struct{} // closed when result is final and END is sent
	over     chan struct{} // closed when RESULT came and is right

	grace atomic.Int64 // nanoseconds

	mu      sync.Mutex
	offered map[uint32]*pending // without an answer
	kept    []*pending          // that hold their data, oldest first
	sent    map[uint32]uint64   // blocks that were sent, of extents that are not durable
	freed   chan struct{}       // kept became shorter
	keep    int

	partial   map[uint32]*pending // of which blocks were sent in parts, until ACK covers them
	again     []*answer           // that ask for such blocks whole
	againCame chan struct{}
}

// pending is an extent on its way from compare to deliver.
type pending struct {
	*extent
	want  uint64 // set by the answer
	parts bool   // the offer asked for part digests

	// Guarded by the session's mu.
	holds   bool     // its data is held
	pinned  bool     // the answer has come, so that the data will be used soon
	partial []uint16 // for each block, the parts that were sent if not all were
}

// answer is what is wanted of an extent.
type answer struct {
	*pending
	want  *want
	again bool // whole, of blocks that were sent in parts before
}

func newSendSession(sink SinkSpec, spec SendSpec, g manifest.Geometry, keep int) *sendSession {
	s := &sendSession{
		SinkSpec: sink, source: spec.Source, key: spec.Key, geometry: g, progress: orNew(sink.Progress),
		records: newRecorder(spec.Known, sink.Records, sink.Start), pace: newPace(spec.Tuning, packers(spec.Memory)), packers: packers(spec.Memory), room: parcelBytes(spec.Memory),
		in: make(chan *extent), todo: make(chan *pending, maxOffers), answered: make(chan *answer, maxOffers),
		nudge: make(chan struct{}, 1), done: make(chan struct{}), places: make(chan struct{}, maxOffers),
		ackCame: make(chan struct{}, 1), ended: make(chan struct{}), over: make(chan struct{}), freed: make(chan struct{}, 1), offered: make(map[uint32]*pending), sent: make(map[uint32]uint64), keep: keep,
		partial: make(map[uint32]*pending), againCame: make(chan struct{}, 1),
	}
	if sink.Trusted != nil {
		s.seen = newIndex(spec.Memory)
	}
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

func (s *sendSession) answer(m *want) error {
	var holds bool
	s.mu.Lock()
	p := s.offered[m.extent]
	if p != nil {
		delete(s.offered, m.extent)
		p.pinned = true
		holds = p.holds
	}
	s.mu.Unlock()
	if p == nil {
		return s.askedAgain(m)
	}
	if m.blocks&p.zero != 0 || m.later != 0 || m.parted != 0 && !p.parts {
		return malformed("WANT", "blocks %#x of extent %d were not offered", m.blocks, m.extent)
	}
	p.want = m.blocks
	if p.parts {
		s.pace.answered(bits.OnesCount64(m.blocks &^ m.parted))
	}
	if !holds {
		s.regret(p)
	}
	if p.want == 0 {
		s.settle(p)
		return nil
	}
	s.answered <- &answer{pending: p, want: m} // never waits: it has room for every place
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
