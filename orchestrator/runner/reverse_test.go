package runner_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/runner"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// names are those of the VMs that a job means.
func (w *world) means(j state.Job) (names []string) {
	w.Helper()
	vms, err := w.runner.Resolve(w.Context(), j)
	w.must(err)
	for _, vm := range vms {
		names = append(names, vm.Name)
	}
	return names
}

// TestReverseAJob: of a job whose replicas have failed over there is a job in the other direction, made once and carrying what can be carried.
// Meanwhile the first leaves them out; a replica in standby is never chosen; with its last VM gone home the other job is gone.
func TestReverseAJob(t *testing.T) {
	w := newWorld(t, 39, "db", "web")
	ctx := t.Context()
	w.runner.Engine = nil
	w.change(func(d *job.Definition) {
		d.Options = job.Options{Trust: true, Retention: 2, KeepTarget: true}
		d.Networks = map[string]string{"Pool-wide network 0": "Pool-wide network 0"}
	})
	w.run(report.StateCommitted, runner.RunOptions{})
	if _, _, err := w.runner.Reverse(ctx, w.job, runner.ReverseOptions{}); !errors.Is(err, runner.ErrNothingToReverse) {
		t.Errorf("a reverse of replicas in standby: %v", err)
	}
	if _, err := w.runner.FailbackJob(ctx, w.job, runner.FailbackOptions{}); !errors.Is(err, runner.ErrNothingToFailBack) {
		t.Errorf("a failback of replicas in standby: %v", err)
	}
	records, err := w.store.Replicas(ctx)
	w.must(err)
	standby := w.job
	standby.Definition.VMs = []job.Selector{{UUID: records[0].TargetVM}, {Name: "db"}}
	if got := w.means(standby); !slices.Equal(got, []string{"db"}) {
		t.Errorf("with a replica in standby by its uuid a job means %v", got)
	}
	engine := &replication.Engine{Store: w.store}
	failOver := func(record state.Replica) {
		t.Helper()
		_, err := engine.Failover(ctx, replication.FailoverRequest{Replica: record.ID, Source: w.pool, Target: w.pool, NoStart: true})
		w.must(err)
	}

	failOver(records[0])
	back, all, err := w.runner.Reverse(ctx, w.job, runner.ReverseOptions{Name: "back"})
	if err != nil || len(all) != 1 || all[0].Pair == "" || all[0].Run.State != report.StateCommitted {
		t.Fatalf("reversed %+v, %v", all, err)
	}
	failOver(records[1])
	again, all, err := w.runner.Reverse(ctx, w.job, runner.ReverseOptions{})
	if err != nil || len(all) != 2 || again.ID != back.ID {
		t.Fatalf("once more: %+v, %v", all, err)
	}
	d, source := again.Definition, w.sr("source")
	if d.Name != "back" || d.SR != source || d.Options.Direction != report.Pull || !d.Options.Trust || d.Options.KeepTarget || d.Options.Retention != 2 || d.Networks != nil {
		t.Errorf("the job in the other direction: %+v", d)
	}
	if got := w.means(again); !slices.Equal(got, []string{"db (replica)", "web (replica)"}) {
		t.Errorf("it means %v", got)
	}
	if got := w.means(w.job); !slices.Equal(got, []string{"db", "web"}) {
		t.Errorf("the first job means %v", got)
	}
	if got := states(w.run(report.StateCommitted, runner.RunOptions{})); got["db"] != report.StateSuspended || got["web"] != report.StateSuspended {
		t.Errorf("its run: %v", got)
	}

	if _, err := w.runner.Failback(ctx, records[0].ID, runner.FailbackOptions{NoStart: true}); err != nil {
		t.Fatal(err)
	}
	if left, err := w.store.Job(ctx, "back"); err != nil || len(left.Definition.VMs) != 1 || left.Definition.VMs[0].UUID != records[1].TargetVM {
		t.Errorf("with one VM gone home it is %+v, %v", left.Definition, err)
	}
	home, err := w.runner.FailbackJob(ctx, w.job, runner.FailbackOptions{NoStart: true})
	if err != nil || len(home) != 1 || home[0].Replica != records[1].ID {
		t.Fatalf("failed back %+v, %v", home, err)
	}
	if _, err := w.store.Job(ctx, "back"); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("the job is left: %v", err)
	}
	records, err = w.store.Replicas(ctx)
	if err != nil || len(records) != 2 || records[0].Failover.State != string(replica.Standby) || records[1].Failover.State != string(replica.Standby) {
		t.Errorf("in the end %+v, %v", records, err)
	}
}

// sr is the uuid of a storage.
func (w *world) sr(name string) string {
	w.Helper()
	all, err := xapi.AllRecords[xapi.SR](w.Context(), w.pool.API, "SR")
	w.must(err)
	for _, sr := range all {
		if sr.NameLabel == name {
			return sr.UUID
		}
	}
	w.Fatalf("no SR %s", name)
	return ""
}
