package state_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
)

// clock is moved by hand.
type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

// keptWorld has a job's run and a VM run that is part of it.
func keptWorld(t *testing.T) (store *state.Store, whole state.JobRun, part state.Run, c *clock, dir string) {
	t.Helper()
	store, dir = openCopy(t)
	store.SetPace(time.Millisecond, time.Millisecond)
	c = &clock{now: time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)}
	store.SetClock(c.read)
	j := addJob(t, store)
	vm := report.VM{UUID: "vm", Name: "web", PoolUUID: "pool-a"}
	whole, err := store.BeginJobRun(t.Context(), j.ID, report.JobRun{JobName: "nightly", VMs: []report.JobVM{
		{VM: vm, State: report.StateRunning}, {VM: report.VM{UUID: "vm-2"}, State: report.StateWaiting}}})
	if err != nil {
		t.Fatal(err)
	}
	_, part = addReplica(t, store)
	return store, whole, part, c, dir
}

// openCopy opens a directory that is quickly made.
func openCopy(t *testing.T) (store *state.Store, dir string) {
	t.Helper()
	dir = t.TempDir()
	store, err := statetest.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store, dir
}

// ended waits for the end of a context, and says why it ended.
func ended(t *testing.T, ctx context.Context) error {
	t.Helper()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(5 * time.Second):
		t.Fatal("it does not end")
		return nil
	}
}

func TestOwnersSeeTheWishToCancel(t *testing.T) {
	store, whole, part, _, _ := keptWorld(t)
	ctx := t.Context()
	keptWhole, stopWhole := store.Keep(ctx, whole.ID)
	keptPart, stopPart := store.Keep(ctx, part.Report.ID)
	defer stopWhole()
	defer stopPart()
	if err := store.CancelRun(ctx, part.Report.ID); err != nil {
		t.Fatal(err)
	}
	if err := ended(t, keptPart); !errors.Is(err, state.ErrCancelled) {
		t.Errorf("the VM run ended for %v", err)
	}
	if keptWhole.Err() != nil {
		t.Error("the job's run was cancelled along with one of its VMs")
	}
	if err := store.CancelRun(ctx, whole.ID); err != nil {
		t.Fatal(err)
	}
	if err := ended(t, keptWhole); !errors.Is(err, state.ErrCancelled) {
		t.Errorf("the job's run ended for %v", err)
	}
	kept, err := store.JobRun(ctx, whole.ID)
	if err != nil || !kept.CancelRequested || kept.Report.State != report.StateRunning {
		t.Errorf("%+v, %v: it ends when its owner says so", kept, err)
	}
	if err := store.CancelRun(ctx, "none"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("an unknown run: %v", err)
	}
}

func TestSignsOfLife(t *testing.T) {
	store, whole, part, c, _ := keptWorld(t)
	c.now = c.now.Add(time.Minute)
	for _, id := range []string{whole.ID, part.Report.ID} {
		_, stop := store.Keep(t.Context(), id)
		until(t, func() bool {
			run, _ := store.Run(t.Context(), id)
			of, _ := store.JobRun(t.Context(), id)
			return run.Heartbeat.Equal(c.now) || of.Heartbeat.Equal(c.now)
		})
		stop()
	}
	if err := store.Heartbeat(t.Context(), "none"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("an unknown run: %v", err)
	}
}

func until(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about")
		}
	}
}

