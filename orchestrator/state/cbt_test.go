package state_test

import (
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// TestCBTBases: a commit names the new base and has the run remove the one before, in one; nothing else names or gives up any.
func TestCBTBases(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	ctx, c := t.Context(), content{1}
	replica, run := addReplica(t, store, manifest.ExtentSize)
	clean := func(uuid string, objects ...state.Object) state.CBTBase {
		t.Helper()
		generation := manifest.NewGeneration()
		if err := store.SetDirty(ctx, replica.ID, generation); err != nil {
			t.Fatal(err)
		}
		m := compose(t, store, replica.ID, 0, generation, nil, c.records(store.Installation().DigestKey), c.geometry())
		base := state.CBTBase{Disk: "0", SourceVDI: "source-0", VDI: uuid, Generation: generation, Slice: 7}
		err := store.SetClean(ctx, replica.ID, state.Commit{
			Generation: generation, PoolTime: poolTime, Manifests: []state.Manifest{m}, Bases: []state.CBTBase{base}, Objects: objects,
		})
		if err != nil {
			t.Fatal(err)
		}
		return base
	}
	expect := func(what string, named []state.CBTBase, used ...string) {
		t.Helper()
		got, err := store.CBTBases(ctx, replica.ID)
		inUse, failure := store.BasesInUse(ctx)
		if err != nil || failure != nil || !slices.Equal(got, named) || len(inUse) != len(used) {
			t.Errorf("%s: bases %+v, %v; in use %v, %v", what, got, err, inUse, failure)
		}
		for _, uuid := range used {
			if is, err := store.IsCBTBase(ctx, uuid); err != nil || is != slices.ContainsFunc(named, func(b state.CBTBase) bool { return b.VDI == uuid }) || !inUse[uuid] {
				t.Errorf("%s: %s is a base: %v, %v", what, uuid, is, err)
			}
		}
	}
	made, err := store.RecordIntent(ctx, state.Object{Run: run.Report.ID, Pool: "pool-a", Class: "VDI", Kind: "cbt-base"})
	if err == nil {
		made, err = store.RecordCreated(ctx, made, "first")
	}
	if err != nil {
		t.Fatal(err)
	}
	expect("made", nil, "first")
	first := clean("first", made)
	expect("committed", []state.CBTBase{first}, "first")
	second := clean("second")
	expect("committed again", []state.CBTBase{second}, "first", "second")
	objects, err := store.Objects(ctx, run.Report.ID)
	if err != nil || len(objects) != 2 || objects[0].Status != state.ObjectKept || !objects[1].Pending() || objects[1].UUID != "first" || objects[1].Pool != "pool-a" {
		t.Fatalf("objects %+v, %v", objects, err)
	}
	if _, err := store.RecordUndone(ctx, objects[1]); err != nil {
		t.Fatal(err)
	}
	expect("the first removed", []state.CBTBase{second}, "second")

	tracked := func(want ...state.Tracked) {
		t.Helper()
		if got, err := store.Tracked(ctx, "pool-a"); err != nil || !slices.Equal(got, want) {
			t.Errorf("tracked %+v, %v; want %+v", got, err, want)
		}
	}
	for range 2 {
		if err := store.NoteTracked(ctx, replica.ID, "pool-a", "source-0"); err != nil {
			t.Fatal(err)
		}
	}
	tracked(state.Tracked{VDI: "source-0", Used: true})
	if err := store.RemoveDisk(ctx, replica.ID, "0"); err != nil {
		t.Fatal(err)
	}
	expect("without the disk", nil)
	tracked(state.Tracked{VDI: "source-0"})
	if err := store.ForgetReplica(ctx, replica.ID); err != nil {
		t.Fatal(err)
	}
	tracked(state.Tracked{VDI: "source-0", Idle: true})
	if err := store.ForgetTracked(ctx, "pool-a", "source-0"); err != nil {
		t.Fatal(err)
	}
	tracked()
}
