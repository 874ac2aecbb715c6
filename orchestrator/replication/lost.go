package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// askPause is the time between two attempts to reach a delegate that does not answer.
	askPause = time.Second
	// lookTimeout bounds a look at the VM of a delegate that does not answer.
	lookTimeout = 15 * time.Second
	// maxSilence is how long a delegate whose VM runs may be silent before another one takes its place.
	maxSilence = 3 * time.Minute
)

// errEndedElsewhere is a task that was cancelled, and not by its run: its delegate stops.
var errEndedElsewhere = errors.New("the task was ended by its delegate")

// errUnmet is a task that dialled its peer in vain.
var errUnmet = errors.New("the other end of the transfer could not be reached")

// lostError says that a delegate is gone. What it did is journalled up to a watermark, and another one can go on from there.
type lostError struct {
	delegate string // name
	cause    error
}

func (e *lostError) Error() string {
	return fmt.Sprintf("delegate %s is lost: %v", e.delegate, e.cause)
}

func (e *lostError) Unwrap() error { return e.cause }

// asker makes a call to a delegate.
type asker func(call func() error) error

// once makes it and takes the outcome as it is.
func once(call func() error) error { return call() }

func (t *transferRun) asker(ctx context.Context, e *end) asker {
	return func(call func() error) error { return t.ask(ctx, e.delegate, call) }
}

// ask repeats a call, which must be one that may be repeated, for as long as the delegate does not answer and may yet: a line to
// the other site that is down is no reason to give up what goes on there. It returns a *lostError when the delegate is gone.
func (r *run) ask(ctx context.Context, d *delegate.Delegate, call func() error) error {
	since := time.Now()
	for {
		err := call()
		var answer *control.Error
		if err == nil || ctx.Err() != nil || errors.As(err, &answer) {
			return err
		}
		if r.gone(ctx, d, time.Since(since), err) {
			return &lostError{delegate: d.Name(), cause: err}
		}
		select {
		case <-time.After(askPause):
		case <-ctx.Done():
			return err
		}
	}
}

// gone asks the pool of a delegate that has not answered for some time.
func (r *run) gone(ctx context.Context, d *delegate.Delegate, silent time.Duration, failure error) bool {
	if errors.Is(failure, netproto.ErrIdentity) {
		return true // it was restarted, and what it knew is lost
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	vm, err := xapi.GetRecord[xapi.VM](ctx, d.Pool().API, classVM, d.Ref)
	switch {
	case xapi.IsGone(err, d.Ref):
		return true
	case err != nil: // its pool cannot be reached either
		return silent > r.engine.resumeWindow()
	}
	return vm.PowerState != xapi.Running || silent > min(maxSilence, r.engine.resumeWindow())
}