// TestTheLeaseOfAProcess has the runs of a process on another host taken over once its last sign of life, by any of them, is
// LeaseTime ago.
func TestTheLeaseOfAProcess(t *testing.T) {
	store, whole, part, c, dir := keptWorld(t)
	ctx := t.Context()
	keptWhole, stop := store.Keep(ctx, whole.ID)
	defer stop()
	if err := statetest.GiveAway(ctx, dir, statetest.Elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := ended(t, keptWhole); !errors.Is(err, state.ErrNotOwner) {
		t.Errorf("who lost the run ends for %v", err)
	}
	if err := store.OwnsRun(ctx, part.Report.ID); !errors.Is(err, state.ErrNotOwner) {
		t.Errorf("owns it: %v", err)
	}
	for _, err := range []error{store.SaveJobRun(ctx, whole.Report), store.Heartbeat(ctx, whole.ID), store.SaveReport(ctx, part.Report)} {
		if !errors.Is(err, state.ErrNotOwner) {
			t.Errorf("a run of another process is changed: %v", err)
		}
	}
	for _, after := range []time.Duration{0, state.LeaseTime - time.Second} {
		c.now = whole.Heartbeat.Add(after)
		if _, err := store.TakeOverJobRun(ctx, whole.ID); !errors.Is(err, state.ErrBusy) {
			t.Errorf("the job's run after %v: %v", after, err)
		}
		if _, err := store.TakeOver(ctx, part.Report.ID); !errors.Is(err, state.ErrBusy) {
			t.Errorf("the VM run after %v: %v", after, err)
		}
	}
	c.now = whole.Heartbeat.Add(state.LeaseTime)
	taken, err := store.TakeOverJobRun(ctx, whole.ID)
	if err != nil || taken.Owner != store.Owner() || !taken.Heartbeat.Equal(c.now) {
		t.Errorf("%+v, %v", taken, err)
	}
	if _, err := store.TakeOver(ctx, part.Report.ID); err != nil {
		t.Errorf("the VM run: %v", err)
	}
	if err := store.OwnsRun(ctx, part.Report.ID); err != nil {
		t.Error(err)
	}
	if _, err := store.TakeOverJobRun(ctx, whole.ID); !errors.Is(err, state.ErrBusy) {
		t.Errorf("the run of this very process: %v", err)
	}
}

// TestADeadProcessHereNeedsNoLease: whether a process of this host lives can be told.
func TestADeadProcessHereNeedsNoLease(t *testing.T) {
	store, whole, part, _, dir := keptWorld(t)
	ctx := t.Context()
	dead := store.Owner()
	dead.Start += "0"
	if err := statetest.GiveAway(ctx, dir, dead); err != nil {
		t.Fatal(err)
	}
	if err := store.CancelRun(ctx, whole.ID); err != nil {
		t.Fatal(err)
	}
	kept, err := store.JobRun(ctx, whole.ID)
	if err != nil {
		t.Fatal(err)
	}
	if r := kept.Report; r.State != report.StateCancelled || r.VMs[0].State != report.StateInterrupted || r.VMs[1].State != report.StateCancelled {
		t.Errorf("nobody sees the wish, and it is not ended: %+v", r)
	}
	if run, err := store.TakeOver(ctx, part.Report.ID); err != nil || run.Owner != store.Owner() {
		t.Errorf("%+v, %v", run, err)
	}
}

// TestTheEndOfAnAbandonedRun: of a job's run whose process lives nobody makes an end, of one whose process is dead anybody.
func TestTheEndOfAnAbandonedRun(t *testing.T) {
	store, whole, _, _, dir := keptWorld(t)
	ctx := t.Context()
	dead := store.Owner()
	if gone, err := store.OwnerGone(ctx, whole.ID, dead); gone || err != nil {
		t.Errorf("this process is gone: %t, %v", gone, err)
	}
	if err := store.EndJobRun(ctx, whole.ID, "abandoned"); !errors.Is(err, state.ErrBusy) {
		t.Errorf("the run of a living process: %v", err)
	}
	dead.Start += "0"
	if err := statetest.GiveAway(ctx, dir, dead); err != nil {
		t.Fatal(err)
	}
	if gone, err := store.OwnerGone(ctx, whole.ID, dead); !gone || err != nil {
		t.Errorf("a dead process is gone: %t, %v", gone, err)
	}
	if pending, err := store.PendingJobRuns(ctx); err != nil || len(pending) != 1 {
		t.Errorf("pending: %+v, %v", pending, err)
	}
	if err := store.EndJobRun(ctx, whole.ID, "abandoned"); err != nil {
		t.Error(err)
	}
	ended, err := store.JobRun(ctx, whole.ID)
	if err != nil {
		t.Fatal(err)
	}
	if r := ended.Report; r.State != report.StateInterrupted || r.Error != "abandoned" || r.VMs[0].State != report.StateInterrupted || r.VMs[1].State != report.StateInterrupted {
		t.Errorf("ended as %+v", r)
	}
	if err := store.EndJobRun(ctx, whole.ID, "abandoned"); !errors.Is(err, state.ErrEnded) {
		t.Errorf("once more: %v", err)
	}
}

// TestALivingProcessThatIsSilent: no clock takes the runs of a living process of this host away, nor its own waking from sleep.
func TestALivingProcessThatIsSilent(t *testing.T) {
	store, whole, part, c, dir := keptWorld(t)
	ctx := t.Context()
	parent, err := state.OwnerOf(store.Owner().Host, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := statetest.GiveAway(ctx, dir, parent); err != nil {
		t.Fatal(err)
	}
	for _, step := range []time.Duration{0, -time.Hour, 8 * time.Hour} {
		c.now = whole.Heartbeat.Add(step)
		if _, err := store.TakeOverJobRun(ctx, whole.ID); !errors.Is(err, state.ErrBusy) {
			t.Errorf("the job's run, with the clock set by %v: %v", step, err)
		}
		if _, err := store.TakeOver(ctx, part.Report.ID); !errors.Is(err, state.ErrBusy) {
			t.Errorf("the VM run, with the clock set by %v: %v", step, err)
		}
	}
}

// TestARunWithoutSignsOfLifeEnds before another process may take it over, although the state database can be read.
func TestARunWithoutSignsOfLifeEnds(t *testing.T) {
	store, whole, _, _, dir := keptWorld(t)
	store.SetGiveUp(50 * time.Millisecond)
	db, err := sql.Open("sqlite", filepath.Join(dir, "state", "understudy.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	_, err = db.ExecContext(t.Context(), `CREATE TRIGGER full BEFORE UPDATE OF heartbeat ON job_runs BEGIN SELECT RAISE(ABORT, 'no space'); END`)
	if err != nil {
		t.Fatal(err)
	}
	kept, stop := store.Keep(t.Context(), whole.ID)
	defer stop()
	if err := ended(t, kept); err == nil || !strings.Contains(err.Error(), "no sign of life") {
		t.Errorf("it ended for %v", err)
	}
}
