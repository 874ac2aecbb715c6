package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// run is one replication under way. Its methods are called in order by one goroutine.
type run struct {
	*subject
	engine     *Engine
	store      *state.Store
	log        *slog.Logger
	report     *recorder
	id         string
	generation manifest.Generation
	saga       *saga.Saga

	standbyRef  xapi.Ref
	standbyUUID string
	made        []state.Object // of the replica; kept once they may hold data
	disks       []*diskRun
	seeds       []*seedRun
	snapshotVM  xapi.Ref        // of the source
	bases       []state.CBTBase // that the last commit left
	samples     int64           // of each disk that were read back
	delegates   delegates
	retired     int64 // control bytes of delegates that were replaced
	resumed     bool  // delegates were replaced, or the run of a dead process goes on
	tenure      *tenure
	leaves      []replica.LeafEvidence
	looked      bool      // at the leaves
	unusedAt    time.Time // by the target pool's clock: what the run is sure of the replica was so later
}

// delegates of a run; with one for both sides they are the same.
type delegates struct{ source, target *delegate.Delegate }

func (d delegates) shared() bool { return d.source == d.target }

// each lists them, every one once.
func (d delegates) each() []*delegate.Delegate {
	switch {
	case d.source == nil && d.target == nil:
		return nil
	case d.target == nil || d.shared():
		return []*delegate.Delegate{d.source}
	case d.source == nil:
		return []*delegate.Delegate{d.target}
	}
	return []*delegate.Delegate{d.source, d.target}
}

// begin records the run; state.ErrBusy while another one of this replica has not ended.
func (e *Engine) begin(ctx context.Context, s *subject) (*run, error) {
	if err := e.ensureRecord(ctx, s); err != nil {
		return nil, err
	}
	generation := manifest.NewGeneration()
	first := report.Run{JobRun: s.request.JobRun, Method: s.plan.Method, Direction: s.plan.Direction, Trust: s.plan.Trust, Consistency: s.plan.Consistency, VM: s.plan.VM, Replica: s.plan.Replica, Generation: generation.String()}
	for _, d := range s.plan.Disks {
		first.Disks = append(first.Disks, report.Disk{
			Disk: d.Disk, LogicalSize: d.Size, State: report.DiskPending,
			Mode: s.plan.mode(d), Rung: d.Rung, Cause: d.Cause, Untested: d.Untested,
		})
	}
	begun, err := e.Store.BeginRun(ctx, s.record.ID, state.RunReplicate, first)
	if err != nil {
		return nil, err
	}
	r := &run{
		subject: s, engine: e, store: e.Store, id: begun.Report.ID, report: newRecorder(begun.Report, s.started, e.Observe),
		generation: generation, saga: saga.New(e.Store, begun.Report.ID, Undoers(e.Store, s.source, s.target)),
	}
	r.log = e.log().With("run", r.id, "vm", s.vm.NameLabel)
	for _, d := range s.plan.Disks {
		r.disks = append(r.disks, &diskRun{run: r, plan: d})
	}
	for _, n := range s.plan.Notes {
		r.report.event(n.Cause, "%s", n.Text)
	}
	for _, f := range s.plan.Findings {
		r.report.event(f.Code, "%s; %s", f.Cause, f.Mend)
	}
	return r, nil
}

// ensureRecord records the replica when it is new, or was forgotten.
func (e *Engine) ensureRecord(ctx context.Context, s *subject) error {
	if s.record.ID != "" {
		return nil
	}
	record, err := e.Store.CreateReplica(ctx, s.record)
	if err != nil {
		return err
	}
	s.record = record
	s.plan.ReplicaID = record.ID
	return nil
}

// step is a part of a run; phase is empty where none begins.
type step struct {
	name  string
	phase report.Phase
	do    func(*run, context.Context) error
}

