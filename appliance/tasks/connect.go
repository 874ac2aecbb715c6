package tasks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
)

// errUnmet is a peer that was dialled in vain when the transfer began.
var errUnmet = errors.New("could not be reached")

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
	// Who goes on from a watermark has met the peer before: a line that is down is waited for as after a cut.
	wait, pause := t.manager.options.PeerWait, redial
	if t.spec.Start > 0 {
		wait = max(wait, t.resumeWindow())
	}
	if peer.Address == "" {
		wait = max(wait, t.listenWait())
		ctx, cancel := context.WithTimeoutCause(ctx, wait,
			fmt.Errorf("the peer %s did not connect within %v: check its task's error, and that it can reach this delegate's port %d", peer.Fingerprint, wait, control.Port))
		defer cancel()
		return t.manager.rendezvous.await(ctx, peer)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	conn, err := t.dial(ctx, peer, func() time.Duration {
		if t.spec.Start > 0 {
			pause = min(2*pause, maxPause)
		}
		return pause
	})
	if err != nil && ctx.Err() != nil && t.ctx.Err() == nil {
		if remote := (*netproto.RemoteError)(nil); errors.As(err, &remote) || errors.Is(err, netproto.ErrRefused) {
			return conn, fmt.Errorf("peer %s took no connection within %v: %w", peer.Address, wait, err)
		}
		err = fmt.Errorf("peer %s %w within %v: %w", peer.Address, errUnmet, wait, err)
	}
	return conn, err
}

// listenWait is how long a peer that dials is waited for; see Options.PeerWait.
func (t *task) listenWait() time.Duration { return 4 * t.manager.options.PeerWait }

// redial is the time between two attempts.
const redial = 200 * time.Millisecond

// dial repeats until the peer answers: it may not have started, or not have been told of this delegate yet. When the context ends it
// returns the last failure.
func (t *task) dial(ctx context.Context, peer control.Peer, pause func() time.Duration) (*netproto.Conn, error) {
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
		case <-time.After(pause()):
		case <-ctx.Done():
			if t.ctx.Err() != nil {
				return nil, context.Cause(t.ctx)
			}
			return nil, last
		}
	}
}
