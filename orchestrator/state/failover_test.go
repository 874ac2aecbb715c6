package state_test

import (
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// TestFailoverIsKept: a failover state outlives the process with what it needs, is replaced only by whoever saw it as it is, and is
// written by the owner of the replica's run alone.
func TestFailoverIsKept(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	ctx := t.Context()
	addPools(t, store)
	created, err := store.CreateReplica(ctx, state.Replica{SourcePool: "pool-a", SourceVM: "vm", TargetPool: "pool-b", TargetSR: "sr"})
	if err != nil {
		t.Fatal(err)
	}
	to := state.Failover{State: "failing-over", Note: state.FailoverNote{Point: "point", Planned: true, Stopped: true}}
	if err := store.SetFailover(ctx, created.ID, "", to); !errors.Is(err, state.ErrNotOwner) {
		t.Errorf("without a run it gave %v", err)
	}
	if _, err := store.BeginRun(ctx, created.ID, state.RunFailover, report.Run{}); err != nil {
		t.Fatal(err)
	}
	if err := store.SetFailover(ctx, created.ID, "failed-over", to); !errors.Is(err, state.ErrConflict) {
		t.Errorf("from another state it gave %v", err)
	}
	if err := store.SetFailover(ctx, created.ID, "", to); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store = dirs.open(t)
	found, err := store.Replica(ctx, created.ID)
	if err != nil {
		t.Fatal(err)
	}
	if f := found.Failover; f.State != to.State || f.Note.Point != "point" || !f.Note.Planned || !f.Note.Stopped || f.Note.Since.IsZero() {
		t.Errorf("it came back as %+v", f)
	}
	if err := store.SetFailover(ctx, created.ID, to.State, state.Failover{}); err != nil {
		t.Fatal(err)
	}
	if found, err = store.Replica(ctx, created.ID); err != nil || found.Failover != (state.Failover{}) {
		t.Errorf("back in standby it is %+v, %v", found.Failover, err)
	}
}
