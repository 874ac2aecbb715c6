package runner_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/runner"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/worlds"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const mib = 1 << 20

// abd is the program that delegates run.
var abd string

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		if err := child(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "understudy-runner-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// build builds the delegate's program. It is started through a script, since test folders may lie on a file system without
// direct I/O.
func build(dir string) error {
	program := filepath.Join(dir, "abd")
	command := exec.Command("go", "build", "-o", program, "github.com/understudy-dr/understudy/cmd/abd")
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go build cmd/abd: %w\n%s", err, out)
	}
	abd = filepath.Join(dir, "abd.sh")
	return os.WriteFile(abd, fmt.Appendf(nil, "#!/bin/sh\nexec '%s' --buffered \"$@\"\n", program), 0o700)
}

// world is one simulated pool, in which a job replicates from one SR to another, and an orchestrator.
type world struct {
	*testing.T
	dir    string // of the orchestrator's state
	sim    *xapisim.Pool
	pool   *delegate.Pool
	uuid   string // of the pool
	store  *state.Store
	fake   *fake
	runner *runner.Runner
	job    state.Job
	vms    map[string]string // uuid by name
}

// newWorld has VMs of these names, and a job that means all of them. Addresses is the last of those that delegates may have in a range that begins with 10.
func newWorld(t *testing.T, addresses int, names ...string) *world {
	t.Helper()
	t.Parallel()
	w := &world{T: t, dir: t.TempDir(), vms: map[string]string{}, fake: &fake{}}
	var err error
	w.sim, err = xapisim.New(xapisim.Config{
		Name: "a", Dir: t.TempDir(), World: worlds.NewProcess(abd, t.TempDir()), EventDelay: -1, AuthDelay: time.Millisecond,
		SRs: []xapisim.SRConfig{{Name: "source", Type: "nfs", Shared: true}, {Name: "target", Type: "nfs", Shared: true}},
	})
	w.must(err)
	t.Cleanup(w.sim.Close)
	_, err = w.sim.AddDelegateTemplate("source", "1.0")
	w.must(err)
	for _, name := range names {
		added, err := w.sim.AddVM(xapisim.VMConfig{Name: name, Disks: []xapisim.DiskConfig{{Size: 4 * mib, SR: "source"}}})
		w.must(err)
		w.vms[name] = added.UUID
	}
	w.store, err = statetest.Open(t.Context(), w.dir)
	w.must(err)
	t.Cleanup(func() { _ = w.store.Close() })
	client, err := xapi.Dial(t.Context(), xapi.Config{
		Addresses: w.sim.Addresses(), Username: "root", Password: "xenroot", Fingerprints: w.sim.Fingerprints(), Originator: "test",
	})
	w.must(err)
	t.Cleanup(func() { _ = client.Close(context.WithoutCancel(t.Context())) })
	pools, err := xapi.AllRecords[xapi.Pool](t.Context(), client, "pool")
	w.must(err)
	for _, pool := range pools {
		w.uuid = pool.UUID
	}
	w.must(w.store.AddPool(t.Context(), state.Pool{
		UUID: w.uuid, Name: "a", Addresses: w.sim.Addresses(), Fingerprints: w.sim.Fingerprints(), Username: "root", Password: "xenroot",
		DelegateAddresses: fmt.Sprintf("127.77.0.10-127.77.0.%d/8", addresses),
	}))
	w.pool = &delegate.Pool{Name: "a", API: client, Store: w.store}
	w.runner = &runner.Runner{
		Store: w.store, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Connect: func(context.Context, string) (*delegate.Pool, error) { return w.pool, nil },
		Engine:  w.fake.as,
	}
	w.job, err = w.store.CreateJob(t.Context(), w.definition())
	w.must(err)
	return w
}

func (w *world) definition() job.Definition {
	return job.Definition{Name: "nightly", Source: w.uuid, Target: w.uuid, SR: "target", VMs: []job.Selector{{Pattern: "*"}}}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// change changes the job.
func (w *world) change(f func(*job.Definition)) {
	w.Helper()
	d := w.definition()
	f(&d)
	var err error
	w.job, err = w.store.UpdateJob(w.Context(), w.job.ID, d)
	w.must(err)
}

// run runs the job, which must end like this, and checks that what is stored is what was returned.
func (w *world) run(want report.State, options runner.RunOptions) report.JobRun {
	w.Helper()
	run, err := w.runner.Run(w.Context(), w.job, options)
	if run.State != want || (err == nil) != (want == report.StateCommitted) {
		w.Fatalf("the job's run is %s, want %s: %v\n%+v", run.State, want, err, run)
	}
	kept, err := w.store.JobRun(w.Context(), run.ID)
	w.must(err)
	if kept.Report.State != want || len(kept.Report.VMs) != len(run.VMs) {
		w.Errorf("stored: %+v", kept.Report)
	}
	return run
}

// states are those of the VMs, by name.
func states(run report.JobRun) map[string]report.State {
	all := map[string]report.State{}
	for _, vm := range run.VMs {
		all[vm.VM.Name] = vm.State
	}
	return all
}

func codes(findings []report.Finding) (all []string) {
	for _, f := range findings {
		all = append(all, f.Code)
	}
	return all
}

// fake replicates nothing, and takes the place of the engine where it matters which VMs are at work at a time.
type fake struct {
	mu    sync.Mutex
	at    []string // uuids of the VMs that are at work
	most  int      // of them at a time
	begun []string
	plan  func(vm string) error
	do    func(ctx context.Context, request replication.Request) error // may be nil
}

type fakeEngine struct {
	*fake
	observe func(report.Run)
}

func (f *fake) as(observe func(report.Run)) runner.Replicator { return fakeEngine{f, observe} }

func (f fakeEngine) Plan(_ context.Context, request replication.Request) (replication.Plan, error) {
	if f.plan != nil {
		if err := f.plan(request.VM); err != nil {
			return replication.Plan{}, err
		}
	}
	return replication.Plan{VM: report.VM{UUID: request.VM}, SRName: request.SR}, nil
}

func (f fakeEngine) Replicate(ctx context.Context, request replication.Request) (report.Run, error) {
	f.mu.Lock()
	f.at, f.begun = append(f.at, request.VM), append(f.begun, request.VM)
	f.most = max(f.most, len(f.at))
	f.mu.Unlock()
	run := report.Run{ID: "run of " + request.VM, JobRun: request.JobRun, State: report.StateRunning}
	f.observe(run)
	var err error
	if f.do != nil {
		err = f.do(ctx, request)
	}
	f.mu.Lock()
	f.at = slices.DeleteFunc(f.at, func(vm string) bool { return vm == request.VM })
	f.mu.Unlock()
	switch {
	case err == nil:
		run.State = report.StateCommitted
	case ctx.Err() != nil:
		run.State = report.StateCancelled
	default:
		run.State = report.StateFailed
	}
	return run, err
}

// together has each VM run wait until as many are, or have been, at work at a time.
func (f *fake) together(want int) {
	f.do = func(ctx context.Context, _ replication.Request) error {
		err := wait(func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.most >= want
		})
		time.Sleep(30 * time.Millisecond) // in which more could come
		return err
	}
}

var errTooLong = errors.New("it does not come about")

func wait(done func() bool) error {
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errTooLong
		}
	}
	return nil
}
