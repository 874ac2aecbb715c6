package tasks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// transfer opens the disks, meets the peers and lets package transfer work with so many bytes of buffers.
func (t *task) transfer(ctx context.Context, memory int64) error {
	source, target, err := t.openDisks()
	if err != nil {
		return err
	}
	if err := t.connect(ctx); err != nil {
		return err
	}
	defer t.disconnect()
	t.setRunning()
	tuning := transfer.Tuning{Memory: memory, QueueDepth: t.spec.Tuning.QueueDepth, Compression: t.spec.Tuning.Compression}
	switch t.spec.Kind {
	case control.KindScan:
		return t.scan(ctx, source, tuning)
	case control.KindCopy:
		return t.copy(ctx, source, target, tuning)
	case control.KindSend:
		return t.send(ctx, source, tuning)
	default:
		return t.receive(ctx, target, tuning)
	}
}

// openDisks opens source and target, as far as the task has them, and checks their sizes.
func (t *task) openDisks() (source, target blockio.Device, err error) {
	writes, reads := t.leases, t.leases // which lease is which: a copy has source and target, others one
	if t.spec.Kind == control.KindCopy {
		writes = writes[1:]
	}
	if number, ok := t.spec.ReadsDevice(); ok {
		if source, err = reads[0].OpenSource(); err != nil {
			return nil, nil, err
		}
		if source.Size() < t.spec.Size {
			return nil, nil, fmt.Errorf("source disk %d has %d bytes, less than the logical size of %d: it is another disk, or the size is wrong", number, source.Size(), t.spec.Size)
		}
	}
	if number, ok := t.spec.WritesDevice(); ok {
		if target, err = writes[0].OpenTarget(); err != nil {
			return nil, nil, err
		}
		if target.Size() < t.spec.Size {
			return nil, nil, fmt.Errorf("target disk %d has %d bytes, the logical size is %d: %w; enlarge it or choose another", number, target.Size(), t.spec.Size, transfer.ErrTargetTooSmall)
		}
	}
	return source, target, nil
}

func (t *task) scan(ctx context.Context, source blockio.Device, tuning transfer.Tuning) error {
	result, err := transfer.Scan(ctx, transfer.ScanSpec{
		Source: source, Size: t.spec.Size, Key: t.key, Known: t.knownExtents(), Records: t.sinks[0].records(),
		Tuning: tuning, Progress: t.progress,
	})
	t.conclude(result.Root, manifest.Digest{}, false)
	return err
}

func (t *task) copy(ctx context.Context, source, target blockio.Device, tuning transfer.Tuning) error {
	result, err := transfer.Copy(ctx, transfer.CopySpec{
		Source: source, Target: target, Size: t.spec.Size, Key: t.key, Trusted: t.trustedBy(t.sinks[0]),
		Known: t.knownExtents(), Records: t.sinks[0].records(), Tuning: tuning, Progress: t.progress,
	})
	if err == nil {
		t.conclude(result.Root, result.Sinks[0].Result, t.spec.Trusted != control.TrustNone)
		err = result.Sinks[0].Err
	}
	return err
}

func (t *task) receive(ctx context.Context, target blockio.Device, tuning transfer.Tuning) error {
	result, err := transfer.Receive(ctx, transfer.ReceiveSpec{
		Conn: t.sinks[0].conn, Task: t.spec.ID, Target: target, Size: t.spec.Size, Key: t.key,
		Trusted: t.spec.Trusted == control.TrustPeer, Known: t.knownExtents(), Records: t.sinks[0].records(), Tuning: tuning, Progress: t.progress,
	})
	t.conclude(result.Root, result.Result, result.Trusted)
	return err
}

// send serves the sinks that could be reached; a sink that fails does not stop the others, but fails the task in the end.
func (t *task) send(ctx context.Context, source blockio.Device, tuning transfer.Tuning) error {
	spec := transfer.SendSpec{Source: source, Size: t.spec.Size, Key: t.key, Known: t.knownExtents(), Tuning: tuning, Progress: t.progress}
	var served []*sink
	for _, s := range t.sinks {
		if s.conn != nil {
			served = append(served, s)
			spec.Sinks = append(spec.Sinks, transfer.SinkSpec{
				Conn: t.manager.limiter.Conn(s.conn), Task: t.spec.ID, Trusted: t.trustedBy(s), Records: s.records(), Progress: s.progress,
			})
		}
	}
	result, err := transfer.Send(ctx, spec)
	t.conclude(result.Root, manifest.Digest{}, false)
	t.mu.Lock()
	for i, r := range result.Sinks {
		served[i].err, served[i].result = r.Err, r.Result
	}
	t.mu.Unlock()
	if sinks := t.sinkErrors(); sinks != nil {
		return sinks // what the source failed with stands in each
	}
	return err
}

