package state_test

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// segment begins a generation and leaves its segment as a run that ends there would; a reach of unknown is not told.
func segment(t *testing.T, store *state.Store, replica string, kept bool, watermark, reach uint32) manifest.Generation {
	t.Helper()
	generation := manifest.NewGeneration()
	var disks []string
	if kept {
		disks = append(disks, "0")
	}
	if err := store.SetDirty(t.Context(), replica, generation, disks...); err != nil {
		t.Fatal(err)
	}
	if reach == 0 && watermark == 0 {
		return generation // before its first write
	}
	j, err := store.OpenJournal(t.Context(), replica, "0")
	if err != nil {
		t.Fatal(err)
	}
	appendTo(t, j, watermark)
	if reach != unknown {
		if err := j.Bound(t.Context(), reach); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return generation
}

const unknown = math.MaxUint32

func doubts(t *testing.T, store *state.Store, replica string, before manifest.Generation) []state.Span {
	t.Helper()
	view, err := store.ReadJournal(t.Context(), replica, "0")
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	return view.Doubts(before, 100)
}

func TestDoubts(t *testing.T) {
	type run struct {
		kept             bool
		watermark, reach uint32
	}
	for name, c := range map[string]struct {
		runs []run
		want []state.Span
	}{
		"nothing was written":               {nil, nil},
		"ended before its first write":      {[]run{{true, 0, 0}}, nil},
		"in flight":                         {[]run{{true, 10, 20}}, []state.Span{{From: 10, To: 20}}},
		"died, how far is not known":        {[]run{{true, 10, unknown}}, []state.Span{{From: 10, To: 100}}},
		"all was settled":                   {[]run{{true, 100, unknown}}, nil},
		"nothing was known before":          {[]run{{false, 10, 20}}, []state.Span{{From: 10, To: 100}, {From: 10, To: 20}}},
		"another one on top, not so far":    {[]run{{true, 50, 60}, {true, 10, 20}}, []state.Span{{From: 50, To: 60}, {From: 10, To: 20}}},
		"another one on top, into it":       {[]run{{true, 50, 60}, {true, 55, 58}}, []state.Span{{From: 55, To: 60}, {From: 55, To: 58}}},
		"another one on top, past it":       {[]run{{true, 50, 60}, {true, 70, 80}}, []state.Span{{From: 70, To: 80}}},
		"another one on top wrote nothing":  {[]run{{true, 50, 60}, {true, 0, 0}}, []state.Span{{From: 50, To: 60}}},
		"a scan on top of what was known":   {[]run{{true, 50, 60}, {false, 10, 0}}, []state.Span{{From: 10, To: 100}}},
		"known by a scan, then one on top":  {[]run{{false, 40, 50}, {true, 0, 5}}, []state.Span{{From: 40, To: 100}, {From: 40, To: 50}, {To: 5}}},
		"one that died on top of one known": {[]run{{true, 50, 60}, {true, 5, unknown}}, []state.Span{{From: 50, To: 60}, {From: 5, To: 100}}},
	} {
		t.Run(name, func(t *testing.T) {
			store := newFolders(t).open(t)
			addPools(t, store)
			replica, _ := addReplica(t, store, 100*manifest.ExtentSize)
			for _, r := range c.runs {
				segment(t, store, replica.ID, r.kept, r.watermark, r.reach)
			}
			if got := doubts(t, store, replica.ID, manifest.Generation{}); !slices.Equal(c.want, got) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// TestDoubtsOfOthers: a run does not doubt what it writes itself; to reopen its journal unbounds it, and to void the journals
// leaves nothing known.
func TestDoubtsOfOthers(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	replica, run := addReplica(t, store, 100*manifest.ExtentSize)
	segment(t, store, replica.ID, true, 10, 20)
	second := segment(t, store, replica.ID, true, 5, 7)
	check := func(what string, before manifest.Generation, want ...state.Span) {
		t.Helper()
		if got := doubts(t, store, replica.ID, before); !slices.Equal(want, got) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("before the second run", second, state.Span{From: 10, To: 20})
	j, err := store.OpenJournal(t.Context(), replica.ID, "0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	check("while it goes on", manifest.Generation{}, state.Span{From: 10, To: 20}, state.Span{From: 5, To: 100})
	if err := store.VoidJournals(t.Context(), replica.ID); err != nil {
		t.Fatal(err)
	}
	check("voided", manifest.Generation{}, state.Span{To: 100}, state.Span{To: 100})

	run.Report.Generation = second.String()
	if err := store.SaveReport(t.Context(), run.Report); err != nil {
		t.Fatal(err)
	}
	if found, err := store.RunOf(t.Context(), replica.ID, second); err != nil || found.Report.ID != run.Report.ID {
		t.Errorf("the run of a generation: %v, %v", found.Report.ID, err)
	}
	if _, err := store.RunOf(t.Context(), replica.ID, manifest.NewGeneration()); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("the run of another generation: %v", err)
	}
}
