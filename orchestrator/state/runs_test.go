package state_test

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

func TestOneRunAReplica(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	addPools(t, store)
	replica, run := addReplica(t, store)
	_, err := store.BeginRun(t.Context(), replica.ID, state.RunVerify, report.Run{Direction: report.Pull, Trust: report.TrustVerify})
	var busy *state.BusyError
	if !errors.As(err, &busy) || !errors.Is(err, state.ErrBusy) || busy.Run != run.Report.ID || busy.Owner != store.Owner() {
		t.Errorf("a second run: %v, want a BusyError that names the first", err)
	}
	endRun(t, store, run)
	second := beginRun(t, store, replica.ID)
	runs, err := store.Runs(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(runs) != 2 || runs[0].Report.ID != second.Report.ID || runs[1].Report.State != report.StateFailed {
		t.Errorf("runs %+v", runs)
	}
	if _, err := store.BeginRun(t.Context(), "none", state.RunReplicate, run.Report); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("a run on an unknown replica: %v, want ErrNotFound", err)
	}
	if _, err := store.BeginRun(t.Context(), replica.ID, "dance", run.Report); err == nil {
		t.Error("an unknown kind of run was begun")
	}
}

func TestReportIsKept(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	_, run := addReplica(t, store)
	r := run.Report
	r.Disks = []report.Disk{{Disk: "0", LogicalSize: 7, State: report.DiskMoving, Counters: report.Counters{Sent: 5}}}
	r.Events = []report.Event{{Time: r.Started, Cause: "x", Text: "y"}}
	if err := store.SaveReport(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	kept, err := store.Run(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, kept.Report); diff != "" {
		t.Errorf("the stored report differs (-want +got):\n%s", diff)
	}
	bad := r
	bad.State = "great"
	if err := store.SaveReport(t.Context(), bad); err == nil {
		t.Error("an invalid report was stored")
	}
	endRun(t, store, run)
	if err := store.SaveReport(t.Context(), r); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("a report after the end: %v", err)
	}
}

