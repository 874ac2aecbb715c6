package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
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
//	   └─────┴─ index, and what is deferred <── seeds
//	acknowledge: flush, then ACK; at the end RESULT
type receiver struct {
	ReceiveSpec
	geometry manifest.Geometry
	progress *Progress
	records  *recorder
	seen     *index // what target and seeds hold, as a hint
	anchors  *index // the same of windows; nil when nothing is scanned
	seeds    []*seed
	limit    position // behind target and seeds
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
	look   chan struct{} // resolve should look what is overdue

	lack    sync.Once
	missing chan struct{} // closed when something is not found at once

	mu      sync.Mutex
	scanned map[uint32]*extent // scanned and not reached; data released
	reached uint32             // every extent below is in queue or settled
	passed  uint32             // what PASSED said last
	acked   uint32             // what ACK said last
	durable uint32             // every extent below was flushed
	checks  int                // blocks to look at before they are asked for, from now on
	inVain  int                // of these, so many after the last one that was there
	queue   []*item            // extents in order, from the watermark on
	open    map[uint32]*item   // offered, not settled
	waiting map[shortDigest]awaited
	moored  map[anchor]place // of those that wait and are deferred
	hits    []hit            // that scans found for these

	searches  int     // scans under way in which deferred content may be found
	deferring []*item // with deferred blocks, oldest first
	allowance allowance

	dirty  int64 // bytes written since the last flush
	ended  bool  // END has come, with
	theirs manifest.Digest
}

// item is an extent between its offer and the watermark. An extent that was not
// offered passes as one that is settled at once.
type item struct {
	number uint32
	offer  *offer            // nil when not offered
	blocks []manifest.Digest // full digests; of a trusted target only those listed
	digest manifest.Digest   // of the extent; untrusted only

	// Guarded by the receiver's mu.
	missing  uint64 // blocks that are not settled
	wanted   uint64 // blocks that were asked for and have not come
	parted   uint64 // of these, may come in parts
	deferred uint64 // blocks that may still be found
	told     bool   // the sender waits for a further answer about those
	settled  bool
}

// short is the offered digest of a block that is not zero.
func (it *item) short(b int) shortDigest { return it.offer.short(b) }

// place is a block of an offered extent.
type place struct {
	it *item
	b  int
}

func (p place) position() position { return extentPosition(p.it.number) + position(p.b)*partsPerBlock }

const (
	// flushBytes and ackExtents are how much may be done between two ACKs:
	// a cut costs at most flushBytes.
	flushBytes = 64 << 20
	ackExtents = 512
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
	seeds, blocks, err := newSeeds(spec)
	if err != nil {
		return nil, err
	}
	if len(seeds) > 0 { // they are read beside the target
		spec.Memory = max(MinMemory, cmp.Or(spec.Memory, DefaultMemory)/2)
	}
	r := &receiver{
		ReceiveSpec: spec, geometry: g, progress: orNew(spec.Progress), records: newRecorder(spec.Known, spec.Records, spec.Start),
		assumed: assumed, durable: spec.Start,
		seeds: seeds, limit: position(blocks) * partsPerBlock, allowance: newAllowance(spec.Tuning, g), list: newResultDigest(),
		offers: make(chan *item, maxOffers), data: make(chan netproto.Frame, writers(spec.Memory)),
		inVain: resumeChecks, kick: make(chan struct{}, 1), passOn: make(chan struct{}, 1), told: make(chan struct{}),
		look: make(chan struct{}, 1), missing: make(chan struct{}),
		scanned: make(map[uint32]*extent), open: make(map[uint32]*item), waiting: make(map[shortDigest]awaited), moored: make(map[anchor]place),
	}
	r.Conn = cuttable{spec.Conn}
	r.result.Trusted = spec.Trusted
	if !spec.Trusted {
		if r.root, err = rootFrom(spec.Root, spec.Key, g, spec.Start); err != nil {
			return nil, err
		}
		r.searches++
	}
	if len(seeds) > 0 {
		r.searches++
		r.allowance.content = int(blocks) // so much at most
		r.inVain += r.allowance.most      // what waited was overtaken
	}
	r.index(blocks)
	r.progress.begin(g, spec.Start)
	for stage, n := range map[Stage]int{StageHash: hashers(), StageCompress: min(cap(r.data), hashers()), StageWrite: cap(r.data)} {
		r.progress.workers(stage, n)
	}
	r.progress.watchWire(func() int64 { stats := r.Conn.Stats(); return stats.BytesRead + stats.BytesWritten })
	return r, nil
}

// index makes the indexes of the blocks that target and seeds have. Where windows are
// looked for, half of the memory is theirs.
func (r *receiver) index(blocks int64) {
	memory := cmp.Or(r.Index, DefaultIndex)
	if !r.Trusted || len(r.seeds) > 0 {
		memory /= 2
		r.anchors = newIndex(memory, blocks*partsPerBlock/anchorEvery)
	}
	r.seen = newIndex(memory, blocks)
	if len(r.seeds) > 0 {
		r.seen.fixed = r.seeds[0].first
		r.anchors.fixed = r.seeds[0].first
	}
}

func (r *receiver) run(ctx context.Context) error {
	// A sink of which nothing is durable yet can only be asked to begin at the beginning: its scan does not wait half a round trip and more to be told.
	early := !r.Trusted && r.Start == 0
	if !early {
		if err := r.opened(ctx); err != nil {
			return err
		}
	}
	err := r.records.during(ctx, func(ctx context.Context) error {
		group, ctx := newGroup(ctx)
		group.Go(func() error {
			defer close(r.offers)
			defer close(r.data)
			if early {
				if err := r.opened(ctx); err != nil {
					return err
				}
			}
			return r.listen(ctx)
		})
		group.Go(func() error { return r.resolve(ctx) })
		for range cap(r.data) {
			group.Go(func() error { return r.write(ctx) })
		}
		if !r.Trusted {
			group.Go(func() error { return r.scan(ctx) })
		}
		if len(r.seeds) > 0 {
			group.Go(func() error { return r.learn(ctx) })
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
	if r.Start > 0 { // else all of them begin at 0, and are in use
		r.from, r.reached, r.passed, r.acked = m.start, m.start, m.start, m.start
		r.progress.begin(r.geometry, m.start)
	}
	if r.Resumed && r.Trusted {
		r.checks = r.inVain
	}
	return nil
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
			if e != nil {
				r.allowance.alike += len(e.blocks) - bits.OnesCount64(e.zero)
			}
			r.mu.Unlock()
			if e == nil {
				return malformed("PASSED", "extent %d is not scanned yet", number)
			}
			it.digest = e.digest
			r.seen.putExtent(e, ^uint64(0), firstBlock(number), 0) // rather than what is overwritten
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
