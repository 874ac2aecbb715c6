package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

const (
	// lookAgain is the time between two looks for addresses that other runs may have given back.
	lookAgain = 500 * time.Millisecond
	// defaultAddressWait is AddressWait's.
	defaultAddressWait = 15 * time.Minute
)

// execution is one run of a job under way. Its methods are called by one goroutine, but for those of the book.
type execution struct {
	*Runner
	definition job.Definition
	only       []string
	log        *slog.Logger
	book       *book
	look       *look
	limits     *limits
	waiting    []*candidate // in order
	ended      chan outcome
	watching   sync.Mutex // of ObserveVM
}

// candidate is a VM whose turn has not come.
type candidate struct {
	vm      report.VM
	needs   needs
	since   time.Time // that it lacks addresses; zero: it does not
	another time.Time // when it may be tried again
}

// outcome is the end of a VM run.
type outcome struct {
	candidate *candidate
	run       report.Run
	err       error
}

// resume takes the VMs of a run that was another process's: those that have not committed go on.
func (x *execution) resume(ctx context.Context, taken state.JobRun) error {
	if taken.CancelRequested {
		return state.ErrCancelled
	}
	runs, err := x.Store.RunsOf(ctx, taken.ID)
	if err != nil {
		return err
	}
	return x.book.change(func(run *report.JobRun) {
		for i := range run.VMs {
			vm := &run.VMs[i]
			for _, r := range runs {
				if r.Report.VM.UUID == vm.VM.UUID && r.Report.State == report.StateCommitted { // its process had no time to note it
					vm.Run, vm.State, vm.Error = r.Report.ID, report.StateCommitted, ""
				}
			}
			if vm.State != report.StateCommitted {
				vm.State, vm.Error = report.StateWaiting, ""
			}
		}
		run.Findings = append(run.Findings, report.Finding{
			Severity: report.SeverityWarning, Code: CodeResumed, Subject: "run " + run.ID,
			Cause: "its process was gone; another one went on with the VMs that had not committed",
		})
	})
}

// execute finds the VMs, unless the run that is resumed had, and replicates them.
func (x *execution) execute(ctx context.Context) (err error) {
	if x.look, err = x.Runner.look(ctx, x.definition); err != nil {
		return err
	}
	if len(x.book.copy().VMs) == 0 {
		chosen, found := x.look.choose(x.Store.Installation().UUID, x.only)
		err := x.book.change(func(run *report.JobRun) {
			run.Findings = append(run.Findings, found...)
			for _, vm := range chosen {
				run.VMs = append(run.VMs, report.JobVM{VM: x.look.vm(vm), State: report.StateWaiting})
			}
		})
		if err != nil {
			return err
		}
	}
	x.limits = newLimits(x.definition.Options)
	for _, vm := range x.book.copy().VMs {
		if vm.State == report.StateWaiting {
			x.waiting = append(x.waiting, &candidate{vm: vm.VM, needs: x.look.needsOf(vm.VM.UUID)})
		}
	}
	return x.dispatch(ctx)
}

