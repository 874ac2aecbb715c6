package saga_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

var thing = saga.Intent{Pool: "pool", Class: "VM", Kind: "thing", Origin: "vm"}

func create(t *testing.T, s *saga.Saga, w world) state.Object {
	t.Helper()
	o, err := s.Create(t.Context(), thing, w.create)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestUnwindInReverse(t *testing.T) {
	f := newFixture(t)
	var order []int64
	s := saga.New(f.store, f.run, saga.Undoers{"thing": func(ctx context.Context, o state.Object) error {
		order = append(order, o.Sequence)
		return f.world.undo(ctx, o)
	}})
	first, second := create(t, s, f.world), create(t, s, f.world)
	create(t, s, f.world)
	create(t, s, f.world)
	if !strings.Contains(first.Name, f.run) || first.UUID == "" || first.Origin != "vm" {
		t.Errorf("object %+v", first)
	}
	if err := s.Undo(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := s.Unwind(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []int64{2, 4, 3}; !slices.Equal(order, want) {
		t.Errorf("undone in the order %v, want %v", order, want)
	}
	if got := statuses(f.objects(t)); got != "kept undone undone undone" {
		t.Errorf("record: %s", got)
	}
	if left := f.world.objects(t); len(left) != 1 || left[0] != first.Name {
		t.Errorf("left: %v, want %s", left, first.Name)
	}
	if err := s.Unwind(t.Context()); err != nil || len(order) != 3 {
		t.Errorf("a second Unwind: %v, undone %v", err, order)
	}
}

func TestTheIntentComesFirst(t *testing.T) {
	f := newFixture(t)
	s := saga.New(f.store, f.run, f.undoers())
	_, err := s.Create(t.Context(), thing, func(ctx context.Context, name string) (string, error) {
		objects := f.objects(t)
		if len(objects) != 1 || objects[0].Status != state.ObjectIntended || objects[0].Name != name {
			t.Errorf("record at the time of creation: %+v", objects)
		}
		return f.world.create(ctx, name)
	})
	if err != nil {
		t.Fatal(err)
	}
	unknown := thing
	unknown.Kind = "other"
	_, err = s.Create(t.Context(), unknown, func(context.Context, string) (string, error) {
		t.Error("an object was created that nobody can undo")
		return "", nil
	})
	if !errors.Is(err, saga.ErrUnknownKind) {
		t.Errorf("error %v, want ErrUnknownKind", err)
	}
}

func TestALostAnswerIsUndoneByName(t *testing.T) {
	f := newFixture(t)
	s := saga.New(f.store, f.run, f.undoers())
	lost := errors.New("connection reset")
	_, err := s.Create(t.Context(), thing, func(ctx context.Context, name string) (string, error) {
		if _, err := f.world.create(ctx, name); err != nil {
			return "", err
		}
		return "", lost
	})
	if !errors.Is(err, lost) {
		t.Fatalf("error %v", err)
	}
	if err := s.Unwind(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := f.world.objects(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestACancelledRunCleansUp(t *testing.T) {
	f := newFixture(t)
	s := saga.New(f.store, f.run, f.undoers())
	ctx, cancel := context.WithCancel(t.Context())
	create(t, s, f.world)
	object, err := s.Create(ctx, thing, func(ctx context.Context, name string) (string, error) {
		defer cancel() // just after the pool has answered
		return f.world.create(ctx, name)
	})
	if err != nil || object.UUID == "" {
		t.Fatalf("the uuid was lost: %+v, %v", object, err)
	}
	if err := s.Unwind(ctx); err != nil {
		t.Fatal(err)
	}
	if left := f.world.objects(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestUnwindGoesOnPastErrors(t *testing.T) {
	f := newFixture(t)
	held := errors.New("VDI_IN_USE")
	broken := true
	undoers := saga.Undoers{"thing": func(ctx context.Context, o state.Object) error {
		if o.Sequence == 2 && broken {
			return held
		}
		return f.world.undo(ctx, o)
	}}
	s := saga.New(f.store, f.run, undoers)
	for range 3 {
		create(t, s, f.world)
	}
	if err := s.Unwind(t.Context()); !errors.Is(err, held) {
		t.Errorf("error %v, want %v", err, held)
	}
	if got := statuses(f.objects(t)); got != "undone created undone" {
		t.Errorf("record: %s", got)
	}

	// The run ends; what is left behind stays recorded until a later Recover can remove it.
	f.end(t)
	for range 2 {
		all, err := saga.Recover(t.Context(), f.store, undoers)
		if err != nil {
			t.Fatal(err)
		}
		if len(all) != 1 || errors.Is(all[0].Err, held) != broken {
			t.Errorf("recovered %+v", all)
		}
		broken = false
	}
	if left := f.world.objects(t); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if all, err := saga.Recover(t.Context(), f.store, undoers); err != nil || len(all) != 0 {
		t.Errorf("nothing was left to recover: %+v, %v", all, err)
	}
}

func TestRecoverLeavesTheLivingAlone(t *testing.T) {
	f := newFixture(t)
	s := saga.New(f.store, f.run, f.undoers())
	create(t, s, f.world)
	all, err := saga.Recover(t.Context(), f.store, f.undoers())
	if err != nil || len(all) != 0 {
		t.Errorf("recovered %+v, %v", all, err)
	}
	if left := f.world.objects(t); len(left) != 1 {
		t.Errorf("the objects of a living run: %v", left)
	}
}
