package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// A planned failover loses nothing, and its source is down for as long as a run takes that has little to send:
//
//	check all ─▶ run while the source works ─▶ shut the source down ─▶ last run ─▶ failover as after a loss
//	                                          └──────── what fails from here on is undone ────────┘
//
// The source is down before the last run reads it, and stays down until the replica is halted again.

const (
	// defaultShutdown is how long a guest may take to shut down: as long as xapi waits for one (xapi-facts §7.7), and for its answer.
	defaultShutdown = 21 * time.Minute
	// rollbackTimeout bounds what is done for a planned failover that failed, whatever became of its context.
	rollbackTimeout = 10 * time.Minute
)

// ShutdownError says that the source VM did not shut down.
type ShutdownError struct {
	VM  string // uuid
	Err error
}

func (e *ShutdownError) Error() string {
	return fmt.Sprintf("the source VM %s does not shut down: %v; look into its console, or have it switched off (--hard)", e.VM, e.Err)
}

func (e *ShutdownError) Unwrap() error { return e.Err }

// SourceStateError says that the source VM is in a state from which there is no planned failover.
type SourceStateError struct{ VM, Cause, Mend string }

func (e *SourceStateError) Error() string {
	return fmt.Sprintf("the source VM %s %s: %s", e.VM, e.Cause, e.Mend)
}

func (f *failover) runPlanned(ctx context.Context) (report.Run, error) {
	record, err := f.engine.Store.Replica(ctx, f.request.Replica)
	if err != nil {
		return report.Run{}, err
	}
	now := replica.Failover(record.Failover.State)
	if now != replica.Standby && (now != replica.FailingOver || record.Failover.Note.Released) {
		return f.run(ctx) // it is refused, or there is nothing left to plan
	}
	run, err := f.shutDownAndSync(ctx, now)
	if err == nil {
		run, err = f.run(ctx)
	}
	if err == nil || !f.begun {
		return run, err
	}
	return f.rollBack(ctx, run, err)
}

// shutDownAndSync brings the replica up to the last write of its source.
func (f *failover) shutDownAndSync(ctx context.Context, now replica.Failover) (report.Run, error) {
	first := f.request.Sync
	first.OverwriteTarget, first.RequireRestorePoint, first.failover = true, true, now // whatever the job says
	run, err := f.chore(ctx, f.engine, state.RunFailover, "check the failover", f.checkPlanned)
	if err == nil {
		_, err = f.engine.Plan(ctx, first)
	}
	if err == nil && now == replica.Standby {
		run, err = f.engine.Replicate(ctx, first)
	}
	if err == nil {
		run, err = f.chore(ctx, f.engine, state.RunFailover, "shut the source down", f.stopSource)
	}
	if err == nil {
		last := first
		last.failover = replica.FailingOver
		run, err = f.engine.Replicate(ctx, last)
	}
	return run, err
}

// checkPlanned finds what would stop the failover in its middle.
func (f *failover) checkPlanned(ctx context.Context, c *chore) error {
	if c.standby == nil {
		return fmt.Errorf("its VM is gone from pool %s: replicate it first", c.target.Name)
	}
	if decision := c.gatherer().judged(); !decision.Writable {
		return c.held(decision)
	}
	if err := f.findHost(c); err != nil {
		return err
	}
	source, err := f.demandSource(ctx, c)
	if err != nil {
		return err
	}
	switch power := source.vm.PowerState; {
	case power == xapi.Paused || power == xapi.Suspended:
		return &SourceStateError{source.vm.UUID, "is " + string(power), "its memory would be lost: have it run, or shut it down"}
	case power == xapi.Running && !f.request.Hard && !slices.Contains(source.vm.AllowedOperations, xapi.VMOperationCleanShutdown):
		return &SourceStateError{source.vm.UUID, "cannot be shut down cleanly, by what its pool allows",
			"install its drivers, shut it down from within, or have it switched off (--hard)"}
	}
	return f.checkHosts(ctx, c)
}

