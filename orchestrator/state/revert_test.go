package state_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// TestRevertToAGeneration: its manifest becomes the newest, the others stay, and what is composed and pruned after it stands on it.
func TestRevertToAGeneration(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	ctx := t.Context()
	addPools(t, store)
	key := store.Installation().DigestKey
	contents := []content{{1, 2, 3}, {1, 9, 3}, {1, 9, 8}}
	replica, _ := addReplica(t, store, contents[0].geometry().Size)
	generations := []manifest.Generation{
		commit(t, store, replica.ID, contents[0]), commit(t, store, replica.ID, contents[1], 1), commit(t, store, replica.ID, contents[2], 2),
	}
	at := func(want content) {
		t.Helper()
		view, err := store.CurrentView(ctx, replica.ID, "0")
		if err != nil {
			t.Fatal(err)
		}
		defer view.Close()
		if view.Root() != want.root(t, key) {
			t.Errorf("the current manifest has root %s, want %s", view.Root(), want.root(t, key))
		}
	}
	revert := func(to manifest.Generation, vdi string) {
		t.Helper()
		r := state.Reverted{Generation: to, PoolTime: poolTime.Add(time.Hour), Disks: []state.Disk{
			{Disk: "0", SourceVDI: "source", TargetVDI: vdi, LogicalSize: contents[0].geometry().Size},
		}}
		if err := store.SetDirty(ctx, replica.ID, manifest.NewGeneration()); err != nil {
			t.Fatal(err)
		}
		m, ok, err := store.RepeatManifest(ctx, replica.ID, "0", to)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			r.Manifests = []state.Manifest{m}
		}
		if err := store.SetReverted(ctx, replica.ID, r); err != nil {
			t.Fatal(err)
		}
		now, err := store.Replica(ctx, replica.ID)
		if err != nil || len(now.Disks) != 1 || now.Disks[0].State != (manifest.State{Generation: to}) || now.Disks[0].TargetVDI != vdi ||
			!now.LastCommit.Equal(poolTime.Add(time.Hour)) {
			t.Errorf("reverted: %+v, %v", now, err)
		}
	}
	revert(generations[1], "a") // kept as a delta, which bears the name that its repetition must not take
	at(contents[1])
	revert(generations[1], "b")
	at(contents[1])
	if manifests, err := store.Manifests(ctx, replica.ID, "0"); err != nil || len(manifests) != 4 {
		t.Errorf("%d manifests, %v: that of the newest was repeated", len(manifests), err)
	}
	revert(generations[2], "c")
	revert(generations[0], "d")
	at(contents[0])
	for i, g := range generations {
		if got := rootAt(t, store, replica.ID, g); got != contents[i].root(t, key) {
			t.Errorf("generation %d has root %s", i, got)
		}
	}
	after := content{1, 2, 7}
	next := commit(t, store, replica.ID, after, 2)
	at(after)
	for _, keep := range []int{5, 2, 1} {
		if err := store.PruneManifests(ctx, replica.ID, "0", keep); err != nil {
			t.Fatal(err)
		}
		at(after)
	}
	if files := filesOf(t, dirs, replica.ID); len(files) != 1 || rootAt(t, store, replica.ID, next) != after.root(t, key) {
		t.Errorf("files %v", files)
	}
	revert(generations[1], "e") // nothing is known of it any more
	if _, err := store.CurrentView(ctx, replica.ID, "0"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("a manifest of something else counts: %v", err)
	}
}

// TestRevertedDisks: a disk that the restore point has not is forgotten, one that it has is known again.
func TestRevertedDisks(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	addPools(t, store)
	replica, run := addReplica(t, store, manifest.ExtentSize, manifest.ExtentSize)
	r := state.Reverted{Generation: manifest.NewGeneration(), PoolTime: poolTime, Disks: []state.Disk{
		{Disk: "1", SourceVDI: "s1", TargetVDI: "t1", LogicalSize: manifest.ExtentSize}, {Disk: "4", TargetVDI: "t4", LogicalSize: 1 << 20},
	}}
	for what, wrong := range map[string]state.Reverted{
		"no disks":      {Generation: r.Generation, PoolTime: poolTime},
		"no generation": {PoolTime: poolTime, Disks: r.Disks},
		"no size":       {Generation: r.Generation, PoolTime: poolTime, Disks: []state.Disk{{Disk: "0", TargetVDI: "t"}}},
	} {
		if err := store.SetReverted(t.Context(), replica.ID, wrong); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if err := store.SetReverted(t.Context(), replica.ID, r); err != nil {
		t.Fatal(err)
	}
	now, err := store.Replica(t.Context(), replica.ID)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range now.Disks {
		names = append(names, d.Disk+" "+d.TargetVDI)
	}
	if !slices.Equal(names, []string{"1 t1", "4 t4"}) {
		t.Errorf("disks %v", names)
	}
	endRun(t, store, run)
	if err := store.SetReverted(t.Context(), replica.ID, r); !errors.Is(err, state.ErrNotOwner) {
		t.Errorf("without a run: %v", err)
	}
}
