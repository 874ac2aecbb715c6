package cli_test

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/cli"
	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
)

// recordedRun is a run of a job of one VM that this process has begun: whoever watches it sees what the test records.
type recordedRun struct {
	t     *testing.T
	dir   string
	store *state.Store
	run   report.JobRun
}

func beginRun(t *testing.T) *recordedRun {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("UNDERSTUDY_KEY_FILE", filepath.Join(dir, "key"))
	store, err := statetest.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := store.AddPool(t.Context(), state.Pool{UUID: "a", Name: "a", Addresses: []string{"a.test"}, Fingerprints: []string{"00"}}); err != nil {
		t.Fatal(err)
	}
	made, err := store.CreateJob(t.Context(), job.Definition{Name: "nightly", Source: "a", Target: "a", SR: "shared", VMs: []job.Selector{{Name: "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	begun, err := store.BeginJobRun(t.Context(), made.ID, report.JobRun{
		JobName: "nightly", VMs: []report.JobVM{{VM: report.VM{UUID: "w", Name: "web", Pool: "a"}, State: report.StateWaiting}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &recordedRun{t: t, dir: dir, store: store, run: begun.Report}
}

// record stores that the VM, and with a final state the run, has come to a state.
func (r *recordedRun) record(s report.State) {
	r.run.VMs[0].State = s
	if s.Final() {
		r.run.State, r.run.Finished = s, r.run.Started.Add(time.Second)
	}
	if err := r.store.SaveJobRun(context.Background(), r.run); err != nil {
		r.t.Error(err)
	}
}

func (r *recordedRun) command(stdout, stderr io.Writer, args ...string) int {
	return cli.Main(r.t.Context(), "test", append(args, "--state-dir", filepath.Join(r.dir, "state")), stdout, stderr)
}

// signal is a writer that calls do once when a text has been written to it.
type signal struct {
	bytes.Buffer
	text string
	once sync.Once
	do   func()
}

func (s *signal) Write(p []byte) (int, error) {
	n, err := s.Buffer.Write(p)
	if strings.Contains(s.String(), s.text) {
		s.once.Do(s.do)
	}
	return n, err
}

func TestWatchFollowsWhatIsRecordedUntilTheEnd(t *testing.T) {
	r := beginRun(t)
	var stdout bytes.Buffer
	stderr := &signal{text: "web: waiting", do: func() { r.record(report.StateFailed) }}
	if code := r.command(&stdout, stderr, "run", "watch", r.run.ID, "--json"); code != 1 {
		t.Errorf("exit code %d, want that of a run that failed", code)
	}
	if got := stderr.String(); !strings.HasPrefix(got, "web: waiting\nweb: failed\n") {
		t.Errorf("standard error:\n%s", got)
	}
	if got := stdout.String(); !strings.Contains(got, `"state": "failed"`) || !strings.Contains(got, `"runs": []`) {
		t.Errorf("standard output:\n%s", got)
	}
}

func TestCancelWaitsForTheEnd(t *testing.T) {
	r := beginRun(t)
	var stdout, late bytes.Buffer
	if code := r.command(&stdout, &late, "job", "cancel", "nightly", "--wait", "10ms"); code != 1 || !strings.Contains(late.String(), "has not within 10ms") {
		t.Errorf("exit code %d before the end, and:\n%s", code, late.String())
	}
	if asked, err := r.store.JobRun(t.Context(), r.run.ID); err != nil || !asked.CancelRequested {
		t.Errorf("the wish is not noted: %v", err)
	}
	stdout.Reset()
	stderr := &signal{text: "web: waiting", do: func() { r.record(report.StateCancelled) }}
	if code := r.command(&stdout, stderr, "run", "cancel", r.run.ID); code != 0 || !strings.Contains(stdout.String(), "has ended: cancelled") {
		t.Errorf("exit code %d, and:\n%s%s", code, stdout.String(), stderr.String())
	}
	stdout.Reset()
	if code := r.command(&stdout, stderr, "run", "cancel", r.run.ID, "--json"); code != 0 || !strings.Contains(stdout.String(), `"state": "cancelled"`) {
		t.Errorf("once more: exit code %d, and:\n%s", code, stdout.String())
	}
	if code := r.command(&stdout, stderr, "run", "watch", r.run.ID); code != 130 {
		t.Errorf("watching it afterwards: exit code %d", code)
	}
}

func TestARunThatHasLostItsProcessIsNotFollowedForEver(t *testing.T) {
	r := beginRun(t)
	dead := r.owner()
	dead.Start = "boot/1" // its process id is another process's by now
	if err := statetest.GiveAway(t.Context(), r.dir, dead); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := r.command(&stdout, &stderr, "run", "watch", r.run.ID); code != 1 || !strings.Contains(stderr.String(), "job run nightly") {
		t.Errorf("exit code %d, and:\n%s", code, stderr.String())
	}
	if code := r.command(&stdout, &stderr, "job", "cancel", "nightly"); code != 0 || !strings.Contains(stdout.String(), "has ended: cancelled") {
		t.Errorf("cancelling it: exit code %d, and:\n%s%s", code, stdout.String(), stderr.String())
	}
}

func (r *recordedRun) owner() state.Owner {
	found, err := r.store.JobRun(r.t.Context(), r.run.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	return found.Owner
}