// demandSource reads the source VM, which must be there.
func (f *failover) demandSource(ctx context.Context, c *chore) (*sourceVM, error) {
	limited, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	source, err := findSource(limited, f.source, c.record.SourcePool, c.record.SourceVM)
	if err == nil && source == nil {
		err = errors.New("it is gone")
	}
	if err != nil {
		return nil, fmt.Errorf("the source VM %s in pool %s: %w; without it there is no planned failover", c.record.SourceVM, f.source.Name, err)
	}
	return source, nil
}

// checkHosts has the pool tell whether a host can start the replica as it is. In one pool its source's memory is yet to be freed.
func (f *failover) checkHosts(ctx context.Context, c *chore) error {
	if f.request.NoStart {
		return nil
	}
	refusals := map[string]error{}
	for ref, host := range c.target.Inventory.Hosts {
		if f.request.Host != "" && f.request.Host != host.UUID && f.request.Host != host.NameLabel {
			continue
		}
		err := c.api().Call(ctx, "VM.assert_can_boot_here", nil, c.standby.vm.Ref, ref)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil || c.record.SourcePool == c.record.TargetPool && xapi.IsCode(err, "HOST_NOT_ENOUGH_FREE_MEMORY") {
			return nil
		}
		refusals[host.NameLabel] = err
	}
	return &StartError{VM: c.standby.vm.UUID, Reasons: reasons(refusals), Err: errors.New("no host can start it")}
}

// stopSource records the failover, and shuts the source VM down for it.
func (f *failover) stopSource(ctx context.Context, c *chore) error {
	through, err := replica.Failover(c.record.Failover.State).Begin(replica.VerbFailover)
	if err != nil {
		return err
	}
	f.begun = true
	source, err := f.demandSource(ctx, c)
	if err != nil {
		return err
	}
	note := c.record.Failover.Note
	note.Planned, note.Blocked = true, true
	note.Stopped = note.Stopped || source.vm.PowerState == xapi.Running
	if err := c.turn(ctx, "record the planned failover", through, note); err != nil {
		return err
	}
	if err := c.step("keep the source from being started", func() error { return source.block(ctx, c) }); err != nil {
		return err
	}
	return c.step("shut the source VM down", func() error { return f.shutDown(ctx, c, source) })
}

// shutDown shuts the source VM down cleanly, or, where that is allowed, switches it off.
func (f *failover) shutDown(ctx context.Context, c *chore, source *sourceVM) error {
	halted := xapi.Record(source.pool.API, classVM, source.ref, func(vm xapi.VM) bool { return vm.PowerState == xapi.Halted })
	is, err := halted(ctx)
	if err != nil || is {
		return err
	}
	timeout := cmp.Or(f.request.ShutdownTimeout, defaultShutdown)
	limited, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it takes more than %v", timeout))
	failure := xapi.Ensure(limited, source.pool.API, "VM.clean_shutdown", halted, source.ref)
	cancel()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if failure != nil && f.request.Hard {
		c.event("switched-off", "the source VM was switched off, as was allowed: it did not shut down: %v", failure)
		failure = xapi.Ensure(ctx, source.pool.API, "VM.hard_shutdown", halted, source.ref)
	}
	if is, err = halted(ctx); err != nil || is {
		return err // whatever the call said
	}
	if failure == nil {
		failure = errors.New("it runs again")
	}
	return &ShutdownError{VM: source.vm.UUID, Err: failure}
}

// rollBack takes back a planned failover that failed, and gives its source the work again. One whose replica may have been started stays
// as it is, and so does one that is still, or again, standby.
func (f *failover) rollBack(ctx context.Context, run report.Run, failure error) (report.Run, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	record, err := f.engine.Store.Replica(ctx, f.request.Replica)
	if err != nil {
		return run, errors.Join(failure, err)
	}
	if replica.Failover(record.Failover.State) != replica.FailingOver || record.Failover.Note.Released {
		return run, failure
	}
	undo := &undoing{engine: f.engine, sides: f.sides}
	undone, err := undo.run(ctx)
	run.Events = undone.Events
	if err != nil {
		return run, fmt.Errorf("%w; taking the failover back: %w", failure, err)
	}
	return run, fmt.Errorf("%w; the failover was taken back, and its source has the work again", failure)
}
