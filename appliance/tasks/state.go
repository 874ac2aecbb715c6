package tasks

import (
	"context"
	"errors"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// status describes the task.
func (t *task) status() control.TaskStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := control.TaskStatus{
		ID: t.spec.ID, Kind: t.spec.Kind, State: t.state, Waiting: t.waiting, Error: message(t.err),
		Root: t.root, Result: t.result, Trusted: t.trusted, Verified: t.verified, Hint: t.hinted, Counters: t.meter.counters(),
	}
	s.Reached, s.Suspect, s.Unmet = t.reached(), suspect(t.err), errors.Is(t.err, errUnmet)
	for _, sink := range t.sinks {
		s.Cuts += sink.cuts
		if sink.cutCause != nil {
			s.CutCause = message(sink.cutCause)
		}
	}
	if t.spec.Kind != control.KindSend {
		return s
	}
	for _, sink := range t.sinks {
		s.Sinks = append(s.Sinks, control.SinkStatus{Error: message(sink.err), Result: sink.result, Counters: sink.meter.counters()})
	}
	return s
}

// reached is the farthest that any of the sinks may have been written. mu is held.
func (t *task) reached() *uint32 {
	if !t.state.Ended() || t.spec.Kind == control.KindScan || t.spec.Kind == control.KindVerify {
		return nil
	}
	var farthest uint32
	for _, s := range t.sinks {
		if s.working {
			return nil
		}
		farthest = max(farthest, s.reached)
	}
	return &farthest
}

// begin and told stand around an attempt with a sink, which tells how far it reached.
func (t *task) begin(s *sink) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.working = true
}

func (t *task) told(s *sink, reached uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.working, s.reached = false, max(s.reached, reached)
}

// suspect tells a failure after which nothing that was recorded is to be relied upon.
func suspect(err error) bool {
	for _, bad := range []error{transfer.ErrDefect, transfer.ErrMismatch, transfer.ErrProtocol, netproto.ErrProtocol} {
		if errors.Is(err, bad) {
			return true
		}
	}
	remote := (*netproto.RemoteError)(nil)
	return errors.As(err, &remote) && (remote.Code == transfer.CodeMismatch || remote.Code == netproto.CodeProtocol)
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// await describes the task once its state is good, or when ctx ends.
func (t *task) await(ctx context.Context, good func(control.State) bool) control.TaskStatus {
	for {
		t.mu.Lock()
		state, changed := t.state, t.changed
		t.mu.Unlock()
		if good(state) {
			return t.status()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return t.status()
		}
	}
}

func (t *task) hasEnded() bool {
	select {
	case <-t.ended:
		return true
	default:
		return false
	}
}

func (t *task) setWaiting(what string) { t.move(control.StateWaiting, what) }

func (t *task) setRunning() { t.move(control.StateRunning, "") }

func (t *task) move(state control.State, waiting string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = waiting
	if t.state != state {
		t.state = state
		t.wake()
	}
}

// wake is called with mu held.
func (t *task) wake() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// end makes the outcome known.
func (t *task) end(err error) {
	for _, s := range t.sinks {
		if s.journal != nil {
			s.journal.end()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting, t.err = "", err
	t.meter.freeze()
	for _, s := range t.sinks {
		s.meter.freeze()
	}
	final := t.meter.counters()
	log := t.manager.options.Log.With("task", t.spec.ID, "kind", t.spec.Kind)
	switch {
	case err == nil:
		t.state = control.StateDone
		log.Info("task done", "processed", final.Processed, "read", final.Read, "written", final.Written)
	case errors.Is(err, errCancelled) || errors.Is(err, errStopped):
		t.state = control.StateCancelled
		log.Info("task cancelled", "cause", err)
	default:
		t.state = control.StateFailed
		log.Error("task failed", "cause", err)
	}
	close(t.ended)
	t.wake()
}