// dispatch has all VMs replicated, within the limits. The errors of VMs are joined; one does not stop the others.
func (x *execution) dispatch(ctx context.Context) error {
	var failures []error
	end := func(o outcome) {
		delete(x.limits.running, o.candidate.vm.UUID)
		if o.err != nil && ctx.Err() == nil && x.again(o) {
			return
		}
		x.note(ctx, o)
		if o.err != nil && !isSuspended(o.err) {
			failures = append(failures, fmt.Errorf("VM %s: %w", o.candidate.vm.Name, o.err))
		}
	}
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		err := x.begin(ctx)
		if err != nil && ctx.Err() == nil {
			failures = append(failures, err)
		}
		if err != nil { // no other is begun
			x.waiting = nil
		}
		if len(x.limits.running) == 0 && len(x.waiting) == 0 {
			return errors.Join(failures...)
		}
		if ctx.Err() != nil {
			end(<-x.ended)
			continue
		}
		select {
		case o := <-x.ended:
			end(o)
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// begin begins the runs for which there is room, and returns why no more are begun at all. What others hold is read once for all that wait.
func (x *execution) begin(ctx context.Context) error {
	if len(x.waiting) == 0 || !x.limits.room() {
		return ctx.Err()
	}
	free, err := x.freeAddresses(ctx)
	if err != nil {
		return err
	}
	for i := 0; i < len(x.waiting) && x.limits.room(); {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		c := x.waiting[i]
		if !x.fits(c, free) {
			i++
			continue
		}
		x.waiting = slices.Delete(x.waiting, i, i+1)
		x.limits.running[c.vm.UUID] = c.needs
		x.start(ctx, c)
	}
	return ctx.Err()
}

// fits reports whether the turn of a VM has come. One that has waited too long for addresses is begun nevertheless, by itself: its run
// says what is wrong.
func (x *execution) fits(c *candidate, free map[string]int) bool {
	if time.Now().Before(c.another) || !x.limits.storage(c.needs) {
		return false
	}
	if x.limits.addresses(c.needs, free) {
		return true
	}
	if c.since.IsZero() {
		c.since = time.Now()
	}
	return len(x.limits.running) == 0 && x.waitedOut(c)
}

func (x *execution) waitedOut(c *candidate) bool {
	return time.Since(c.since) >= cmp.Or(x.AddressWait, defaultAddressWait)
}

// again has a VM wait once more whose run got no address: another one was quicker.
func (x *execution) again(o outcome) bool {
	if !lacksAddress(o.err) {
		return false
	}
	c := o.candidate
	if c.since.IsZero() {
		c.since = time.Now()
	}
	if x.waitedOut(c) {
		return false
	}
	c.another = time.Now().Add(lookAgain)
	x.waiting = append(x.waiting, c)
	x.book.vm(c.vm.UUID, func(vm *report.JobVM) { vm.State, vm.Run = report.StateWaiting, "" })
	return true
}

// lacksAddress reports whether nothing but addresses was missing.
func lacksAddress(err error) bool {
	var infeasible *placement.Infeasible
	if !errors.As(err, &infeasible) {
		return errors.Is(err, state.ErrNoAddress)
	}
	return !slices.ContainsFunc(infeasible.Findings, func(f report.Finding) bool {
		return f.Severity == report.SeverityError && f.Code != replication.CodeAddressesLeased
	})
}

// start begins the run of one VM; its end comes to ended.
func (x *execution) start(ctx context.Context, c *candidate) {
	x.book.vm(c.vm.UUID, func(vm *report.JobVM) { vm.State = report.StateRunning })
	observe := func(run report.Run) {
		x.link(c.vm.UUID, run.ID)
		if x.ObserveVM != nil {
			x.watching.Lock()
			defer x.watching.Unlock()
			x.ObserveVM(run)
		}
	}
	engine := x.engine(observe)
	request := x.look.request(c.vm.UUID, x.book.copy().ID)
	go func() {
		run, err := engine.Replicate(ctx, request)
		x.ended <- outcome{c, run, err}
	}()
}

// isSuspended reports whether a VM was not replicated because its replica has failed over, or is about to: the administrator wanted that,
// and has the run do the rest.
func isSuspended(err error) bool {
	var suspended *replication.SuspendedError
	return errors.As(err, &suspended)
}

// link notes which run a VM has, once it is known.
func (x *execution) link(vm, run string) {
	for _, known := range x.book.copy().VMs {
		if known.VM.UUID == vm && known.Run != run {
			x.book.vm(vm, func(v *report.JobVM) { v.Run = run })
		}
	}
}

// note notes what became of a VM.
func (x *execution) note(ctx context.Context, o outcome) {
	x.book.vm(o.candidate.vm.UUID, func(vm *report.JobVM) {
		vm.Run, vm.State = cmp.Or(o.run.ID, vm.Run), report.StateCommitted
		if o.err == nil {
			return
		}
		vm.State, vm.Error = report.StateFailed, o.err.Error()
		if suspended := (*replication.SuspendedError)(nil); errors.As(o.err, &suspended) {
			vm.State, vm.Error = report.StateSuspended, suspended.Error() // and nothing else that stands in the way as well
			return
		}
		if o.run.State == report.StateCancelled || o.run.ID == "" && ctx.Err() != nil {
			vm.State = report.StateCancelled
		}
	})
}

// finish ends the run, whatever became of ctx.
func (x *execution) finish(ctx context.Context, failure error) (report.JobRun, error) {
	cancelled := ctx.Err() != nil || errors.Is(failure, state.ErrCancelled) && x.limits == nil
	if cause := context.Cause(ctx); cause != nil && !errors.Is(failure, cause) {
		failure = errors.Join(cause, failure)
	}
	err := x.book.change(func(run *report.JobRun) {
		var bad []string
		for i := range run.VMs {
			if vm := &run.VMs[i]; vm.State != report.StateSuspended && !vm.State.Final() {
				vm.State = report.StateFailed
				if cancelled {
					vm.State = report.StateCancelled
				}
			}
			if run.VMs[i].State != report.StateCommitted && run.VMs[i].State != report.StateSuspended {
				bad = append(bad, run.VMs[i].VM.Name)
			}
		}
		run.Finished = time.Now().UTC()
		switch {
		case cancelled:
			run.State = report.StateCancelled
		case failure != nil || len(bad) > 0 || report.Errors(run.Findings):
			run.State = report.StateFailed
		default:
			run.State = report.StateCommitted
			return
		}
		run.Error = sentence(*run, bad, failure)
	})
	last := x.book.copy()
	if last.State != report.StateCommitted && failure == nil {
		failure = errors.New(last.Error)
	}
	if failure != nil {
		failure = fmt.Errorf("job %s: %w", x.definition.Name, failure)
	}
	return last, errors.Join(failure, err)
}

// sentence says in short why a run is not committed: the VMs' own errors stand beside them.
func sentence(run report.JobRun, bad []string, failure error) string {
	var parts []string
	if len(bad) > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d VMs not replicated: %s", len(bad), len(run.VMs), strings.Join(bad, ", ")))
	} else if failure != nil {
		parts = append(parts, failure.Error())
	}
	for _, f := range run.Findings {
		if f.Severity == report.SeverityError {
			parts = append(parts, f.Subject+": "+f.Cause)
		}
	}
	return strings.Join(parts, "; ")
}
