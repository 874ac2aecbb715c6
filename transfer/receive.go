package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// receiver speaks the receiver's side.
//
//	sender ──OFFER──> resolve ─ same, zero, copy ─> target
//	                     └─────WANT──> sender
//	sender ──DATA───> writers: unpack, check, write ─> target
//	target ──scan──BASELINE──> sender           (untrusted only)
//	acknowledge: flush, then ACK; at the end RESULT
type receiver struct {
	ReceiveSpec
	geometry manifest.Geometry
	progress *Progress
	records  *recorder
	seen     *index // what the target holds, as a hint
	list     *resultDigest
	root     *rootHasher  // nil when trusted
	from     uint32       // the conversation's first extent
	assumed  *assumptions // of the target's scan
	result   ReceiveResult

	offers chan *item
	data   chan netproto.Frame
	kick   chan struct{} // acknowledge should look again
	passOn chan struct{} // the scan should look again
	told   chan struct{} // closed when RESULT is sent

	mu      sync.Mutex
	scanned map[uint32]*extent // scanned and not reached; data released
	reached uint32             // every extent below is in queue or settled
	passed  uint32             // what PASSED said last
	acked   uint32             // what ACK said last
	durable uint32             // every extent below was flushed
	checks  int                // blocks to look at before they are asked for
	queue   []*item            // extents in order, from the watermark on
	open    map[uint32]*item   // offered, not settled
	waiting map[shortDigest][]place
	dirty   int64 // bytes written since the last flush
	ended   bool  // END has come, with
	theirs  manifest.Digest
}

// item is an extent between its offer and the watermark. An extent that was not
// offered passes as one that is settled at once.
type item struct {
	number uint32
	offer  *offer            // nil when not offered
	blocks []manifest.Digest // full digests; of a trusted target only those listed
	digest manifest.Digest   // of the extent; untrusted only

	// Guarded by the receiver's mu.
	missing uint64 // blocks that are not settled
	wanted  uint64 // blocks that were asked for and have not come
	parted  uint64 // of these, may come in parts
	settled bool
}

// place is a block of an offered extent.
type place struct {
	it *item
	b  int
}

const (
	// flushBytes and ackExtents are how much may be done between two ACKs:
	// a cut costs at most flushBytes.
	flushBytes = 64 << 20
	ackExtents = 1024
)

// writers is how many goroutines check and write in parallel, each with 1 MiB.
func writers(memory int64) int {
	if scarce(memory) {
		return 2
	}
	return 4
}

// Receive brings a target to the content that the sender offers. When it returns
// without an error, everything is durable and the sender has agreed on it.
func Receive(ctx context.Context, spec ReceiveSpec) (ReceiveResult, error) {
	r, err := newReceiver(spec)
	if err != nil {
		closeWith(spec.Conn, err)
		return ReceiveResult{}, err
	}
	err = r.run(ctx)
	stats := r.Conn.Stats()
	r.progress.spent(StageLine, stats.WriteBlocked)
	r.progress.end()
	r.result.Counters, r.result.Hint = r.progress.Snapshot(), r.assumed.result
	r.result.Watermark, r.result.Reached = r.records.taken(r.durable), r.reached
	if err != nil {
		closeWith(r.Conn, err)
		return r.result, fmt.Errorf("receive %s: %w", r.Task, err)
	}
	return r.result, r.Conn.Close()
}

func newReceiver(spec ReceiveSpec) (*receiver, error) {
	g := manifest.Geometry{Size: spec.Size}
	if err := errors.Join(checkKnown(g, spec.Known), checkStart(g, spec.Start)); err != nil {
		return nil, err
	}
	if spec.Target.Size() < spec.Size {
		return nil, fmt.Errorf("%w: it has %d bytes, %d are needed; grow the target disk first", ErrTargetTooSmall, spec.Target.Size(), spec.Size)
	}
	if spec.Trusted && spec.Records != nil {
		return nil, fmt.Errorf("%w: a trusted receiver cannot report records; let the sender do it", ErrTask)
	}
	assumed, err := newAssumptions(spec.Hint, g, spec.Key)
	if err != nil {
		return nil, err
	}
	r := &receiver{
		ReceiveSpec: spec, geometry: g, progress: orNew(spec.Progress), records: newRecorder(spec.Known, spec.Records, spec.Start),
		assumed: assumed, durable: spec.Start,
		seen: newIndex(spec.Memory), list: newResultDigest(),
		offers: make(chan *item, maxOffers), data: make(chan netproto.Frame, writers(spec.Memory)),
		kick: make(chan struct{}, 1), passOn: make(chan struct{}, 1), told: make(chan struct{}),
		scanned: make(map[uint32]*extent), open: make(map[uint32]*item), waiting: make(map[shortDigest][]place),
	}
	r.Conn = cuttable{spec.Conn}
	r.result.Trusted = spec.Trusted
	if !spec.Trusted {
		var err error
		if r.root, err = rootFrom(spec.Root, spec.Key, g, spec.Start); err != nil {
			return nil, err
		}
	}
	r.progress.begin(g, spec.Start)
	for stage, n := range map[Stage]int{StageHash: hashers(), StageCompress: min(cap(r.data), hashers()), StageWrite: cap(r.data)} {
		r.progress.workers(stage, n)
	}
	r.progress.watchWire(func() int64 { stats := r.Conn.Stats(); return stats.BytesRead + stats.BytesWritten })
	return r, nil
}

