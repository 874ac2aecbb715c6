package saga_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		if err := child(context.Background(), dir, os.Getenv(killVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// openStore opens DIR/state, with a replica in it the first time.
func openStore(ctx context.Context, dir string) (*state.Store, state.Replica, error) {
	store, err := statetest.Open(ctx, dir)
	if err != nil {
		return nil, state.Replica{}, err
	}
	replica, err := store.FindReplica(ctx, "pool", "vm", "pool", "sr")
	if errors.Is(err, state.ErrNotFound) {
		err = store.AddPool(ctx, state.Pool{UUID: "pool", Name: "pool", Addresses: []string{"pool.test"}, Fingerprints: []string{"00"}})
		if err == nil {
			replica, err = store.CreateReplica(ctx, state.Replica{SourcePool: "pool", SourceVM: "vm", TargetPool: "pool", TargetSR: "sr"})
		}
	}
	if err != nil {
		return nil, state.Replica{}, errors.Join(err, store.Close())
	}
	return store, replica, nil
}

func beginRun(ctx context.Context, store *state.Store, replica state.Replica) (string, error) {
	run, err := store.BeginRun(ctx, replica.ID, state.RunReplicate, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	return run.Report.ID, err
}

// world is a pool whose objects are files: each has the object's name and holds its uuid.
type world struct{ dir string }

func (w world) create(_ context.Context, name string) (string, error) {
	id := uuid.NewString()
	return id, os.WriteFile(filepath.Join(w.dir, name), []byte(id), 0o600)
}

// undo is an Undoer: idempotent, by name, and only when the uuid is that of the record or was never recorded.
func (w world) undo(_ context.Context, o state.Object) error {
	path := filepath.Join(w.dir, o.Name)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.UUID != "" && string(content) != o.UUID {
		return fmt.Errorf("%s has uuid %s, recorded is %s", o.Name, content, o.UUID)
	}
	return os.Remove(path)
}

func (w world) objects(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// fixture is a run of this process in a world.
type fixture struct {
	store   *state.Store
	replica state.Replica
	run     string
	world   world
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	store, replica, err := openStore(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	run, err := beginRun(t.Context(), store, replica)
	if err != nil {
		t.Fatal(err)
	}
	return fixture{store, replica, run, world{t.TempDir()}}
}

func (f fixture) undoers() saga.Undoers { return saga.Undoers{"thing": f.world.undo} }

func (f fixture) objects(t *testing.T) []state.Object {
	t.Helper()
	objects, err := f.store.Objects(t.Context(), f.run)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// end ends the run as failed.
func (f fixture) end(t *testing.T) {
	t.Helper()
	run, err := f.store.Run(t.Context(), f.run)
	if err != nil {
		t.Fatal(err)
	}
	run.Report.State, run.Report.Finished = report.StateFailed, time.Now()
	if err := f.store.SaveReport(t.Context(), run.Report); err != nil {
		t.Fatal(err)
	}
}

// statuses is a run's record in short, such as "undone kept".
func statuses(objects []state.Object) string {
	var words []string
	for _, o := range objects {
		words = append(words, string(o.Status))
	}
	return strings.Join(words, " ")
}
