package state_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// TestReverseIsKept: the pair in the other direction and the note that names it are stored together, or neither, by the owner of the
// replica's run alone.
func TestReverseIsKept(t *testing.T) {
	store := newFolders(t).open(t)
	ctx := t.Context()
	addPools(t, store)
	forward, err := store.CreateReplica(ctx, state.Replica{SourcePool: "pool-a", SourceVM: "x", TargetPool: "pool-b", TargetSR: "sr", TargetVM: "y"})
	if err != nil {
		t.Fatal(err)
	}
	started := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	pair := state.Replica{
		SourcePool: "pool-b", SourceVM: "y", TargetPool: "pool-a", TargetSR: "old", TargetVM: "x", AcceptedStart: started,
		Disks: []state.Disk{{Disk: "0", SourceVDI: "vdi-y", TargetVDI: "vdi-x", LogicalSize: 1 << 20}},
	}
	note := state.FailoverNote{Since: started, Former: &state.FormerSource{Description: "the shop", Order: 7, VMData: map[string]string{"vm-data/a": "b"}}}
	create := func(from string) (state.Replica, error) {
		made, _, err := store.CreateReverse(ctx, forward.ID, from, note, pair)
		return made, err
	}
	if _, err := create(""); !errors.Is(err, state.ErrNotOwner) {
		t.Errorf("without a run: %v", err)
	}
	if _, err := store.BeginRun(ctx, forward.ID, state.RunReverse, report.Run{}); err != nil {
		t.Fatal(err)
	}
	if err := store.SetFailover(ctx, forward.ID, "", state.Failover{State: "reversing", Note: note}); err != nil {
		t.Fatal(err)
	}
	if _, err := create("failed-over"); !errors.Is(err, state.ErrConflict) {
		t.Errorf("from another state: %v", err)
	}
	if all, err := store.Replicas(ctx); err != nil || len(all) != 1 {
		t.Errorf("of a conflict %d replicas are left, %v", len(all), err)
	}
	made, err := create("reversing")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := create("reversing"); !errors.Is(err, state.ErrExists) {
		t.Errorf("twice: %v", err)
	}
	kept, err := store.Replica(ctx, made.ID)
	if err != nil || !kept.AcceptedStart.Equal(started) || kept.TargetVM != "x" || kept.Failover != (state.Failover{}) || cmp.Diff(kept.Disks, pair.Disks) != "" {
		t.Errorf("the pair came back as %+v, %v", kept, err)
	}
	if err := store.SetSource(ctx, forward.ID, "x2"); err != nil {
		t.Fatal(err)
	}
	found, err := store.Replica(ctx, forward.ID)
	note.Reverse = made.ID
	if diff := cmp.Diff(note, found.Failover.Note); err != nil || diff != "" || found.SourceVM != "x2" {
		t.Errorf("follows %s, note: %s, %v", found.SourceVM, diff, err)
	}
	if err := store.SetSource(ctx, made.ID, "z"); !errors.Is(err, state.ErrNotOwner) {
		t.Errorf("of a replica without a run: %v", err)
	}
}
