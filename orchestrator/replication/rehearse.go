package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// A test starts a clone of a restore point, apart from the world:
//
//	VM.clone of the restore point: a template ─▶ markers of its own, no interfaces or new ones on the network given
//	  ─▶ no template any more ─▶ start ─▶ left to the administrator, until EndTest
//	                                  └─▶ watched: booted or failed, kept on the restore point ─▶ removed
//
// The replica is neither read nor written: its runs go on meanwhile, and a test has no part in its lease. Retention leaves the
// restore point alone for as long as the clone stands. What is made is recorded as in any run; a clone that is left to the
// administrator is kept there, so that no recovery takes it, and released by EndTest.

// Times of a test, where the request gives none.
const (
	DefaultTestTimeout = 5 * time.Minute
	DefaultTestSteady  = 10 * time.Second
)

// rehearsalTimeout bounds VM.clone, which copies every disk on a thick SR.
const rehearsalTimeout = time.Hour

// TestRequest says which restore point is to be tested, and how.
type TestRequest struct {
	Replica string         // id, as Replicas lists it
	Target  *delegate.Pool // where the replica is; its inventory is read anew
	Point   string         // as in RevertRequest; empty: Newest
	// Network, by name or uuid, is where all interfaces of the clone go, with new addresses; empty: the clone has no interface.
	Network string
	Host    string // name or uuid; empty: the one with the most free memory
	NoStart bool   // the clone is made, and left as it is
	// Auto has the clone watched, judged and removed; else it is left to the administrator.
	Auto bool
	// Timeout is how long the guest may take to show that it runs, from the end of VM.start; 0: DefaultTestTimeout.
	Timeout time.Duration
	// Steady is how long what it shows must stand, without a stop or a restart; 0: DefaultTestSteady.
	Steady time.Duration
}

func (r TestRequest) validate() error {
	switch {
	case r.Replica == "" || r.Target == nil:
		return errors.New("testing a restore point: it needs a replica and its pool")
	case r.Auto && r.NoStart:
		return errors.New("testing a restore point: what is not started cannot be judged: leave out one of the two")
	case r.Timeout < 0 || r.Steady < 0:
		return errors.New("testing a restore point: times are positive")
	}
	return nil
}

// Test is what came of a test.
type Test struct {
	Run   report.Run       `json:"run"`
	Point string           `json:"point"` // uuid of the restore point
	Name  string           `json:"name"`  // and its name
	Time  time.Time        `json:"time"`  // when it was made, by the pool's clock
	Clone report.VM        `json:"clone"` // after a test that was judged it is gone
	Host  string           `json:"host,omitempty"`
	Found *replica.Verdict `json:"verdict,omitempty"` // nil: nobody judged, or the test could not be done
}

// TestError says that a restore point cannot be tested as things are. Nothing was touched.
type TestError struct{ Replica, Cause, Mend string }

func (e *TestError) Error() string {
	return fmt.Sprintf("replica %s cannot be tested: %s; %s", e.Replica, e.Cause, e.Mend)
}

// Test starts a clone of one of a replica's restore points. It first removes what earlier tests whose process died have left. A
// restore point that does not boot is a result, not an error: see Test.Found. When the test could not be done, or is cancelled, there is
// no verdict and no clone.
//
// Errors: state.ErrNotFound for the replica, ErrNoRestorePoint, *TestError, *placement.Infeasible (see Findings),
// *inventory.NotFoundError and *inventory.AmbiguousError, and those of the pool.
func (e *Engine) Test(ctx context.Context, request TestRequest) (Test, error) {
	if err := request.validate(); err != nil {
		return Test{}, err
	}
	e.endDeadTests(ctx, request.Target)
	r, err := e.findRehearsal(ctx, request)
	if err != nil {
		return Test{}, fmt.Errorf("testing replica %s: %w", request.Replica, err)
	}
	if err := r.begin(ctx); err != nil {
		return Test{}, err
	}
	ctx, stop := r.store.Keep(ctx, r.id)
	defer stop()
	return r.finish(ctx, r.execute(ctx))
}

