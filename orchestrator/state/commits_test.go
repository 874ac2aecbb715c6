package state_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

var poolTime = time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)

func TestCommitIsOfTheWholeVM(t *testing.T) {
	store := newFolders(t).open(t)
	ctx := t.Context()
	addPools(t, store)
	key := store.Installation().DigestKey
	disks := []content{{1, 2}, {3}}
	replica, _ := addReplica(t, store, disks[0].geometry().Size, disks[1].geometry().Size)
	generation := manifest.NewGeneration()
	check := func(when string, want manifest.State) {
		t.Helper()
		r, err := store.Replica(ctx, replica.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range r.Disks {
			if d.State != want {
				t.Errorf("%s: disk %s is %s, want %s", when, d.Disk, d.State, want)
			}
		}
		if clean := want.Valid() && !want.Dirty; clean != r.LastCommit.Equal(poolTime) {
			t.Errorf("%s: last commit %v", when, r.LastCommit)
		}
	}
	check("at first", manifest.State{})

	var manifests []state.Manifest
	for i, c := range disks {
		manifests = append(manifests, compose(t, store, replica.ID, i, generation, nil, c.records(key), c.geometry()))
	}
	whole := state.Commit{Generation: generation, PoolTime: poolTime, Manifests: manifests}
	if err := store.SetClean(ctx, replica.ID, whole); err == nil {
		t.Error("disks that were never dirty were committed")
	}
	if err := store.SetDirty(ctx, replica.ID, manifest.Generation{}); err == nil {
		t.Error("dirty without a generation")
	}
	if err := store.SetDirty(ctx, replica.ID, generation); err != nil {
		t.Fatal(err)
	}
	dirty := manifest.State{Dirty: true, Generation: generation}
	check("dirty", dirty)

	stranger := manifests[0]
	stranger.Disk = "7"
	old := manifests[1]
	old.Generation = manifest.NewGeneration()
	for name, spoiled := range map[string]state.Commit{
		"a disk is missing":       {Generation: generation, PoolTime: poolTime, Manifests: manifests[:1]},
		"a disk twice":            {Generation: generation, PoolTime: poolTime, Manifests: []state.Manifest{manifests[0], manifests[0]}},
		"a disk of another VM":    {Generation: generation, PoolTime: poolTime, Manifests: append([]state.Manifest{stranger}, manifests...)},
		"an old manifest":         {Generation: generation, PoolTime: poolTime, Manifests: []state.Manifest{manifests[0], old}},
		"no generation":           {PoolTime: poolTime, Manifests: manifests},
		"no time":                 {Generation: generation, Manifests: manifests},
		"that of another dirtied": {Generation: old.Generation, PoolTime: poolTime, Manifests: manifests},
	} {
		if err := store.SetClean(ctx, replica.ID, spoiled); err == nil {
			t.Errorf("committed although %s", name)
		}
		check(name, dirty)
	}
	if err := store.SetClean(ctx, replica.ID, whole); err != nil {
		t.Fatal(err)
	}
	check("committed", manifest.State{Generation: generation})
	for _, disk := range []string{"0", "1"} {
		if j := readJournal(t, store, replica.ID, disk); len(j.Watermarks) != 0 {
			t.Errorf("disk %s is committed and has a journal: %+v", disk, j)
		}
	}
}

func TestOnlyTheOwnerChangesAReplica(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	ctx := t.Context()
	addPools(t, store)
	replica, run := addReplica(t, store, manifest.ExtentSize)
	generation := manifest.NewGeneration()
	if err := store.SetDirty(ctx, replica.ID, generation); err != nil {
		t.Fatal(err)
	}
	d := state.Disk{Disk: "0", TargetVDI: "x", LogicalSize: 1}
	changes := map[string]func() error{
		"SetDirty":    func() error { return store.SetDirty(ctx, replica.ID, generation) },
		"SetClean":    func() error { return store.SetClean(ctx, replica.ID, state.Commit{}) },
		"PutDisk":     func() error { return store.PutDisk(ctx, replica.ID, d) },
		"RemoveDisk":  func() error { return store.RemoveDisk(ctx, replica.ID, "0") },
		"SetTargetVM": func() error { return store.SetTargetVM(ctx, replica.ID, "vm") },
		"OpenJournal": func() error { _, err := store.OpenJournal(ctx, replica.ID, "0"); return err },
		"ComposeManifest": func() error {
			_, err := store.ComposeManifest(ctx, state.Composition{Replica: replica.ID, Disk: "0"})
			return err
		},
	}
	refused := func(when string) {
		t.Helper()
		for name, change := range changes {
			if err := change(); !errors.Is(err, state.ErrNotOwner) {
				t.Errorf("%s %s: %v, want ErrNotOwner", name, when, err)
			}
		}
	}
	journal := reopen(t, store, replica.ID)
	changes["Append"] = func() error { return journal.Append(ctx, 1) }
	changes["Bound"] = func() error { return journal.Bound(ctx, 1) }
	changes["VoidJournals"] = func() error { return store.VoidJournals(ctx, replica.ID) }
	giveAway(t, dirs, run)
	refused("in another's run")
	delete(changes, "Append") // its journal closed with the first refusal
	changes["SaveReport"] = func() error { return store.SaveReport(ctx, run.Report) }
	changes["RecordIntent"] = func() error {
		_, err := store.RecordIntent(ctx, state.Object{Run: run.Report.ID, Pool: "pool-a", Class: "VM", Kind: "snapshot"})
		return err
	}
	changes["ReleaseRun"] = func() error { return store.ReleaseRun(ctx, run.Report.ID) }
	refused("in another's run, again")
	if _, err := store.TakeOver(ctx, run.Report.ID); err != nil {
		t.Fatal(err)
	}
	endRun(t, store, run)
	delete(changes, "SaveReport")
	delete(changes, "RecordIntent")
	delete(changes, "ReleaseRun")
	refused("without a run")
}

// giveAway makes a process that is dead the owner of a run, as if that one had begun it.
func giveAway(t *testing.T, dirs folders, run state.Run) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dirs.state, "understudy.db"))
	if err != nil {
		t.Fatal(err)
	}
	other := run.Owner
	other.Start += "0"
	_, err = db.Exec(`UPDATE runs SET owner = ? WHERE id = ?`, other.String(), run.Report.ID)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestDisks(t *testing.T) {
	store := newFolders(t).open(t)
	ctx := t.Context()
	addPools(t, store)
	replica, _ := addReplica(t, store, manifest.ExtentSize, manifest.ExtentSize)
	if err := store.SetTargetVM(ctx, replica.ID, "replica-vm"); err != nil {
		t.Fatal(err)
	}
	if err := store.PutDisk(ctx, replica.ID, state.Disk{Disk: "10", SourceVDI: "s", TargetVDI: "t", LogicalSize: 5}); err != nil {
		t.Fatal(err)
	}
	generation := manifest.NewGeneration()
	if err := store.SetDirty(ctx, replica.ID, generation); err != nil {
		t.Fatal(err)
	}
	read := func() map[string]state.Disk {
		t.Helper()
		r, err := store.FindReplica(ctx, "pool-a", "vm", "pool-b", "sr")
		if err != nil {
			t.Fatal(err)
		}
		if r.TargetVM != "replica-vm" {
			t.Errorf("target VM %q", r.TargetVM)
		}
		disks := make(map[string]state.Disk)
		for i, d := range r.Disks {
			disks[d.Disk] = d
			if want := []string{"0", "1", "10"}[i]; d.Disk != want && len(r.Disks) == 3 {
				t.Errorf("disk %d is %s, want %s", i, d.Disk, want)
			}
		}
		return disks
	}
	dirty := manifest.State{Dirty: true, Generation: generation}
	put := func(d state.Disk) {
		t.Helper()
		if err := store.PutDisk(ctx, replica.ID, d); err != nil {
			t.Fatal(err)
		}
	}
	disks := read()
	same := disks["0"]
	same.SourceVDI = "another source"
	put(same)
	other := disks["1"]
	other.TargetVDI = "another target"
	put(other)
	grown := disks["10"]
	grown.LogicalSize *= 2
	put(grown)
	disks = read()
	if d := disks["0"]; d.State != dirty || d.SourceVDI != "another source" {
		t.Errorf("same target: %+v, want it dirty as before", d)
	}
	if d := disks["1"]; d.State.Valid() {
		t.Errorf("another target VDI: %+v, want no state", d)
	}
	if d := disks["10"]; d.State.Valid() || d.LogicalSize != 10 {
		t.Errorf("another size with an open journal: %+v, want no state", d)
	}
	if err := store.RemoveDisk(ctx, replica.ID, "1"); err != nil {
		t.Fatal(err)
	}
	if _, ok := read()["1"]; ok {
		t.Error("a removed disk is still there")
	}
	if err := store.RemoveDisk(ctx, replica.ID, "1"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("removing it again: %v, want ErrNotFound", err)
	}
	for _, bad := range []state.Disk{
		{Disk: "../x", TargetVDI: "t", LogicalSize: 1}, {Disk: "01", TargetVDI: "t", LogicalSize: 1}, {Disk: "", TargetVDI: "t", LogicalSize: 1},
		{Disk: "0", LogicalSize: 1}, {Disk: "0", TargetVDI: "t"}, {Disk: "0", TargetVDI: "t", LogicalSize: manifest.MaxSize + 1},
	} {
		if err := store.PutDisk(ctx, replica.ID, bad); err == nil {
			t.Errorf("disk %+v was taken", bad)
		}
	}
}

func TestReplicas(t *testing.T) {
	store := newFolders(t).open(t)
	ctx := t.Context()
	addPools(t, store)
	replica, _ := addReplica(t, store)
	if _, err := store.CreateReplica(ctx, replica); !errors.Is(err, state.ErrExists) {
		t.Errorf("the same replica again: %v, want ErrExists", err)
	}
	unknown := replica
	unknown.TargetPool, unknown.TargetSR = "pool-z", "other"
	if _, err := store.CreateReplica(ctx, unknown); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("a replica in an unknown pool: %v, want ErrNotFound", err)
	}
	for _, read := range []func(context.Context) (state.Replica, error){
		func(ctx context.Context) (state.Replica, error) { return store.Replica(ctx, "none") },
		func(ctx context.Context) (state.Replica, error) {
			return store.FindReplica(ctx, "pool-a", "vm", "pool-b", "none")
		},
	} {
		if _, err := read(ctx); !errors.Is(err, state.ErrNotFound) {
			t.Errorf("an unknown replica: %v, want ErrNotFound", err)
		}
	}
	all, err := store.Replicas(ctx)
	if err != nil || len(all) != 1 || all[0].ID != replica.ID {
		t.Errorf("replicas %+v, %v", all, err)
	}
}
