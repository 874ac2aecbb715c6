package replication

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

const (
	// parallelDisks is how many disks a pair of delegates moves at a time; a delegate shares its memory out among them.
	parallelDisks = 4
	// cancelTimeout bounds the cancelling of a task, and the fetching of what a task that failed had journalled.
	cancelTimeout = 5 * time.Second
	tokenSize     = 32 // bytes
)

// moveDisks has the delegates move all disks that have not been moved.
func (r *run) moveDisks(ctx context.Context) error {
	if !slices.ContainsFunc(r.disks, func(d *diskRun) bool { return !d.moved }) {
		return nil
	}
	stop, err := r.limit(ctx)
	if err != nil {
		return err
	}
	defer stop()
	return r.inParallel(ctx, (*diskRun).move)
}

// inParallel has all disks moved that have not been, some at a time. The first that fails stops the others.
func (r *run) inParallel(ctx context.Context, move func(*diskRun, context.Context) error) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallelDisks)
	for _, d := range r.disks {
		if d.moved {
			continue
		}
		group.Go(func() error {
			if groupCtx.Err() != nil {
				return context.Cause(groupCtx)
			}
			if err := move(d, groupCtx); err != nil {
				r.report.disk(d.plan.Disk, func(disk *report.Disk) { disk.State = report.DiskFailed })
				return fmt.Errorf("disk %s: %w", d.plan.Disk, err)
			}
			return nil
		})
	}
	err := group.Wait()
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}

// end is a task of the transfer on one delegate.
type end struct {
	delegate *delegate.Delegate
	spec     control.TaskSpec
	status   control.TaskStatus // the newest; guarded by transferRun.mu
}

// transferRun is the transfer of one disk under way.
type transferRun struct {
	*diskRun
	sender, receiver *end // the same one for a copy inside a delegate
	reporter         *end // whose journal is fetched
	started          time.Time

	mu   sync.Mutex
	done chan struct{} // closed when both ends have ended
}

func (t *transferRun) ends() []*end {
	if t.sender == t.receiver {
		return []*end{t.sender}
	}
	return []*end{t.receiver, t.sender} // in the order of starting: the receiver finds its disk first
}

// move transfers the disk and checks what both ends say of it.
func (d *diskRun) move(ctx context.Context) error {
	t, err := d.newTransfer()
	if err != nil {
		return err
	}
	d.report.disk(d.plan.Disk, func(disk *report.Disk) { disk.State = report.DiskMoving })
	if err := t.run(ctx); err != nil {
		return err
	}
	root, err := t.check()
	if err != nil {
		return err
	}
	if err := d.compose(ctx, root); err != nil {
		return err
	}
	d.moved = true
	d.report.disk(d.plan.Disk, func(disk *report.Disk) { disk.State, disk.Root = report.DiskFlushed, d.manifest.Root.String() })
	return nil
}

// newTransfer describes the tasks of both ends.
func (d *diskRun) newTransfer() (*transferRun, error) {
	key := d.store.Installation().DigestKey.ID()
	common := control.TaskSpec{ID: d.id + "." + d.plan.Disk, Size: d.plan.Size, KeyID: key, Start: d.start}
	common.Tuning.Parallel = min(len(d.disks), parallelDisks)
	hint, err := d.hint()
	if err != nil {
		return nil, err
	}
	trusted := map[Baseline]control.Trusted{BaselineZero: control.TrustZero, BaselineManifest: control.TrustKnown}[d.plan.Baseline]
	t := &transferRun{diskRun: d, done: make(chan struct{}), started: time.Now()}
	if d.delegates.shared() {
		spec := common
		spec.Kind, spec.Device, spec.Target, spec.Hint = control.KindCopy, d.sourceNumber, d.targetNumber, hint
		spec.Generation, spec.Trusted, spec.Records, spec.Known, spec.Resumed = d.generation, trusted, true, d.known != nil, d.resumed
		t.sender = &end{delegate: d.delegates.source, spec: spec}
		t.receiver, t.reporter = t.sender, t.sender
		return t, nil
	}
	token := make([]byte, tokenSize)
	if _, err := rand.Read(token); err != nil {
		return nil, fmt.Errorf("drawing a token: %w", err)
	}
	common.ResumeSeconds = int(d.engine.resumeWindow().Seconds())
	send, receive := common, common
	send.Kind, send.Device, send.Hint, send.Known = control.KindSend, d.sourceNumber, hint, hint != nil
	receive.Kind, receive.Device, receive.Generation, receive.Resumed = control.KindReceive, d.targetNumber, d.generation, d.resumed
	if trusted != control.TrustNone {
		receive.Trusted = control.TrustPeer
	}
	sink := control.Sink{Peer: peer(d.delegates.target, token), Trusted: trusted}
	receive.Seeds = d.seedsOf(d.plan)
	receive.Peer = new(peer(d.delegates.source, token))
	dialled := &sink.Peer
	if d.request.Direction == report.Push {
		receive.Peer.Address = ""
	} else {
		sink.Address, dialled = "", receive.Peer
	}
	if d.engine.line != nil {
		if dialled.Address, err = d.engine.line(dialled.Address); err != nil {
			return nil, err
		}
	}
	// A trusted receiver does not know the blocks that stay, so that its sender reports.
	if receive.Trusted == control.TrustNone && d.request.Direction == report.Pull {
		receive.Records, receive.Known = true, d.known != nil
	} else {
		sink.Records, send.Known = true, d.known != nil
	}
	send.Sinks = []control.Sink{sink}
	t.sender = &end{delegate: d.delegates.source, spec: send}
	t.receiver = &end{delegate: d.delegates.target, spec: receive}
	t.reporter = t.sender
	if receive.Records {
		t.reporter = t.receiver
	}
	return t, nil
}

