package state_test

import (
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// TestATestGoesOnBesideARun: tests and the run of their replica do not shut each other out, the run's rights are not the test's, and a test is
// in use until its clone is gone.
func TestATestGoesOnBesideARun(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	replica, run := addReplica(t, store)
	about := report.Run{Direction: report.Push, Trust: report.TrustVerify, RestorePoint: "point"}
	var tests []state.Run
	for range 2 {
		test, err := store.BeginRun(t.Context(), replica.ID, state.RunRehearse, about)
		if err != nil {
			t.Fatal(err)
		}
		tests = append(tests, test)
	}
	if _, err := store.BeginRun(t.Context(), replica.ID, state.RunReplicate, about); !errors.Is(err, state.ErrBusy) {
		t.Errorf("a second run beside tests: %v", err)
	}
	endRun(t, store, run)
	if err := store.SetFailover(t.Context(), replica.ID, "", state.Failover{State: "failed-over"}); !errors.Is(err, state.ErrNotOwner) {
		t.Errorf("what only a run on the replica may change was changed beside tests alone: %v", err)
	}
	next := beginRun(t, store, replica.ID)
	defer endRun(t, store, next)

	in := func(want ...string) {
		t.Helper()
		used, err := store.Rehearsals(t.Context(), replica.ID)
		if err != nil || len(used) != len(want) {
			t.Fatalf("in use are %+v, %v", used, err)
		}
		for i, one := range used {
			if one.Report.ID != want[i] || one.Report.RestorePoint != "point" {
				t.Errorf("in use is %+v, want %s", one, want[i])
			}
		}
	}
	clone, err := store.RecordIntent(t.Context(), state.Object{Run: tests[0].Report.ID, Pool: "pool-b", Class: "VM", Kind: "rehearsal"})
	if err == nil {
		clone, err = store.RecordCreated(t.Context(), clone, "clone")
	}
	if err == nil {
		clone, err = store.RecordKept(t.Context(), clone)
	}
	if err != nil {
		t.Fatal(err)
	}
	in(tests[0].Report.ID, tests[1].Report.ID)
	endRun(t, store, tests[1])
	endRun(t, store, tests[0])
	in(tests[0].Report.ID)
	if _, err := store.RecordUndone(t.Context(), clone); err != nil {
		t.Fatal(err)
	}
	in()
}