// endDeadTests removes the clones of tests whose process died: they take memory and room. That it cannot is no reason not to test.
func (e *Engine) endDeadTests(ctx context.Context, pool *delegate.Pool) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	answering, err := load(ctx, []*delegate.Pool{pool})
	if err == nil {
		var all []saga.Recovered
		all, err = saga.Recover(ctx, e.Store, Undoers(e.Store, answering...), state.RunRehearse)
		err = errors.Join(err, failures(all))
	}
	if err != nil {
		e.log().Warn("what earlier tests left could not all be removed", "cause", err)
	}
}

// rehearsal is a Test under way.
type rehearsal struct {
	engine  *Engine
	store   *state.Store
	report  *recorder
	saga    *saga.Saga
	request TestRequest
	target  *delegate.Pool
	record  state.Replica
	standby *standby
	point   restorePoint
	network xapi.Ref // null: none
	host    inventory.Host
	found   []report.Finding // warnings
	id      string
	started time.Time

	ref    xapi.Ref       // of the clone
	clone  state.Object   // and its record
	disks  []state.Object // those of its disks
	name   string
	stale  xapi.Ref  // what the clone's guest metrics were before its start: those of its original
	begun  time.Time // when VM.start had ended
	result *replica.Verdict
}

// findRehearsal takes one look and decides everything on it. Nothing is changed.
func (e *Engine) findRehearsal(ctx context.Context, request TestRequest) (*rehearsal, error) {
	request.Point = cmp.Or(request.Point, Newest)
	request.Timeout, request.Steady = cmp.Or(request.Timeout, DefaultTestTimeout), cmp.Or(request.Steady, DefaultTestSteady)
	r := &rehearsal{engine: e, store: e.Store, request: request, started: time.Now()}
	var err error
	if r.record, err = e.Store.Replica(ctx, request.Replica); err != nil {
		return nil, err
	}
	target := *request.Target
	r.target = &target
	if target.Inventory, err = inventory.Load(ctx, target.API); err != nil {
		return nil, fmt.Errorf("pool %s: %w", target.Name, err)
	}
	if r.standby = findStandby(target.Inventory, r.record); r.standby == nil {
		return nil, fmt.Errorf("its VM is not in pool %s: %w", target.Name, ErrNoRestorePoint)
	}
	if err := r.choose(ctx); err != nil {
		return nil, err
	}
	return r, r.place()
}

// choose finds the restore point. What a run that has not committed left behind, or did not finish, is none.
func (r *rehearsal) choose(ctx context.Context) error {
	left, err := leftBehind(ctx, r.store)
	if err != nil {
		return err
	}
	var points []restorePoint
	for _, p := range restorePointsOf(r.store.Installation().UUID, r.target.Inventory.VMs, r.standby.vm.Ref) {
		if state := p.marker.State; !left[p.vm.UUID] && !state.Dirty && state.Valid() {
			points = append(points, p)
		}
	}
	if len(points) == 0 {
		return ErrNoRestorePoint
	}
	var cause string
	if r.point, cause = choosePoint(points, r.request.Point); cause != "" {
		return &TestError{Replica: r.record.ID, Cause: cause, Mend: mendPoint}
	}
	return nil
}

// place finds network and host.
func (r *rehearsal) place() (err error) {
	view, wanted := r.target.Inventory, xapi.NullRef
	r.network = xapi.NullRef
	if r.request.Network != "" {
		if r.network, err = view.FindNetwork(r.request.Network); err != nil {
			return err
		}
	}
	if r.request.Host != "" {
		if wanted, err = view.FindHost(r.request.Host); err != nil {
			return err
		}
	}
	r.host, r.found, err = placement.PlaceClone(placement.CloneRequest{
		Pool: view, Of: r.point.ref, Start: !r.request.NoStart, Host: wanted,
	}, r.started)
	return err
}