func (r *receiver) run(ctx context.Context) error {
	if err := r.opened(ctx); err != nil {
		return err
	}
	err := r.records.during(ctx, func(ctx context.Context) error {
		group, ctx := newGroup(ctx)
		group.Go(func() error {
			defer close(r.offers)
			defer close(r.data)
			return r.listen(ctx)
		})
		group.Go(func() error { return r.resolve(ctx) })
		for range cap(r.data) {
			group.Go(func() error { return r.write(ctx) })
		}
		if !r.Trusted {
			group.Go(func() error { return r.scan(ctx) })
		}
		group.Go(func() error { return r.acknowledge(ctx) })
		return group.Wait()
	})
	for f := range r.data { // after a failure
		f.Release()
	}
	return err
}

// opened takes OPEN and compares it with what this end was told.
func (r *receiver) opened(ctx context.Context) error {
	f, err := r.Conn.ReadFrame(ctx)
	if err != nil {
		return peerEnded(err)
	}
	defer f.Release()
	if f.Type != typeOpen {
		return fmt.Errorf("%w: message type %#x came before OPEN", ErrProtocol, uint8(f.Type))
	}
	m, err := decodeOpen(f.Payload)
	if err != nil {
		return err
	}
	switch {
	case m.task != r.Task:
		return fmt.Errorf("%w: the sender has task %q, this end %q", ErrTask, m.task, r.Task)
	case m.size != r.Size:
		return fmt.Errorf("%w: the sender's logical size is %d, this end's %d", ErrTask, m.size, r.Size)
	case m.key != r.Key.ID():
		return fmt.Errorf("%w: the sender's digest key is %s, this end's %s; both delegates need the domain's key", ErrTask, m.key, r.Key.ID())
	case (m.mode == modeTrusted) != r.Trusted:
		return fmt.Errorf("%w: the ends disagree on whether the target is trusted", ErrTask)
	case m.start > r.Start:
		return fmt.Errorf("%w: the sender starts at extent %d, this end is known to be durable below %d", ErrTask, m.start, r.Start)
	}
	r.from, r.reached, r.passed, r.acked = m.start, m.start, m.start, m.start
	r.progress.begin(r.geometry, m.start)
	if r.Resumed && r.Trusted {
		r.checks = resumeChecks
	}
	return nil
}

// listen takes the sender's frames until it closes.
func (r *receiver) listen(ctx context.Context) error {
	for {
		f, err := r.Conn.ReadFrame(ctx)
		if err != nil {
			select {
			case <-r.told:
				if errors.Is(err, io.EOF) {
					return nil
				}
			default:
			}
			return peerEnded(err)
		}
		if f.Type == typeData {
			select {
			case r.data <- f:
			case <-ctx.Done():
				f.Release()
				return context.Cause(ctx)
			}
			continue
		}
		err = r.handle(ctx, f.Type, f.Payload)
		f.Release()
		if err != nil {
			return err
		}
	}
}

