package runner_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/runner"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// childVariable makes the test binary an orchestrator of its own, which runs the job of this directory.
const childVariable = "RUNNER_TEST_CHILD"

func child(ctx context.Context, dir string) error {
	store, err := statetest.Open(ctx, dir)
	if err != nil {
		return err
	}
	job, err := store.Job(ctx, "nightly")
	if err != nil {
		return err
	}
	r := &runner.Runner{Store: store, Connect: func(ctx context.Context, uuid string) (*delegate.Pool, error) {
		known, err := store.Pool(ctx, uuid)
		if err != nil {
			return nil, err
		}
		client, err := xapi.Dial(ctx, xapi.Config{
			Addresses: known.Addresses, Username: known.Username, Password: known.Password.Reveal(), Fingerprints: known.Fingerprints,
		})
		return &delegate.Pool{Name: known.Name, API: client, Store: store}, err
	}}
	_, err = r.Run(ctx, job, runner.RunOptions{})
	return err
}

// TestTheNextProcessGoesOn kills the process of a job's run while it is at work on a VM.
func TestTheNextProcessGoesOn(t *testing.T) {
	w := newWorld(t, 39, "web", "db")
	w.runner.Engine = nil
	process := exec.Command(os.Args[0])
	process.Env = append(os.Environ(), childVariable+"="+w.dir)
	process.Stderr = t.Output()
	w.must(process.Start())
	var at report.JobRun
	err := wait(func() bool {
		runs, err := w.store.JobRuns(t.Context(), w.job.ID, 1)
		if err == nil && len(runs) == 1 {
			at = runs[0].Report
		}
		for _, vm := range at.VMs {
			if vm.Run != "" {
				return true
			}
		}
		return false
	})
	w.must(process.Process.Kill())
	_ = process.Wait() // it was killed
	w.must(err)

	for window, over := range map[time.Duration]bool{time.Hour: false, 0: true} {
		found, err := runner.EndAbandoned(t.Context(), w.store, window, true)
		if err != nil || len(found) != 1 || found[0].Run.ID != at.ID || found[0].Over != over {
			t.Errorf("abandoned for %v: %+v, %v", window, found, err)
		}
	}
	if found, err := runner.EndAbandoned(t.Context(), w.store, time.Hour, false); err != nil || len(found) != 1 || found[0].Over {
		t.Errorf("within the resume window: %+v, %v", found, err)
	}

	run := w.run(report.StateCommitted, runner.RunOptions{})
	if run.ID != at.ID || len(run.VMs) != 2 {
		t.Errorf("another run was begun, or other VMs: %+v", run)
	}
	pending, err := w.store.PendingRuns(t.Context())
	if err != nil || len(pending) != 0 {
		t.Errorf("runs that are not at their end: %+v, %v", pending, err)
	}
}