var (
	// By the enhanced method delegates move the data. What goes on after a loss begins again at lastSteps.
	firstSteps = []step{
		{"check the record", report.PhasePrepare, (*run).checkRecord},
		{"take the lease", "", (*run).takeLease},
		{"prepare the source", "", (*run).prepareSource},
		{"prepare the target", "", (*run).prepareTarget},
		{"prepare the seeds", "", (*run).prepareSeeds},
		{"spawn", report.PhaseSpawn, (*run).spawn},
		{"check again", "", (*run).checkAgain},
		{"note the hosts", "", (*run).noteHosts},
		{"mark dirty", report.PhaseTransfer, (*run).markDirty},
		{"transfer", "", (*run).transfer},
	}
	lastSteps = []step{
		{"read back", report.PhaseVerify, (*run).readBack},
		{"commit", report.PhaseCommit, (*run).commit},
	}
	// By the standard method the pools do; see standard.go.
	standardSteps = []step{
		{"check the record", report.PhasePrepare, (*run).checkRecord},
		{"take the lease", "", (*run).takeLease},
		{"prepare the source", "", (*run).prepareSource},
		{"prepare the target", "", (*run).prepareTarget},
		{"test the leaves", "", (*run).testLeaves},
		{"note the time", "", (*run).noteTime},
		{"check again", "", (*run).checkAgain},
		{"mark dirty", report.PhaseTransfer, (*run).markDirty},
		{"copy", "", (*run).copyDisks},
		{"read back", report.PhaseVerify, (*run).readBackCopies},
		{"commit", report.PhaseCommit, (*run).commit},
	}
)

// execute carries the run out, up to its commit.
func (r *run) execute(ctx context.Context) error {
	if r.plan.Method == report.Standard {
		return r.carryOut(ctx, standardSteps)
	}
	if err := r.carryOut(ctx, firstSteps); err != nil {
		return err
	}
	return r.carryOut(ctx, lastSteps)
}

