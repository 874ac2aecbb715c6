package state_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

func TestTrustOverride(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	replica, _ := addReplica(t, store, 1)
	for _, want := range []state.TrustOverride{state.TrustNever, state.TrustAlways, state.TrustAsAsked} {
		if err := store.SetTrust(t.Context(), replica.ID, want); err != nil {
			t.Fatal(err)
		}
		if got, err := store.Replica(t.Context(), replica.ID); err != nil || got.Trust != want {
			t.Errorf("it is %q, %v; want %q", got.Trust, err, want)
		}
	}
	if err := store.SetTrust(t.Context(), replica.ID, "maybe"); err == nil {
		t.Error("a word of no meaning was stored")
	}
	if err := store.SetTrust(t.Context(), "nobody", state.TrustNever); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("an unknown replica: %v", err)
	}
}

func TestUtilisationAndDivergence(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	replica, run := addReplica(t, store, 1)
	second := state.Disk{Disk: "1", SourceVDI: "source-1", TargetVDI: "target-1", LogicalSize: 4 << 20}
	if err := store.PutDisk(t.Context(), replica.ID, second); err != nil {
		t.Fatal(err)
	}
	if err := store.SetDirty(t.Context(), replica.ID, manifest.NewGeneration()); err != nil {
		t.Fatal(err)
	}
	if err := store.NoteUtilisation(t.Context(), replica.ID, map[string]int64{"0": 4096, "1": -1}); err != nil {
		t.Fatal(err)
	}
	read := func() state.Replica {
		t.Helper()
		r, err := store.Replica(t.Context(), replica.ID)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if d := read().Disks; d[0].Utilisation != 4096 || d[1].Utilisation != 0 {
		t.Errorf("noted %+v", d)
	}
	if err := store.NoteForeignWrites(t.Context(), replica.ID, map[string]string{"1": "a block"}); err != nil {
		t.Fatal(err)
	}
	if d := read().Disks; d[0].ForeignWrites != "" || d[1].ForeignWrites != "a block" {
		t.Errorf("found %+v", d)
	}
	start := time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)
	if err := store.AcceptDivergence(t.Context(), replica.ID, start); err != nil {
		t.Fatal(err)
	}
	r := read()
	if !r.AcceptedStart.Equal(start) || r.Disks[0].State.Valid() || r.Disks[0].Utilisation != 0 || r.Disks[1].ForeignWrites != "" {
		t.Errorf("accepted %+v", r)
	}
	run.Report.State, run.Report.Finished = report.StateCommitted, time.Now().UTC()
	if err := store.SaveReport(t.Context(), run.Report); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"accepting": store.AcceptDivergence(t.Context(), replica.ID, start), "noting": store.NoteUtilisation(t.Context(), replica.ID, nil),
		"forgetting": store.ForgetReplica(t.Context(), replica.ID),
	} {
		if !errors.Is(err, state.ErrNotOwner) {
			t.Errorf("%s without a run: %v", what, err)
		}
	}
}

func TestForgetReplica(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	addPools(t, store)
	replica, run := addReplica(t, store, 1)
	manifests := filepath.Join(dirs.state, "manifests", replica.ID)
	if err := os.MkdirAll(manifests, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := store.ForgetReplica(t.Context(), replica.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Replica(t.Context(), replica.ID); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := os.Stat(manifests); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its manifests are still there: %v", err)
	}
	kept, err := store.Run(t.Context(), run.Report.ID)
	if err != nil || kept.Replica != "" {
		t.Fatalf("its run is %+v, %v", kept, err)
	}
	kept.Report.State, kept.Report.Finished = report.StateCommitted, time.Now().UTC()
	if err := store.SaveReport(t.Context(), kept.Report); err != nil {
		t.Errorf("its run cannot end: %v", err)
	}
}