// sinkErrors joins what went wrong with sinks.
func (t *task) sinkErrors() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for i, s := range t.sinks {
		if s.err != nil {
			errs = append(errs, fmt.Errorf("sink %d: %w", i, s.err))
		}
	}
	return errors.Join(errs...)
}

func (t *task) conclude(root, result manifest.Digest, trusted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.root, t.result, t.trusted = root, result, trusted
}

func (t *task) knownExtents() []manifest.Digest {
	if t.known == nil {
		return nil
	}
	return t.known.digests()
}

// trustedBy returns what is known of a sink's content; nil has it scanned.
func (t *task) trustedBy(s *sink) transfer.Baseline {
	switch s.trusted {
	case control.TrustZero:
		return transfer.ZeroBaseline(t.key, t.spec.Size)
	case control.TrustManifest, control.TrustKnown:
		return s.baseline
	default:
		return nil
	}
}

func (s *sink) records() transfer.RecordFunc {
	if s.journal == nil {
		return nil
	}
	return s.journal.add
}

// connect meets the peers of all sinks at the same time. It fails when there is none to work with.
func (t *task) connect(ctx context.Context) error {
	var meeting sync.WaitGroup
	var failed int
	for _, s := range t.sinks {
		if s.peer.Fingerprint == "" {
			continue
		}
		t.setWaiting("the other end of the transfer")
		meeting.Go(func() {
			conn, err := t.meet(ctx, s.peer)
			t.mu.Lock()
			defer t.mu.Unlock()
			s.conn, s.err = conn, err
			if err != nil {
				failed++
			}
		})
	}
	meeting.Wait()
	if failed == 0 || failed < len(t.sinks) {
		return nil
	}
	if t.spec.Kind == control.KindSend {
		return t.sinkErrors()
	}
	return t.sinks[0].err
}

// disconnect closes what a transfer that failed early, or panicked, may have left open.
func (t *task) disconnect() {
	for _, s := range t.sinks {
		if s.conn != nil {
			_ = s.conn.Close() // the transfer's error says more
		}
	}
}

// meet dials a peer, or waits for it to dial.
func (t *task) meet(ctx context.Context, peer control.Peer) (*netproto.Conn, error) {
	wait := t.manager.options.PeerWait
	if peer.Address == "" {
		wait *= 4 // see Options.PeerWait
		ctx, cancel := context.WithTimeoutCause(ctx, wait,
			fmt.Errorf("the peer %s did not connect within %v: check its task's error, and that it can reach this delegate's port %d", peer.Fingerprint, wait, control.Port))
		defer cancel()
		return t.manager.rendezvous.await(ctx, peer)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return t.dial(ctx, peer)
}

// redial is the time between two attempts.
const redial = 200 * time.Millisecond

// dial repeats until the peer answers: it may not have started, or not have been told of this delegate yet.
func (t *task) dial(ctx context.Context, peer control.Peer) (*netproto.Conn, error) {
	m := t.manager
	o := netproto.Options{Software: m.options.Software, Window: window(t.spec.Tuning), Token: peer.Token}
	last := errors.New("no answer")
	for {
		conn, err := netproto.Dial(ctx, peer.Address, m.options.Identity, peer.Fingerprint, o)
		if err == nil || errors.Is(err, netproto.ErrIdentity) || errors.Is(err, netproto.ErrVersion) {
			return conn, err // time will not mend it
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-time.After(redial):
		case <-ctx.Done():
			if t.ctx.Err() != nil {
				return nil, context.Cause(t.ctx)
			}
			return nil, fmt.Errorf("peer %s could not be reached within %v: %w", peer.Address, m.options.PeerWait, last)
		}
	}
}