func peer(d *delegate.Delegate, token []byte) control.Peer {
	return control.Peer{Fingerprint: d.Fingerprint, Address: d.Address, Token: token}
}

// run starts the tasks, feeds and drains them, and returns when both have ended and all that was journalled is safe. When one
// end fails, or ctx ends, the other is cancelled.
func (t *transferRun) run(ctx context.Context) error {
	work, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// What is durable on the target is journalled also when the transfer fails.
	drain, stopDrain := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDrain()

	if err := t.start(work); err != nil {
		t.cancel(ctx)
		t.bound()
		return err
	}
	fail := func(err error) {
		if err != nil {
			stop(err)
		}
	}
	var helpers, watchers sync.WaitGroup
	helpers.Go(func() { fail(t.drain(drain)) })
	if t.sender.spec.SinkTrusted()[0] == control.TrustKnown || t.sender.spec.HintsByKnown() {
		helpers.Go(func() { fail(t.serveWanted(work)) })
	}
	for _, e := range t.ends() {
		watchers.Go(func() { fail(t.watch(work, e)) })
	}
	watchers.Wait()
	close(t.done)
	failure := context.Cause(work)
	if failure != nil {
		t.cancel(ctx)
		t.bound()
		defer time.AfterFunc(cancelTimeout, stopDrain).Stop()
	}
	helpers.Wait()
	t.noteHint()
	if failure == nil {
		failure = context.Cause(work) // a helper failed at the very end
	}
	t.count()
	return failure
}

// start posts the tasks and gives the reporting end the digests that are known.
func (t *transferRun) start(ctx context.Context) error {
	for _, e := range t.ends() {
		err := t.ask(ctx, e.delegate, func() error {
			_, err := e.delegate.Control().StartTask(ctx, e.spec)
			return err
		})
		if err == nil && e.spec.Known {
			err = t.ask(ctx, e.delegate, func() error { return e.delegate.Control().PutKnown(ctx, e.spec.ID, t.known) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// cancel ends the tasks, whatever became of ctx. A delegate that does not answer is of no concern: it is shut down next, and
// the failure that led here is told.
func (t *transferRun) cancel(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	var group sync.WaitGroup
	for _, e := range t.ends() {
		group.Go(func() {
			status, err := e.delegate.Control().CancelTask(ctx, e.spec.ID)
			if err != nil {
				t.log.Info("a task could not be cancelled", "disk", t.plan.Disk, "delegate", e.delegate.Name(), "cause", err)
				return
			}
			t.mu.Lock()
			defer t.mu.Unlock()
			e.status = status
		})
	}
	group.Wait()
}

// check compares what both ends found, and returns the root of what was read; it is zero when the transfer went on from a watermark
// where no process has seen all of the source. The records are then what is known: each block was checked against its digest on both
// ends before it counted.
func (t *transferRun) check() (manifest.Digest, error) {
	sent, received := t.sender.status, t.receiver.status
	if t.sender == t.receiver {
		return sent.Root, nil // one process, one result
	}
	if result := sent.Sinks[0].Result; result != received.Result {
		return manifest.Digest{}, fmt.Errorf("%w: the sender settled %s, the receiver %s", ErrMismatch, result, received.Result)
	}
	if t.receiver.spec.Trusted == control.TrustNone && received.Root != sent.Root {
		return manifest.Digest{}, fmt.Errorf("%w: the source was read with root %s, the target holds root %s", ErrMismatch, sent.Root, received.Root)
	}
	return sent.Root, nil
}
