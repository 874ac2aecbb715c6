package saga_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

const (
	childVariable = "SAGA_TEST_CHILD" // makes the test binary a process of its own, on this directory
	killVariable  = "SAGA_TEST_KILL"  // the moment at which that process kills itself
)

// child makes three things, keeps the first and unwinds.
func child(ctx context.Context, dir, moment string) error {
	reach := func(format string, args ...any) {
		if fmt.Sprintf(format, args...) == moment {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
	}
	store, replica, err := openStore(ctx, dir)
	if err != nil {
		return err
	}
	run, err := beginRun(ctx, store, replica)
	if err != nil {
		return err
	}
	reach("begun")
	w := world{filepath.Join(dir, "world")}
	s := saga.New(store, run, saga.Undoers{"thing": func(ctx context.Context, o state.Object) error {
		reach("before undo %d", o.Sequence)
		err := w.undo(ctx, o)
		reach("after undo %d", o.Sequence)
		return err
	}})
	var objects []state.Object
	for i := range 3 {
		o, err := s.Create(ctx, thing, func(ctx context.Context, name string) (string, error) {
			reach("intended %d", i)
			id, err := w.create(ctx, name)
			reach("made %d", i)
			return id, err
		})
		if err != nil {
			return err
		}
		reach("recorded %d", i)
		objects = append(objects, o)
	}
	if err := s.Keep(ctx, objects[0]); err != nil {
		return err
	}
	reach("kept")
	if err := s.Unwind(ctx); err != nil {
		return err
	}
	reach("unwound")
	return errors.New("the child was to be killed before")
}

func TestKilledAnywhere(t *testing.T) {
	moments := map[string]string{ // the record after recovery
		"begun":      "",
		"intended 0": "undone", "made 0": "undone", "recorded 0": "undone",
		"intended 1": "undone undone", "made 1": "undone undone", "recorded 2": "undone undone undone",
		"kept": "kept undone undone", "before undo 3": "kept undone undone", "after undo 3": "kept undone undone",
		"after undo 2": "kept undone undone", "unwound": "kept undone undone",
	}
	for moment, want := range moments {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			w := world{filepath.Join(dir, "world")}
			if err := os.Mkdir(w.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			kill(t, dir, moment)

			store, replica, err := openStore(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := store.Close(); err != nil {
					t.Error(err)
				}
			})
			runs, err := store.PendingRuns(t.Context())
			if err != nil || len(runs) != 1 {
				t.Fatalf("pending runs %+v, %v", runs, err)
			}
			f := fixture{store: store, replica: replica, run: runs[0].Report.ID, world: w}
			for _, name := range w.objects(t) {
				named := func(o state.Object) bool { return o.Name == name && o.Status != state.ObjectUndone }
				if !slices.ContainsFunc(f.objects(t), named) {
					t.Errorf("%s exists and the record does not say so", name)
				}
			}

			all, err := saga.Recover(t.Context(), store, f.undoers())
			if err != nil || len(all) != 1 || all[0].Err != nil {
				t.Fatalf("recovered %+v, %v", all, err)
			}
			if got := statuses(f.objects(t)); got != want {
				t.Errorf("record %q, want %q", got, want)
			}
			kept := 0
			for _, o := range f.objects(t) {
				if o.Status == state.ObjectKept {
					kept++
				}
			}
			if left := w.objects(t); len(left) != kept {
				t.Errorf("left %v, kept %d", left, kept)
			}
			run, err := store.Run(t.Context(), f.run)
			if err != nil || run.Report.State != report.StateInterrupted {
				t.Errorf("the run is %s, %v", run.Report.State, err)
			}
			if _, err := beginRun(t.Context(), store, replica); err != nil {
				t.Errorf("the replica is not free for the next run: %v", err)
			}
		})
	}
}

// kill runs a child until it kills itself at a moment.
func kill(t *testing.T, dir, moment string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+dir, killVariable+"="+moment)
	cmd.Stderr = os.Stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with %v, not by the kill", err)
	}
}
