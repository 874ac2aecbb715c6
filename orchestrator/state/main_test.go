package state_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// childVariable makes the test binary a process of its own that works on the state directory it names, until it is killed.
const childVariable = "STATE_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := child(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// folders are a state directory and a key file beside it.
type folders struct{ state, key string }

func newFolders(t *testing.T) folders {
	t.Helper()
	dir := t.TempDir()
	return folders{state: filepath.Join(dir, "state"), key: filepath.Join(dir, "keys", "understudy-key")}
}

func noVariables(string) string { return "" }

func (f folders) open(t *testing.T) *state.Store {
	t.Helper()
	secrets, err := state.LoadOrCreateSecrets(f.state, f.key, noVariables)
	if err != nil {
		t.Fatal(err)
	}
	store, err := state.Open(t.Context(), f.state, secrets)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// addPools adds two pools, a and b.
func addPools(t *testing.T, store *state.Store) {
	t.Helper()
	for _, name := range []string{"a", "b"} {
		err := store.AddPool(t.Context(), state.Pool{
			UUID: "pool-" + name, Name: name, Addresses: []string{name + ".test"}, Username: "root", Password: "secret of " + state.Secret(name),
			Fingerprints: []string{"00"}, DelegateAddresses: "192.0.2.0/24",
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// addReplica adds a replica from pool a to pool b, begins a run on it and gives it disks 0, 1, … of these sizes.
func addReplica(t *testing.T, store *state.Store, sizes ...int64) (state.Replica, state.Run) {
	t.Helper()
	replica, err := store.CreateReplica(t.Context(), state.Replica{SourcePool: "pool-a", SourceVM: "vm", TargetPool: "pool-b", TargetSR: "sr"})
	if err != nil {
		t.Fatal(err)
	}
	run := beginRun(t, store, replica.ID)
	for i, size := range sizes {
		d := state.Disk{Disk: fmt.Sprint(i), SourceVDI: fmt.Sprint("source-", i), TargetVDI: fmt.Sprint("target-", i), LogicalSize: size}
		if err := store.PutDisk(t.Context(), replica.ID, d); err != nil {
			t.Fatal(err)
		}
	}
	return replica, run
}

func beginRun(t *testing.T, store *state.Store, replica string) state.Run {
	t.Helper()
	run, err := store.BeginRun(t.Context(), replica, state.RunReplicate, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func endRun(t *testing.T, store *state.Store, run state.Run) {
	t.Helper()
	run.Report.State, run.Report.Finished = report.StateFailed, time.Now()
	if err := store.SaveReport(t.Context(), run.Report); err != nil {
		t.Fatal(err)
	}
}

// content is what a test takes for a disk's extents: one byte each, of which all its blocks consist.
type content []byte

func (c content) geometry() manifest.Geometry {
	return manifest.Geometry{Size: int64(len(c)) * manifest.ExtentSize}
}

func (c content) record(key manifest.Key, extent int) manifest.Record {
	block := make([]byte, manifest.BlockSize)
	for i := range block {
		block[i] = c[extent]
	}
	digest := key.NewHasher().Block(block)
	r := manifest.Record{Extent: uint32(extent)}
	for range manifest.BlocksPerExtent {
		r.Blocks = append(r.Blocks, digest)
	}
	return r
}

func (c content) records(key manifest.Key) (all []manifest.Record) {
	for i := range c {
		all = append(all, c.record(key, i))
	}
	return all
}

// root is computed without the package under test.
func (c content) root(t *testing.T, key manifest.Key) manifest.Digest {
	t.Helper()
	root, hasher := key.NewRoot(c.geometry()), key.NewHasher()
	for i := range c {
		root.Add(hasher.Extent(c.record(key, i).Blocks))
	}
	sum, err := root.Sum()
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
