package runner

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// planParallel is how many VMs are planned at a time: each plan reads both pools.
const planParallel = 2

// Replicator replicates one VM; a *replication.Engine.
type Replicator interface {
	Plan(ctx context.Context, request replication.Request) (replication.Plan, error)
	Replicate(ctx context.Context, request replication.Request) (report.Run, error)
}

// Runner carries jobs out. It is safe for concurrent use when Connect is.
type Runner struct {
	Store *state.Store
	// Connect logs in to a pool; it is asked for one after the other. Of a pool that it is asked for twice it may give the same one.
	Connect func(ctx context.Context, poolUUID string) (*delegate.Pool, error)
	// Log takes what is of use when a run is looked into; nil: nowhere.
	Log *slog.Logger
	// Observe takes copies of the report of a job's run whenever something in it changes, and ObserveVM those of its VM runs, as
	// replication.Engine has it. Calls of each do not overlap. May be nil.
	Observe   func(report.JobRun)
	ObserveVM func(report.Run)
	// Engine makes what replicates one VM; nil: a replication.Engine.
	Engine func(observe func(report.Run)) Replicator
	// AddressWait bounds the wait for addresses that other runs hold; 0: 15 minutes.
	AddressWait time.Duration
}

func (r *Runner) log() *slog.Logger { return cmp.Or(r.Log, slog.New(slog.DiscardHandler)) }

func (r *Runner) engine(observe func(report.Run)) Replicator {
	if r.Engine != nil {
		return r.Engine(observe)
	}
	return &replication.Engine{Store: r.Store, Log: r.Log, Observe: observe, Retention: job.DefaultRetention}
}

// Check is what a job would do now, and what stands in its way.
type Check struct {
	VMs      []VMCheck        `json:"vms"`
	Findings []report.Finding `json:"findings,omitempty"` // about the job as a whole
}

// VMCheck is the part of a Check for one VM.
type VMCheck struct {
	VM       report.VM         `json:"vm"`
	Plan     *replication.Plan `json:"plan,omitempty"` // nil: it cannot be replicated as things are
	Findings []report.Finding  `json:"findings,omitempty"`
}

// Check looks at both pools and says what Run would do. It changes nothing. A pool that does not answer is a finding.
func (r *Runner) Check(ctx context.Context, j state.Job) (Check, error) {
	look, err := r.look(ctx, j.Definition)
	if silent := (*unreachable)(nil); errors.As(err, &silent) && ctx.Err() == nil {
		return Check{Findings: []report.Finding{{
			Severity: report.SeverityError, Code: CodePoolUnreachable, Subject: "pool " + silent.pool, Cause: silent.err.Error(),
			Mend: "see to its network, its coordinator and the password that it was added with",
		}}}, nil
	} else if err != nil {
		return Check{}, err
	}
	chosen, found := look.choose(r.Store.Installation().UUID, nil)
	check := Check{VMs: make([]VMCheck, len(chosen)), Findings: found}
	engine := r.engine(nil)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(planParallel)
	for i, vm := range chosen {
		group.Go(func() error {
			check.VMs[i] = VMCheck{VM: look.vm(vm)}
			plan, err := engine.Plan(groupCtx, look.request(vm.UUID, ""))
			if err != nil {
				check.VMs[i].Findings = findings(err)
				return groupCtx.Err()
			}
			check.VMs[i].Plan, check.VMs[i].Findings = &plan, plan.Findings
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return Check{}, err
	}
	return check, nil
}

// findings are those of a VM's plan. That the VM has failed over is a warning: the runs of the job leave it out.
func findings(err error) []report.Finding {
	all := replication.Findings(err)
	if isSuspended(err) {
		for i := range all {
			all[i].Severity = report.SeverityWarning
		}
	}
	return all
}

// RequestFor is what the job of a replica asks for its VM: how a planned failover brings it up to date. Of a replica that no job means now
// it is what 'understudy replicate' asks when it is told nothing. The source pool must be reachable.
func (r *Runner) RequestFor(ctx context.Context, record state.Replica) (replication.Request, error) {
	jobs, err := r.Store.Jobs(ctx)
	if err != nil {
		return replication.Request{}, err
	}
	definition := job.Definition{Source: record.SourcePool, Target: record.TargetPool, SR: record.TargetSR}
	for _, j := range jobs {
		if j.Definition.Source != record.SourcePool || j.Definition.Target != record.TargetPool {
			continue
		}
		look, err := r.look(ctx, j.Definition)
		if err != nil {
			return replication.Request{}, err
		}
		sr, err := look.to.FindSR(j.Definition.SR)
		chosen, _ := look.choose(r.Store.Installation().UUID, nil)
		if err == nil && sr.UUID == record.TargetSR && slices.ContainsFunc(chosen, func(vm inventory.VM) bool { return vm.UUID == record.SourceVM }) {
			return look.request(record.SourceVM, ""), nil
		}
	}
	look, err := r.look(ctx, definition)
	if err != nil {
		return replication.Request{}, err
	}
	return look.request(record.SourceVM, ""), nil
}

// Resolve gives the VMs that a job means now, by name.
func (r *Runner) Resolve(ctx context.Context, j state.Job) ([]report.VM, error) {
	source, from, err := r.read(ctx, j.Definition.Source)
	if err != nil {
		return nil, err
	}
	exempt, err := r.exempt(ctx, j.Definition)
	if err != nil {
		return nil, err
	}
	l := &look{definition: j.Definition, source: source, from: from, exempt: exempt}
	chosen, _ := l.choose(r.Store.Installation().UUID, nil)
	vms := make([]report.VM, 0, len(chosen))
	for _, vm := range chosen {
		vms = append(vms, l.vm(vm))
	}
	return vms, nil
}

// RunOptions are about one run.
type RunOptions struct {
	// Only are the uuids of those VMs that are to be replicated, of those that the job means now; none: all. A retry gives what
	// report.JobRun.Uncommitted says of the run that is tried again.
	Only []string
}

// Run runs a job, or resumes its run when one is unfinished and its process is gone: then the VMs of that run which have not
// committed go on, whatever Only says, and the report has a finding that says so.
//
// The run ends committed, when all its VMs have and no finding about the job is an error; cancelled, when ctx ends or the
// administrator wishes it; else failed. Of the last two an error tells, with the errors of the VMs. Before the run has begun the
// report is empty: state.ErrDisabled, state.ErrNotFound, *state.BusyError.
func (r *Runner) Run(ctx context.Context, j state.Job, options RunOptions) (report.JobRun, error) {
	begun, err := r.Store.BeginJobRun(ctx, j.ID, report.JobRun{JobName: j.Definition.Name})
	busy := (*state.BusyError)(nil)
	if errors.As(err, &busy) {
		begun, err = r.Store.TakeOverJobRun(ctx, busy.Run)
	}
	if err != nil {
		return report.JobRun{}, err
	}
	x := &execution{
		Runner: r, definition: j.Definition, only: options.Only, log: r.log().With("job", j.Definition.Name, "job run", begun.ID),
		book: &book{store: r.Store, run: begun.Report.Clone(), observe: r.Observe}, ended: make(chan outcome),
	}
	x.book.log = x.log
	kept, stop := r.Store.Keep(ctx, begun.ID)
	defer stop()
	if busy != nil {
		err = x.resume(kept, begun)
	}
	if err == nil {
		err = x.execute(kept)
	}
	return x.finish(kept, err)
}
