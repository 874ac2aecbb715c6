package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// chore is a run that changes a replica and moves no data. It is recorded like any other: nobody else is at work on the replica
// meanwhile, and what it had made when it was cut short is removed.
type chore struct {
	engine  *Engine
	store   *state.Store
	record  state.Replica
	target  *delegate.Pool
	standby *standby // nil: the replica VM is gone
	id      string
	saga    *saga.Saga
	tenure  *tenure
	events  []report.Event
	point   string // uuid of the restore point that it is about; empty: of none
}

// chore carries out a chore on a replica, as its pool is now. What a dead process left unfinished of the replica is removed first. What
// it makes may lie in other pools besides.
func (e *Engine) chore(
	ctx context.Context, id string, pool *delegate.Pool, kind state.RunKind, do func(context.Context, *chore) error, others ...*delegate.Pool,
) (report.Run, error) {
	return e.part(ctx, id, pool, kind, string(kind), do, others...)
}

// part is a chore that does only a part of what its kind names.
func (e *Engine) part(
	ctx context.Context, id string, pool *delegate.Pool, kind state.RunKind, name string, do func(context.Context, *chore) error, others ...*delegate.Pool,
) (report.Run, error) {
	record, err := e.Store.Replica(ctx, id)
	if err != nil {
		return report.Run{}, err
	}
	target := *pool
	if target.Inventory, err = inventory.Load(ctx, target.API); err != nil {
		return report.Run{}, fmt.Errorf("pool %s: %w", target.Name, err)
	}
	if record.TargetPool != target.Inventory.UUID {
		return report.Run{}, fmt.Errorf("replica %s is in pool %s, not in %s", id, record.TargetPool, target.Name)
	}
	first := report.Run{
		Direction: report.Push, Trust: report.TrustVerify, VM: report.VM{UUID: record.SourceVM, PoolUUID: record.SourcePool},
		Replica: report.VM{UUID: record.TargetVM, Pool: target.Name, PoolUUID: target.Inventory.UUID},
	}
	pools := append([]*delegate.Pool{&target}, others...)
	begun, err := e.Store.BeginRun(ctx, id, kind, first)
	var left error
	if busy := (*state.BusyError)(nil); errors.As(err, &busy) {
		recovered, failure := saga.RecoverRun(ctx, e.Store, e.recovering(pools...), busy.Run)
		left = errors.Join(failure, failures(recovered))
		begun, err = e.Store.BeginRun(ctx, id, kind, first)
		if errors.Is(err, state.ErrBusy) && left != nil {
			err = fmt.Errorf("%w; recovery: %v", err, left) // typed as what it is: busy
		}
	}
	if err != nil {
		return report.Run{}, err
	}
	c := &chore{engine: e, store: e.Store, target: &target, id: begun.Report.ID, saga: saga.New(e.Store, begun.Report.ID, Undoers(e.Store, pools...))}
	if left != nil { // in the other pool, it may be, which may be lost
		c.event("left-behind", "not everything that an earlier run made could be removed, recovery tries it again: %v", left)
	}
	ctx, c.tenure = e.keep(ctx, c.id)
	defer c.tenure.close()
	failure := c.look(ctx, id)
	if failure == nil {
		failure = e.step("take the lease", func() error { return c.takeLease(ctx) })
	}
	if failure == nil {
		failure = e.step(name, func() error { return do(ctx, c) })
	}
	return c.finish(ctx, begun.Report, failure)
}

// look reads record and pool anew: from here on nobody else changes the record.
func (c *chore) look(ctx context.Context, id string) (err error) {
	if c.record, err = c.store.Replica(ctx, id); err != nil {
		return err
	}
	if c.target.Inventory, err = inventory.Load(ctx, c.target.API); err != nil {
		return err
	}
	c.standby = findStandby(c.target.Inventory, c.record)
	return nil
}

// takeLease takes the replica's lease. A VM that is not ours has none; nothing is changed of it.
func (c *chore) takeLease(ctx context.Context) error {
	if c.standby == nil || !c.gatherer().is(c.standby.vm.UUID, c.standby.vm.OtherConfig, replica.KindReplica) {
		return nil
	}
	l := leased{replica: c.record.ID, pool: c.target, vm: c.standby.vm.Ref}
	for _, d := range c.standby.disks {
		l.disks = append(l.disks, d.VDIRef)
	}
	guarded, err := c.tenure.take(ctx, l, c.event)
	if err != nil {
		return err
	}
	c.target = guarded
	if c.tenure.held.Former.Number == lease.Newest(c.standby.vm.OtherConfig).Number && !c.tenure.held.Former.Unclean() {
		return nil
	}
	return c.look(ctx, c.record.ID) // somebody else was at work, or what he left was taken away
}

func (c *chore) finish(ctx context.Context, last report.Run, failure error) (report.Run, error) {
	cancelled := ctx.Err() != nil && !lostLease(ctx)
	failure = withCause(ctx, failure)
	ctx = context.WithoutCancel(ctx)
	if err := c.saga.Unwind(ctx); err != nil {
		c.event("left-behind", "not everything that the run made could be removed, recovery tries it again: %v", err)
		c.tenure.left = true
	}
	c.tenure.release(ctx)
	last.State, last.Finished, last.Events, last.RestorePoint = report.StateCommitted, time.Now().UTC(), c.events, c.point
	switch {
	case failure != nil && cancelled:
		last.State = report.StateCancelled
	case failure != nil:
		last.State = report.StateFailed
	}
	if failure != nil {
		last.Error = failure.Error()
	}
	if c.standby != nil {
		last.Replica.Name = c.standby.vm.NameLabel
	}
	return last, errors.Join(failure, c.store.SaveReport(ctx, last))
}

func (c *chore) event(cause, format string, values ...any) {
	c.events = append(c.events, report.Event{Time: time.Now().UTC(), Cause: cause, Text: fmt.Sprintf(format, values...)})
}

func (c *chore) gatherer() gatherer {
	return gatherer{pool: c.target.Inventory, installation: c.store.Installation().UUID, record: c.record, standby: c.standby}
}

// block sets the blocked operations of a VM to what change makes of those that it has.
func (c *chore) block(ctx context.Context, vm xapi.Ref, change func(map[string]string) map[string]string) error {
	var now map[string]string
	if err := c.api().Call(ctx, "VM.get_blocked_operations", &now, vm); err != nil {
		return err
	}
	return setField(ctx, c.api(), classVM, vm, "blocked_operations", change(now))
}

// step does a part of the chore.
func (c *chore) step(name string, do func() error) error { return c.engine.step(name, do) }

// atRest refuses a replica that is in a failover state, but for those given.
func (c *chore) atRest(besides ...replica.Failover) error {
	now := replica.Failover(c.record.Failover.State)
	if now == replica.Standby || slices.Contains(besides, now) {
		return nil
	}
	return &SuspendedError{Replica: c.record.ID, State: now}
}

func (c *chore) api() xapi.API { return c.target.API }
