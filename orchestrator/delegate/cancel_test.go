package delegate_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// interrupter ends a context at one of the calls that go through it: before the pool gets it, or after the pool has carried it
// out and before the answer is there.
type interrupter struct {
	xapi.API
	end  context.CancelFunc
	at   int64 // number of the call, from 1
	lost bool  // the answer is lost, the call is not
	seen atomic.Int64
}

func (i *interrupter) pass(ctx context.Context, call func(context.Context) error) error {
	if i.seen.Add(1) != i.at {
		return call(ctx)
	}
	if i.lost {
		err := call(context.WithoutCancel(ctx))
		i.end()
		if err != nil {
			return err
		}
		return context.Canceled
	}
	i.end()
	return call(ctx)
}

func (i *interrupter) Call(ctx context.Context, method string, result any, args ...any) error {
	return i.pass(ctx, func(ctx context.Context) error { return i.API.Call(ctx, method, result, args...) })
}

func (i *interrupter) Run(ctx context.Context, method string, result *string, args ...any) error {
	return i.pass(ctx, func(ctx context.Context) error { return i.API.Run(ctx, method, result, args...) })
}

func (i *interrupter) Events(ctx context.Context, classes []string, token string, timeout time.Duration) (batch xapi.EventBatch, err error) {
	err = i.pass(ctx, func(ctx context.Context) (err error) {
		batch, err = i.API.Events(ctx, classes, token, timeout)
		return err
	})
	return batch, err
}

// TestCancelAnywhere ends the context at every call of a spawn in turn. Nothing is left behind, wherever that was.
func TestCancelAnywhere(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]bool{"before the call": false, "before the answer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, honest(t), 1)
			client := f.pool.API
			for at := int64(1); ; at++ {
				ctx, cancel := context.WithCancel(t.Context())
				f.pool.API = &interrupter{API: client, end: cancel, at: at, lost: lost}
				var err error
				within(t, 5*time.Second, func() {
					d, spawnErr := f.spawner.Spawn(ctx, f.spec())
					if err = spawnErr; err == nil {
						f.pool.API = client
						err = d.Retire(t.Context())
						at = -1
					}
				})
				cancel()
				f.pool.API = client
				f.nothingLeft()
				f.unwind()
				if at < 0 {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("call %d: %v", at, err)
				}
			}
		})
	}
}

// TestCancelAWait ends waits that would last for minutes.
func TestCancelAWait(t *testing.T) {
	t.Parallel()
	silent := scriptedWorld(func(*scriptedGuest) {})
	f := newFixture(t, silent, 1)
	f.spawner.Timeout = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(500*time.Millisecond, cancel)
	within(t, 3*time.Second, func() {
		if _, err := f.spawner.Spawn(ctx, f.spec()); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	f.nothingLeft()
}

// slowCloner is a pool on a slow line: the request for a clone arrives after a while, and is carried out even when nobody waits
// for the answer any more.
type slowCloner struct {
	xapi.API
	group sync.WaitGroup
}

func (s *slowCloner) Run(ctx context.Context, method string, result *string, args ...any) error {
	if method != "VM.clone" {
		return s.API.Run(ctx, method, result, args...)
	}
	done := make(chan error, 1)
	var ref string
	s.group.Go(func() {
		time.Sleep(300 * time.Millisecond)
		done <- s.API.Run(context.WithoutCancel(ctx), method, &ref, args...)
	})
	select {
	case err := <-done:
		*result = ref
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// TestCancelAClone cancels the request for a clone on its way.
func TestCancelAClone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, honest(t), 1)
	cloner := &slowCloner{API: f.pool.API}
	f.pool.API = cloner
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := f.spawner.Spawn(ctx, f.spec()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	cloner.group.Wait()
	f.nothingLeft()
}