func (r *rehearsal) begin(ctx context.Context) error {
	vm := r.standby.vm
	begun, err := r.store.BeginRun(ctx, r.record.ID, state.RunRehearse, report.Run{
		Direction: report.Push, Trust: report.TrustVerify, RestorePoint: r.point.vm.UUID,
		VM:      report.VM{UUID: r.record.SourceVM, PoolUUID: r.record.SourcePool},
		Replica: report.VM{UUID: vm.UUID, Name: vm.NameLabel, Pool: r.target.Name, PoolUUID: r.target.Inventory.UUID},
	})
	if err != nil {
		return err
	}
	r.id, r.report = begun.Report.ID, newRecorder(begun.Report, r.started, r.engine.Observe)
	r.saga = saga.New(r.store, r.id, Undoers(r.store, r.target))
	for _, f := range r.found {
		r.report.event(f.Code, "%s; %s", f.Cause, f.Mend)
	}
	return nil
}

// execute does the steps that the request asks for.
func (r *rehearsal) execute(ctx context.Context) error {
	type part struct {
		name  string
		phase report.Phase
		do    func(context.Context) error
	}
	steps := []part{{"clone", report.PhasePrepare, r.makeClone}, {"isolate", "", r.isolate}}
	if !r.request.NoStart {
		steps = append(steps, part{"start", report.PhaseSpawn, r.start})
	}
	if r.request.Auto {
		steps = append(steps, part{"watch", report.PhaseVerify, r.watch}, part{"note the verdict", report.PhaseCommit, r.note})
	} else {
		steps = append(steps, part{"leave it", report.PhaseCommit, r.leave})
	}
	for _, s := range steps {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if s.phase != "" {
			r.report.phase(s.phase)
		}
		if err := r.engine.step(s.name, func() error { return s.do(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// leave has the clone outlive the run: it is the administrator's until EndTest.
func (r *rehearsal) leave(ctx context.Context) error {
	if err := r.saga.Keep(context.WithoutCancel(ctx), append(r.disks, r.clone)...); err != nil {
		return err
	}
	r.report.event("left-standing", "VM %s (%s) is left to you: 'understudy replica test %s --end' removes it", r.name, r.clone.UUID, r.record.ID)
	return nil
}

// finish removes what is not to stay and stores the end, whatever became of ctx.
func (r *rehearsal) finish(ctx context.Context, failure error) (Test, error) {
	cancelled := ctx.Err() != nil
	failure = withCause(ctx, failure)
	ctx = context.WithoutCancel(ctx)
	r.report.phase(report.PhaseCleanup)
	if err := r.engine.step("clean up", func() error { return r.saga.Unwind(ctx) }); err != nil {
		r.report.event("left-behind", "not everything that the test made could be removed, recovery tries it again: %v", err)
	}
	final, cause := report.StateCommitted, failure
	switch {
	case failure != nil && cancelled:
		final = report.StateCancelled
	case failure != nil:
		final = report.StateFailed
	case r.result != nil && r.result.Outcome == replica.Failed:
		final, cause = report.StateFailed, fmt.Errorf("restore point %s does not boot: %s", r.point.vm.NameLabel, r.result.Cause)
	}
	if failure != nil {
		failure = fmt.Errorf("testing restore point %s of replica %s: %w", r.point.vm.NameLabel, r.record.ID, failure)
	}
	r.report.end(final, cause)
	test := Test{
		Run: r.report.copy(), Point: r.point.vm.UUID, Name: r.point.vm.NameLabel, Time: r.point.vm.SnapshotTime.Time, Host: r.host.NameLabel, Found: r.result,
		Clone: report.VM{UUID: r.clone.UUID, Name: r.name, Pool: r.target.Name, PoolUUID: r.target.Inventory.UUID},
	}
	return test, errors.Join(failure, r.engine.step("store the end", func() error { return r.store.SaveReport(ctx, test.Run) }))
}