func (r *receiver) handle(ctx context.Context, t netproto.Type, p []byte) error {
	if r.ended {
		return fmt.Errorf("%w: message type %#x came after END", ErrProtocol, uint8(t))
	}
	switch t {
	case typeOffer:
		m, err := decodeOffer(p, r.geometry)
		if err != nil {
			return err
		}
		return r.offered(ctx, m)
	case typePassed:
		n, err := decodeNumber("PASSED", p, r.geometry)
		if err != nil {
			return err
		}
		if err := r.reach(ctx, n); err != nil {
			return err
		}
		r.mu.Lock()
		r.passed = n
		r.mu.Unlock()
		signal(r.passOn)
		signal(r.kick)
		return nil
	case typeEnd:
		m, err := decodeEnd(p)
		if err != nil {
			return err
		}
		if r.reached != r.geometry.Extents() {
			return malformed("END", "only %d of %d extents are passed", r.reached, r.geometry.Extents())
		}
		r.mu.Lock()
		r.ended, r.theirs = true, m.result
		r.mu.Unlock()
		signal(r.kick)
		return nil
	}
	return fmt.Errorf("%w: a sender sent message type %#x", ErrProtocol, uint8(t))
}

// offered queues an extent that differs.
func (r *receiver) offered(ctx context.Context, m *offer) error {
	if err := r.reach(ctx, m.extent); err != nil {
		return err
	}
	it := &item{number: m.extent, offer: m, missing: m.blocks}
	r.mu.Lock()
	if r.Trusted {
		it.blocks = make([]manifest.Digest, r.geometry.BlocksIn(m.extent))
	} else {
		e := r.scanned[m.extent]
		if e == nil {
			r.mu.Unlock()
			return malformed("OFFER", "extent %d is not scanned yet", m.extent)
		}
		if m.blocks != fullBitmap(r.geometry, m.extent) || m.look {
			r.mu.Unlock()
			return malformed("OFFER", "only blocks %#x of extent %d, or to be looked at, to a sink that scans", m.blocks, m.extent)
		}
		delete(r.scanned, m.extent)
		r.mu.Unlock()
		if err := e.load(ctx); err != nil {
			return err
		}
		it.blocks = e.blocks
		r.mu.Lock()
	}
	r.reached = m.extent + 1
	r.queue = append(r.queue, it)
	r.open[it.number] = it
	r.mu.Unlock()
	_, length := r.geometry.ExtentRange(it.number)
	r.progress.same.Add(int64(length - contentLength(r.geometry, it.number, m.blocks)))
	select {
	case r.offers <- it:
		return nil
	default:
		return malformed("OFFER", "more than %d offers wait for an answer", maxOffers)
	}
}

// reach settles the extents below n that were not offered: they are the same.
func (r *receiver) reach(ctx context.Context, n uint32) error {
	if n < r.reached {
		return malformed("OFFER or PASSED", "extent %d, when %d was reached", n, r.reached)
	}
	r.mu.Lock()
	acked := r.acked
	r.mu.Unlock()
	if n-acked > runAhead {
		return malformed("OFFER or PASSED", "extent %d is more than %d beyond the ACK of %d", n, runAhead, acked)
	}
	for number := r.reached; number < n; number++ {
		it := &item{number: number, settled: true}
		if !r.Trusted {
			r.mu.Lock()
			e := r.scanned[number]
			delete(r.scanned, number)
			r.mu.Unlock()
			if e == nil {
				return malformed("PASSED", "extent %d is not scanned yet", number)
			}
			it.digest = e.digest
			if err := r.records.addExtent(ctx, e); err != nil {
				return err
			}
		}
		r.mu.Lock()
		r.reached = number + 1
		if !r.Trusted {
			r.queue = append(r.queue, it)
			r.pop()
		}
		r.mu.Unlock()
		_, length := r.geometry.ExtentRange(number)
		r.progress.same.Add(int64(length))
		r.progress.processed.Add(int64(length))
	}
	return nil
}

// pop takes what is settled off the head of the queue. r.mu is held.
func (r *receiver) pop() {
	n := 0
	for n < len(r.queue) && r.queue[n].settled {
		it := r.queue[n]
		if it.offer != nil {
			r.list.add(it.number, it.offer.blocks, it.blocks)
		}
		if r.root != nil {
			r.root.take(it.number, it.digest)
		}
		r.queue[n] = nil
		n++
	}
	r.queue = r.queue[n:]
	signal(r.kick)
}

// watermark is the extent below which everything is settled. r.mu is held.
func (r *receiver) watermark() uint32 {
	if len(r.queue) > 0 {
		return r.queue[0].number
	}
	return r.reached
}

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
	err := scanExtents(ctx, r.Target, r.geometry, r.from, r.Key, r.Tuning, r.progress, r.assumed, func(e *extent) error {
		e.release()
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
		r.seen.putExtent(e, ^uint64(0))
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
	return flush()
}

// ahead is how far beyond PASSED an extent lies.
func (r *receiver) ahead(number uint32) uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return number - min(number, r.passed)
}
