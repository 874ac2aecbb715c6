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

// The pause before a peer is dialled again after a cut doubles from the one to the other, and starts anew once the transfer has
// come further: a line that is cut again and again is not dialled in a tight loop.
const (
	minPause = 200 * time.Millisecond
	maxPause = 10 * time.Second
)

// receive takes what one sender sends, over as many connections as that needs.
func (t *task) receive(ctx context.Context, target blockio.Device, seeds []transfer.Seed, tuning transfer.Tuning) error {
	s := t.sinks[0]
	spec := transfer.ReceiveSpec{
		Task: t.spec.ID, Target: target, Hint: t.hint, Size: t.spec.Size, Key: t.key, Trusted: t.spec.Trusted == control.TrustPeer,
		Root: t.root0(), Known: t.knownExtents(), Records: s.records(), Resumed: t.spec.Resumed, Seeds: seeds, Tuning: tuning,
	}
	for {
		spec.Conn, spec.Start, spec.Progress = s.conn, s.start, t.attempted()
		t.begin(s)
		result, err := transfer.Receive(ctx, spec)
		t.told(s, result.Reached)
		t.conclude(result.Root, result.Result, result.Trusted)
		t.concludeHint(result.Hint)
		if !t.cut(s, result.Watermark, result.Counters.Written > 0, err) {
			return err
		}
		spec.Resumed = true
		window := t.resumeWindow()
		if result.Agreed {
			// Only the farewell is missing, and the sender that has had its answer does not come again.
			window = min(window, t.listenWait())
		}
		if err := t.meetAgain(ctx, s, window); err != nil {
			if result.Agreed && ctx.Err() == nil {
				return nil
			}
			return err
		}
	}
}

// send serves the sinks that could be reached; a sink that fails does not stop the others, but fails the task in the end. Sinks whose
// connections were cut go on together when the others have ended, each from its own watermark, so that the source is read once for
// all of them.
func (t *task) send(ctx context.Context, source blockio.Device, tuning transfer.Tuning) error {
	var served []*sink
	for _, s := range t.sinks {
		if s.conn != nil {
			served = append(served, s)
		}
	}
	root := t.root0()
	for {
		spec := transfer.SendSpec{Source: source, Hint: t.hint, Size: t.spec.Size, Key: t.key, Known: t.knownExtents(), Root: root, Tuning: tuning, Progress: t.attempted()}
		for _, s := range served {
			t.begin(s)
			spec.Sinks = append(spec.Sinks, transfer.SinkSpec{
				Conn: t.manager.limiter.Conn(s.conn), Task: t.spec.ID, Trusted: t.trustedBy(s), Records: s.records(), Progress: t.attemptedBy(s), Start: s.start, Sent: s.sent,
			})
		}
		result, err := transfer.Send(ctx, spec)
		t.conclude(result.Root, manifest.Digest{}, false)
		t.concludeHint(result.Hint)
		var cut []*sink
		for i, r := range result.Sinks {
			s := served[i]
			t.told(s, r.Reached)
			t.mu.Lock()
			s.err, s.result, s.sent = r.Err, r.Result, r.Sent
			t.mu.Unlock()
			if t.cut(s, r.Watermark, r.Counters.Sent > r.Counters.Resent, r.Err) {
				cut = append(cut, s)
			}
		}
		if served = t.allAgain(ctx, cut); len(served) == 0 {
			if sinks := t.sinkErrors(); sinks != nil {
				return sinks // what the source failed with stands in each
			}
			return err
		}
	}
}

// allAgain meets the peers of sinks that were cut, and returns those that it met.
func (t *task) allAgain(ctx context.Context, cut []*sink) (met []*sink) {
	var meeting sync.WaitGroup
	for _, s := range cut {
		meeting.Go(func() {
			err := t.meetAgain(ctx, s, t.resumeWindow())
			t.mu.Lock()
			defer t.mu.Unlock()
			if s.err = err; err == nil {
				met = append(met, s)
			}
		})
	}
	meeting.Wait()
	return met
}

// root0 is the root over all attempts, when the first one starts at the beginning.
func (t *task) root0() *manifest.RootHasher {
	if t.spec.Start > 0 {
		return nil
	}
	return t.key.NewRoot(t.geometry)
}

func (t *task) resumeWindow() time.Duration { return time.Duration(t.spec.ResumeSeconds) * time.Second }

// attempted begins the counting of an attempt.
func (t *task) attempted() *transfer.Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.meter.next()
}

func (t *task) attemptedBy(s *sink) *transfer.Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return s.meter.next()
}

// cut tells whether an attempt ended by a cut, so that another one may go on from its watermark, and notes it. moved says that it
// brought something new, even if not up to a watermark.
func (t *task) cut(s *sink, watermark uint32, moved bool, err error) bool {
	if t.spec.ResumeSeconds == 0 || t.ctx.Err() != nil || !t.mendable(s, err) {
		return false
	}
	t.mu.Lock()
	s.cuts++
	s.cutCause = err
	t.mu.Unlock()
	if watermark > s.start || moved || s.since.IsZero() {
		s.since, s.pause = time.Now(), 0
	}
	s.start = max(s.start, watermark)
	t.manager.options.Log.Warn("connection cut", "task", t.spec.ID, "watermark", s.start, "cause", err)
	return true
}

// mendable tells a lost line from what would fail again: what either end found wrong, and whoever is not who he should be.
func (t *task) mendable(s *sink, err error) bool {
	if errors.Is(err, transfer.ErrCut) {
		return true
	}
	// The peer's listener has not found out yet that the old connection is gone.
	var remote *netproto.RemoteError
	return s.cuts > 0 && errors.As(err, &remote) && remote.Code == CodeUnknownTask
}

// meetAgain brings both ends of a connection that was cut together, until the window from when they last came further has passed.
func (t *task) meetAgain(ctx context.Context, s *sink, window time.Duration) error {
	t.setWaiting(fmt.Sprintf("the other end of the transfer, after a cut: %v", s.cutCause))
	cut := time.Now()
	ctx, cancel := context.WithDeadlineCause(ctx, s.since.Add(window), fmt.Errorf("the two ends did not meet again within %v: %w", window, s.cutCause))
	defer cancel()
	conn, err := t.reconnect(ctx, s)
	if err != nil {
		return err
	}
	t.mu.Lock()
	s.conn = conn
	t.mu.Unlock()
	t.setRunning()
	t.manager.options.Log.Info("connection resumed", "task", t.spec.ID, "watermark", s.start, "after", time.Since(cut).Round(time.Millisecond))
	return nil
}

func (t *task) reconnect(ctx context.Context, s *sink) (*netproto.Conn, error) {
	if s.peer.Address == "" {
		return t.manager.rendezvous.await(ctx, s.peer)
	}
	next := func() time.Duration {
		s.pause = min(max(2*s.pause, minPause), maxPause)
		return s.pause
	}
	select {
	case <-time.After(next()):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	conn, err := t.dial(ctx, s.peer, next)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
	}
	return conn, err
}
