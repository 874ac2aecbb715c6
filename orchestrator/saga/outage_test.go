package saga_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// createIn makes a thing in a pool.
func createIn(t *testing.T, s *saga.Saga, w world, pool string) {
	t.Helper()
	intent := thing
	intent.Pool = pool
	if _, err := s.Create(t.Context(), intent, w.create); err != nil {
		t.Fatal(err)
	}
}

func TestAHangingPoolKeepsItsOwnOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		s := saga.New(f.store, f.run, saga.Undoers{"thing": func(ctx context.Context, o state.Object) error {
			if o.Pool == "sick" {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return f.world.undo(ctx, o)
		}})
		for range 5 {
			createIn(t, s, f.world, "pool")
		}
		createIn(t, s, f.world, "sick")
		createIn(t, s, f.world, "sick")
		began := time.Now()
		if err := s.Unwind(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if got := statuses(f.objects(t)); got != "undone undone undone undone undone created created" {
			t.Errorf("record: %s", got)
		}
		if took := time.Since(began); took > 4*time.Minute {
			t.Errorf("it took %v for two objects that hang", took)
		}
	})
}

func TestOneHangingObjectKeepsItselfOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		s := saga.New(f.store, f.run, saga.Undoers{"thing": func(ctx context.Context, o state.Object) error {
			if o.Sequence == 2 {
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return f.world.undo(ctx, o)
		}})
		for range 2 {
			createIn(t, s, f.world, "pool")
		}
		if err := s.Unwind(t.Context()); err == nil {
			t.Error("no error")
		}
		if got := statuses(f.objects(t)); got != "undone created" {
			t.Errorf("record: %s", got)
		}
	})
}

// TestAToolstackRestart has a pool that answers nothing for a minute, and another error beside it.
func TestAToolstackRestart(t *testing.T) {
	for name, c := range map[string]struct {
		failure  error
		attempts int // of each object, at least
		want     string
	}{
		"starting":          {&xapi.Error{Code: "HOST_STILL_BOOTING"}, 2, "undone undone"},
		"session":           {&xapi.Error{Code: "SESSION_INVALID", Params: []string{"x"}}, 2, "undone undone"},
		"lost answer":       {xapi.ErrOutcomeUnknown, 2, "undone undone"},
		"no matter of time": {&xapi.Error{Code: "VDI_IN_USE"}, 1, "created created"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t)
				began := time.Now()
				attempts := map[int64]int{}
				s := saga.New(f.store, f.run, saga.Undoers{"thing": func(ctx context.Context, o state.Object) error {
					attempts[o.Sequence]++
					if time.Since(began) < time.Minute {
						return c.failure
					}
					return f.world.undo(ctx, o)
				}})
				createIn(t, s, f.world, "pool")
				createIn(t, s, f.world, "pool")
				err := s.Unwind(t.Context())
				if got := statuses(f.objects(t)); got != c.want || (err == nil) != (c.want == "undone undone") {
					t.Errorf("record: %s, error %v", got, err)
				}
				if attempts[1] < c.attempts || attempts[1] > 60 || c.attempts == 1 && attempts[1] != 1 {
					t.Errorf("%d attempts", attempts[1])
				}
			})
		})
	}
}

func TestAPoolThatStaysAwayIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		s := saga.New(f.store, f.run, saga.Undoers{"thing": func(context.Context, state.Object) error {
			return &xapi.Error{Code: "HOST_STILL_BOOTING"}
		}})
		createIn(t, s, f.world, "pool")
		began := time.Now()
		if err := s.Unwind(t.Context()); !xapi.IsCode(err, "HOST_STILL_BOOTING") {
			t.Errorf("error %v", err)
		}
		if took := time.Since(began); took < time.Minute || took > 3*time.Minute {
			t.Errorf("given up after %v", took)
		}
	})
}

// TestSweep tries left-overs again and leaves runs alone that have not ended.
func TestSweep(t *testing.T) {
	f := newFixture(t)
	s := saga.New(f.store, f.run, saga.Undoers{"thing": func(context.Context, state.Object) error { return errors.New("VDI_IN_USE") }})
	create(t, s, f.world)
	if all, err := saga.Sweep(t.Context(), f.store, f.undoers()); err != nil || len(all) != 0 {
		t.Errorf("of a run that goes on was swept %+v, %v", all, err)
	}
	if err := s.Unwind(t.Context()); err == nil {
		t.Fatal("nothing was left behind")
	}
	f.end(t)
	all, err := saga.Sweep(t.Context(), f.store, f.undoers())
	if err != nil || len(all) != 1 || all[0].Err != nil || len(all[0].Undone) != 1 {
		t.Errorf("swept %+v, %v", all, err)
	}
	if left := f.world.objects(t); !slices.Equal(left, nil) {
		t.Errorf("left: %v", left)
	}
}
