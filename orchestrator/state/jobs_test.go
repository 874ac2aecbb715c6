package state_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

func definition(name string) job.Definition {
	return job.Definition{
		Name: name, Source: "pool-a", Target: "pool-b", SR: "target", DiskSRs: map[string]string{"1": "fast"},
		VMs: []job.Selector{{Pattern: "web-*"}, {Tag: "no", Exclude: true}}, Networks: map[string]string{"lan": "dmz"},
		Options: job.Options{Direction: report.Pull, Retention: 5, Parallel: 4},
	}
}

// addJob adds two pools and a job.
func addJob(t *testing.T, store *state.Store) state.Job {
	t.Helper()
	addPools(t, store)
	j, err := store.CreateJob(t.Context(), definition("nightly"))
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestJobs(t *testing.T) {
	store, _ := openCopy(t)
	ctx := t.Context()
	j := addJob(t, store)
	if !j.Enabled || j.ID == "" || j.Created.IsZero() {
		t.Errorf("a new job is %+v", j)
	}
	same := func(name string) {
		t.Helper()
		kept, err := store.Job(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(j, kept); diff != "" {
			t.Errorf("job %s differs (-want +got):\n%s", name, diff)
		}
	}
	same(j.ID)
	same("nightly")

	if _, err := store.CreateJob(ctx, definition("nightly")); !errors.Is(err, state.ErrJobName) || !errors.Is(err, state.ErrExists) {
		t.Errorf("two jobs of one name: %v", err)
	}
	second, err := store.CreateJob(ctx, definition("daily"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.UpdateJob(ctx, second.ID, definition("nightly")); !errors.Is(err, state.ErrJobName) {
		t.Errorf("a job is called as another one: %v", err)
	}
	unknown := definition("third")
	unknown.Target = "pool-c"
	if _, err := store.CreateJob(ctx, unknown); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("a job to an unknown pool: %v", err)
	}
	if _, err := store.CreateJob(ctx, job.Definition{Name: "empty"}); err == nil {
		t.Error("a definition that makes no sense was stored")
	}

	changed := definition("weekly")
	changed.Options.Retention = 9
	if j, err = store.UpdateJob(ctx, j.ID, changed); err != nil {
		t.Fatal(err)
	}
	if j.Definition.Options.Retention != 9 || !j.Updated.After(j.Created) {
		t.Errorf("changed to %+v", j)
	}
	same("weekly")
	if err := store.EnableJob(ctx, j.ID, false); err != nil {
		t.Fatal(err)
	}
	j.Enabled = false
	same(j.ID)
	if _, err := store.BeginJobRun(ctx, j.ID, report.JobRun{}); !errors.Is(err, state.ErrDisabled) {
		t.Errorf("a disabled job is run: %v", err)
	}

	all, err := store.Jobs(ctx)
	if err != nil || len(all) != 2 || all[0].ID != second.ID || all[1].ID != j.ID {
		t.Errorf("jobs %v, %v; want them by name", all, err)
	}
	if err := store.DeleteJob(ctx, j.ID); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		store.DeleteJob(ctx, j.ID), store.EnableJob(ctx, j.ID, true), failure(store.Job(ctx, j.ID)),
		failure(store.UpdateJob(ctx, j.ID, changed)), failure(store.BeginJobRun(ctx, j.ID, report.JobRun{})),
	} {
		if !errors.Is(err, state.ErrNotFound) {
			t.Errorf("a job that is gone: %v", err)
		}
	}
}

func failure[T any](_ T, err error) error { return err }

func TestJobRuns(t *testing.T) {
	store, _ := openCopy(t)
	ctx := t.Context()
	j := addJob(t, store)
	vm := report.VM{UUID: "vm", Name: "web", Pool: "a", PoolUUID: "pool-a"}
	begun, err := store.BeginJobRun(ctx, j.ID, report.JobRun{JobName: "nightly", VMs: []report.JobVM{{VM: vm, State: report.StateWaiting}}})
	if err != nil {
		t.Fatal(err)
	}
	if begun.Job != j.ID || begun.Owner != store.Owner() || begun.Report.ID != begun.ID || begun.Report.State != report.StateRunning {
		t.Errorf("begun as %+v", begun)
	}
	var busy *state.BusyError
	if _, err := store.BeginJobRun(ctx, j.ID, report.JobRun{}); !errors.As(err, &busy) || busy.Run != begun.ID {
		t.Errorf("a second run: %v", err)
	}
	if err := store.DeleteJob(ctx, j.ID); !errors.Is(err, state.ErrBusy) {
		t.Errorf("a job that is running was deleted: %v", err)
	}
	other, err := store.CreateJob(ctx, definition("daily"))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := store.BeginJobRun(ctx, other.ID, report.JobRun{JobName: "daily"})
	if err != nil {
		t.Fatal(err)
	}

	replica, err := store.CreateReplica(ctx, state.Replica{SourcePool: "pool-a", SourceVM: "vm", TargetPool: "pool-b", TargetSR: "sr"})
	if err != nil {
		t.Fatal(err)
	}
	part, err := store.BeginRun(ctx, replica.ID, state.RunReplicate, report.Run{JobRun: begun.ID, Direction: report.Push, Trust: report.TrustVerify})
	if err != nil {
		t.Fatal(err)
	}
	parts, err := store.RunsOf(ctx, begun.ID)
	if err != nil || len(parts) != 1 || parts[0].Report.ID != part.Report.ID || parts[0].Report.JobRun != begun.ID {
		t.Errorf("its VM runs: %v, %v", parts, err)
	}
	if none, err := store.RunsOf(ctx, ""); err != nil || len(none) != 0 {
		t.Errorf("the VM runs of no job's run: %v, %v", none, err)
	}

	r := begun.Report
	r.VMs[0].Run, r.VMs[0].State = part.Report.ID, report.StateRunning
	if err := store.SaveJobRun(ctx, r); err != nil {
		t.Fatal(err)
	}
	kept, err := store.JobRun(ctx, begun.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, kept.Report); diff != "" {
		t.Errorf("the stored report differs (-want +got):\n%s", diff)
	}
	r.State, r.Finished = report.StateFailed, r.Started
	if err := store.SaveJobRun(ctx, r); err == nil {
		t.Error("a run ended while one of its VMs was running")
	}
	r.VMs[0].State = report.StateFailed
	if err := store.SaveJobRun(ctx, r); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		store.SaveJobRun(ctx, r), store.Heartbeat(ctx, r.ID), store.CancelRun(ctx, r.ID), failure(store.TakeOverJobRun(ctx, r.ID)),
	} {
		if !errors.Is(err, state.ErrEnded) {
			t.Errorf("of a run that has ended: %v", err)
		}
	}
	again, err := store.BeginJobRun(ctx, j.ID, report.JobRun{JobName: "nightly"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{j.ID: {again.ID, begun.ID}, "": {again.ID, elsewhere.ID, begun.ID}, other.ID: {elsewhere.ID}} {
		runs, err := store.JobRuns(ctx, name, 10)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, run := range runs {
			ids = append(ids, run.ID)
		}
		if diff := cmp.Diff(want, ids); diff != "" {
			t.Errorf("the runs of job %q (-want +got):\n%s", name, diff)
		}
	}
	if runs, err := store.JobRuns(ctx, "", 1); err != nil || len(runs) != 1 {
		t.Errorf("the newest run: %v, %v", runs, err)
	}
}

// TestPoolsOfJobs: a job would fail for ever without its pools.
func TestPoolsOfJobs(t *testing.T) {
	store, _ := openCopy(t)
	ctx := t.Context()
	j := addJob(t, store)
	for _, pool := range []string{"a", "b"} {
		if err := store.RemovePool(ctx, pool); !errors.Is(err, state.ErrInUse) || !strings.Contains(err.Error(), j.Definition.Name) {
			t.Errorf("removing pool %s of a job: %v", pool, err)
		}
	}
	if err := store.DeleteJob(ctx, j.ID); err != nil {
		t.Fatal(err)
	}
	if err := store.RemovePool(ctx, "a"); err != nil {
		t.Error(err)
	}
}