func (r *run) carryOut(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if s.phase != "" {
			r.report.phase(s.phase)
			if err := r.store.SaveReport(ctx, r.report.copy()); err != nil {
				return err
			}
		}
		if err := r.engine.step(s.name, func() error { return s.do(r, ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// carry does the work of a run and ends it; all the while the run is this process's, and may be cancelled by others.
func (r *run) carry(ctx context.Context, work func(context.Context) error) (report.Run, error) {
	ctx, r.tenure = r.engine.keep(ctx, r.id)
	defer r.tenure.close()
	return r.finish(ctx, work(ctx))
}

// takeLease takes the lease of a replica that is there; that of a new one is taken as soon as it is made. Who had it since the look at the
// pools changed what was decided on.
func (r *run) takeLease(ctx context.Context) error {
	if r.standby == nil {
		return nil
	}
	l := leased{replica: r.record.ID, pool: r.target, vm: r.standby.vm.Ref}
	for _, d := range r.standby.disks {
		l.disks = append(l.disks, d.VDIRef)
	}
	guarded, err := r.tenure.take(ctx, l, r.report.event)
	if err != nil {
		return err
	}
	r.target = guarded
	if now := r.tenure.held.Former; now.Number != lease.Newest(r.standby.vm.OtherConfig).Number {
		return fmt.Errorf("run %s of process %s was at work on the replica: %w", now.Run, now.Process, ErrChanged)
	}
	return nil
}

// finish removes what is not part of the result and stores the end of the run, whatever became of ctx.
func (r *run) finish(ctx context.Context, failure error) (report.Run, error) {
	cancelled := ctx.Err() != nil && !lostLease(ctx)
	failure = withCause(ctx, failure)
	ctx = context.WithoutCancel(ctx)
	r.report.phase(report.PhaseCleanup)
	if failure != nil {
		failure = errors.Join(failure, r.leaveJournals(ctx, failure))
	}
	for _, d := range r.disks {
		if err := d.close(); err != nil {
			r.report.event("left-behind", "disk %s: %v", d.plan.Disk, err)
		}
	}
	r.countControl()
	if failure != nil && r.plan.Method == report.Standard {
		r.awaitRelease(ctx)
	}
	err := r.engine.step("clean up", func() error { return errors.Join(r.retire(ctx), r.saga.Unwind(ctx)) })
	if err != nil {
		r.log.Warn("the run left objects behind", "cause", err)
		r.report.event("left-behind", "not everything that the run made could be removed, recovery tries it again: %v", err)
		r.tenure.left = true
	}
	r.tidyBases(ctx)
	if failure == nil {
		r.noteUtilisation(ctx)
		_ = r.engine.step("prune", func() error { r.prune(ctx); return nil })
	}
	r.tenure.release(ctx)
	state := report.StateCommitted
	switch {
	case failure != nil && cancelled:
		state = report.StateCancelled
	case failure != nil:
		state = report.StateFailed
	}
	if failure != nil {
		failure = fmt.Errorf("replicating VM %s: %w", r.vm.NameLabel, failure)
	}
	r.report.end(state, failure)
	final := r.report.copy()
	return final, errors.Join(failure, r.engine.step("store the end", func() error { return r.store.SaveReport(ctx, final) }))
}

// retire removes the delegates, at the same time.
func (r *run) retire(ctx context.Context) error {
	var group sync.WaitGroup
	all := r.delegates.each()
	errs := make([]error, len(all))
	for i, d := range all {
		group.Go(func() { errs[i] = d.Retire(ctx) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// spawn starts the delegates that the plan names, and plugs the disks. Between the two the replica's leaves are tested: once they
// are plugged the pool exports them no more, and nobody else can write to them.
func (r *run) spawn(ctx context.Context) error {
	spawner, err := r.engine.spawner(r.id, r.saga, r.log)
	if err != nil {
		return err
	}
	started := make([]*delegate.Delegate, len(r.plan.Placement.Delegates))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, wanted := range r.plan.Placement.Delegates {
		pool := r.source
		if wanted.Side == placement.SideTarget {
			pool = r.target
		}
		group.Go(func() (err error) {
			started[i], err = spawner.Spawn(groupCtx, delegate.Spec{
				Pool: pool, Host: wanted.HostRef, Template: wanted.TemplateRef, Side: string(wanted.Side),
			})
			return err
		})
	}
	err = group.Wait()
	r.delegates.source, r.delegates.target = started[0], started[len(started)-1]
	if err != nil {
		return err
	}
	r.noteDelegates()
	if err := r.testLeaves(ctx); err != nil {
		return err
	}
	return r.plug(ctx)
}

// noteDelegates has the report tell which delegates there are, and which of them dials.
func (r *run) noteDelegates() {
	placed := r.plan.Placement
	var told []report.Delegate
	for i, d := range r.delegates.each() {
		told = append(told, report.Delegate{Side: d.Side, Pool: d.Pool().Name, Host: placed.Delegates[i].HostName, Address: d.Address})
	}
	switch placed.Dialer {
	case placement.SideSource:
		told[0].Dials = told[1].Address
	case placement.SideTarget:
		told[1].Dials = told[0].Address
	}
	r.report.change(func(run *report.Run) { run.Delegates = told })
}

// plug attaches the clones to the source's delegate, and the replica's disks and the seeds to the target's.
func (r *run) plug(ctx context.Context) error {
	source := func(ctx context.Context) (err error) {
		for _, d := range r.disks {
			if d.sourceNumber, err = r.delegates.source.Plug(ctx, d.clone, d.plan.Size); err != nil {
				return fmt.Errorf("disk %s: %w", d.plan.Disk, err)
			}
		}
		return nil
	}
	target := func(ctx context.Context) (err error) {
		for _, d := range r.disks {
			if d.targetNumber, err = r.delegates.target.Plug(ctx, d.vdi, d.plan.Size); err != nil {
				return fmt.Errorf("disk %s: %w", d.plan.Disk, err)
			}
		}
		return r.plugSeeds(ctx)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return source(groupCtx) })
	group.Go(func() error { return target(groupCtx) })
	return group.Wait()
}

// countControl adds up the bytes between the orchestrator and the delegates.
func (r *run) countControl() {
	total := r.retired
	for _, d := range r.delegates.each() {
		total += d.ControlBytes()
	}
	r.report.change(func(run *report.Run) { run.ControlBytes = total })
}

// poolTime is the time by a pool's clock, against which the starts of its VMs are held.
func poolTime(ctx context.Context, pool *delegate.Pool) (time.Time, error) {
	var now xapi.Time
	if err := pool.API.Call(ctx, "host.get_servertime", &now, pool.Inventory.Coordinator); err != nil {
		return time.Time{}, fmt.Errorf("reading the clock of pool %s: %w", pool.Name, err)
	}
	return now.Time, nil
}