func TestObjects(t *testing.T) {
	store := newFolders(t).open(t)
	ctx := t.Context()
	addPools(t, store)
	_, run := addReplica(t, store)
	intent := state.Object{Run: run.Report.ID, Pool: "pool-a", Class: "VM", Kind: "snapshot", Origin: "vm"}
	var objects []state.Object
	for range 3 {
		o, err := store.RecordIntent(ctx, intent)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(o.Name, run.Report.ID) || o.Status != state.ObjectIntended {
			t.Errorf("object %+v: its name must carry the run", o)
		}
		objects = append(objects, o)
	}
	if objects[0].Name == objects[1].Name {
		t.Error("two objects of a run share a name")
	}
	var err error
	if objects[1], err = store.RecordCreated(ctx, objects[1], "uuid-1"); err != nil {
		t.Fatal(err)
	}
	if objects[2], err = store.RecordCreated(ctx, objects[2], "uuid-2"); err != nil {
		t.Fatal(err)
	}
	if objects[2], err = store.RecordKept(ctx, objects[2]); err != nil {
		t.Fatal(err)
	}
	listed, err := store.Objects(ctx, run.Report.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(objects, listed); diff != "" {
		t.Errorf("objects differ (-want +got):\n%s", diff)
	}
	if _, err := store.RecordKept(ctx, objects[0]); err == nil {
		t.Error("an object that was never created is kept")
	}
	if _, err := store.RecordCreated(ctx, objects[0], ""); err == nil {
		t.Error("an object without uuid counts as created")
	}
	if _, err := store.RecordIntent(ctx, state.Object{Run: run.Report.ID, Pool: "pool-a", Class: "VM"}); err == nil {
		t.Error("an object without kind was recorded: nobody could undo it")
	}

	endRun(t, store, run)
	if _, err := store.RecordIntent(ctx, intent); err == nil {
		t.Error("an object was recorded after the run's end")
	}
	pending := func() int {
		runs, err := store.PendingRuns(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return len(runs)
	}
	if pending() != 1 {
		t.Error("a run that left objects behind is not pending")
	}
	for _, o := range objects[:2] {
		if _, err := store.RecordUndone(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	if pending() != 0 {
		t.Error("a run that left nothing behind is pending")
	}
}

func TestLeases(t *testing.T) {
	dirs := newFolders(t)
	store := dirs.open(t)
	ctx := t.Context()
	addPools(t, store)
	_, run := addReplica(t, store)
	id := run.Report.ID
	var addresses []netip.Prefix
	for a := netip.MustParseAddr("192.0.2.1"); len(addresses) < 8; a = a.Next() {
		addresses = append(addresses, netip.PrefixFrom(a, 24))
	}

	// Stores of their own, as several processes have.
	var mu sync.Mutex
	var got []netip.Prefix
	var wg sync.WaitGroup
	for range len(addresses) / 2 {
		other := dirs.open(t)
		wg.Go(func() {
			for range 2 {
				a, err := other.Lease(ctx, "pool-a", id, slices.Values(addresses))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got = append(got, a)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(got, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	if !slices.Equal(got, addresses) {
		t.Errorf("leased %v, want each of %v once", got, addresses)
	}
	if _, err := store.Lease(ctx, "pool-a", id, slices.Values(addresses)); !errors.Is(err, state.ErrNoAddress) {
		t.Errorf("all are held: %v, want ErrNoAddress", err)
	}
	if a, err := store.Lease(ctx, "pool-b", id, slices.Values(addresses)); err != nil || a != addresses[0] {
		t.Errorf("another pool: %v, %v, want the first", a, err)
	}
	if err := store.ReleaseRun(ctx, id); err != nil {
		t.Fatal(err)
	}
	if a, err := store.Lease(ctx, "pool-a", id, slices.Values(addresses)); err != nil || a != addresses[0] {
		t.Errorf("after the release: %v, %v, want the first", a, err)
	}
}

func TestLeasesOutliveARunThatLeftADelegate(t *testing.T) {
	store := newFolders(t).open(t)
	ctx := t.Context()
	addPools(t, store)
	replica, run := addReplica(t, store)
	only := slices.Values([]netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")})
	delegate, err := store.RecordIntent(ctx, state.Object{Run: run.Report.ID, Pool: "pool-a", Class: "VM", Kind: "delegate"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Lease(ctx, "pool-a", run.Report.ID, only); err != nil {
		t.Fatal(err)
	}
	endRun(t, store, run)
	second := beginRun(t, store, replica.ID)
	if _, err := store.Lease(ctx, "pool-a", second.Report.ID, only); !errors.Is(err, state.ErrNoAddress) {
		t.Errorf("error %v: the address of a delegate that may still run was given away", err)
	}
	if _, err := store.RecordUndone(ctx, delegate); err != nil {
		t.Fatal(err)
	}
	if err := store.ReleaseRun(ctx, run.Report.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Lease(ctx, "pool-a", second.Report.ID, only); err != nil {
		t.Error(err)
	}
	endRun(t, store, second)
	third := beginRun(t, store, replica.ID)
	if _, err := store.Lease(ctx, "pool-a", third.Report.ID, only); err != nil {
		t.Errorf("a run that left nothing behind kept its address: %v", err)
	}
}

func TestOwner(t *testing.T) {
	me, err := state.CurrentOwner()
	if err != nil {
		t.Fatal(err)
	}
	back, err := state.ParseOwner(me.String())
	if err != nil || back != me {
		t.Errorf("%v, %v after parsing %s", back, err, me)
	}
	if alive, err := me.Alive(); err != nil || !alive {
		t.Errorf("this process: alive %v, %v", alive, err)
	}
	again := me
	again.Start += "0" // the id was used again
	if alive, err := again.Alive(); err != nil || alive {
		t.Errorf("a process of another start: alive %v, %v", alive, err)
	}
	parent := state.Owner{Host: me.Host, PID: os.Getppid(), Start: me.Start}
	if alive, err := parent.Alive(); err != nil || alive {
		t.Errorf("another process with our start: alive %v, %v", alive, err)
	}
	foreign := me
	foreign.Host += "x"
	if _, err := foreign.Alive(); !errors.Is(err, state.ErrForeignHost) {
		t.Errorf("a process elsewhere: %v, want ErrForeignHost", err)
	}
	for _, bad := range []string{"", "host", "host:1", "host:x:1", "host:-1:1", ":1:1", "host:1:", "a:1:b:c"} {
		if _, err := state.ParseOwner(bad); err == nil {
			t.Errorf("%q was taken for an owner", bad)
		}
	}
}

func FuzzParseOwner(f *testing.F) {
	f.Add("host:12:0e1c/77")
	f.Add("::")
	f.Add("host:99999999999999999999:1")
	f.Fuzz(func(t *testing.T, s string) {
		owner, err := state.ParseOwner(s)
		if err != nil {
			return
		}
		if back, err := state.ParseOwner(owner.String()); err != nil || back != owner {
			t.Errorf("%q reads as %+v, which reads back as %+v, %v", s, owner, back, err)
		}
	})
}

func TestTimesSort(t *testing.T) {
	store := newFolders(t).open(t)
	addPools(t, store)
	replica, run := addReplica(t, store)
	var ids []string
	for range 20 {
		endRun(t, store, run)
		run = beginRun(t, store, replica.ID)
		ids = append(ids, run.Report.ID)
	}
	runs, err := store.Runs(t.Context(), len(ids))
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(ids)
	for i, r := range runs {
		if r.Report.ID != ids[i] || r.Report.Started.Location() != time.UTC {
			t.Fatalf("run %d of the newest is %s at %v, want %s", i, r.Report.ID, r.Report.Started, ids[i])
		}
	}
}
