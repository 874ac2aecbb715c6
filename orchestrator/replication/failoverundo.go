package replication

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// UndoRequest says which replica is to wait again, and what it did since its failover is to be given up.
type UndoRequest struct {
	Replica string         // id
	Target  *delegate.Pool // where the replica is
	Source  *delegate.Pool // nil: it cannot be reached; what is to be done there by hand is an event
}

// UndoFailover gives up what a replica did since it failed over: its VM is switched off, taken back to the restore point that the failover
// began with, and waits again, protected as before. The next run goes on from there. Then its source may be started again, and is when the
// failover had shut it down. It may be repeated after it was cut short.
//
// Errors: state.ErrNotFound, state.ErrBusy, *replica.FailoverError, *RevertError, *HeldError, and those of the target's pool. What fails in
// the source's is an event.
func (e *Engine) UndoFailover(ctx context.Context, request UndoRequest) (report.Run, error) {
	u := &undoing{engine: e, sides: sides{replica: request.Replica, target: request.Target, source: request.Source}}
	run, err := u.run(ctx)
	if err != nil {
		err = fmt.Errorf("undoing the failover to replica %s: %w", request.Replica, err)
	}
	return run, err
}

// undoing is an UndoFailover under way.
type undoing struct {
	sides
	engine *Engine
	revert string // uuid of the restore point; empty: the replica was never let go, or has none
}

func (u *undoing) run(ctx context.Context) (report.Run, error) {
	run, err := u.chore(ctx, u.engine, state.RunUndo, "stop the replica", u.stop)
	if err == nil && u.revert != "" {
		run, err = u.revertTo(ctx, u.engine, u.revert, replica.Undoing)
	}
	if err == nil {
		run, err = u.chore(ctx, u.engine, state.RunUndo, "restore the standby", u.restore)
	}
	return run, err
}

// stop switches the replica off, and has nobody start it again.
func (u *undoing) stop(ctx context.Context, c *chore) error {
	through, err := replica.Failover(c.record.Failover.State).Begin(replica.VerbUndo)
	if err != nil {
		return err
	}
	note := c.record.Failover.Note
	c.point = note.Point
	if err := c.turn(ctx, "record the undo", through, note); err != nil || !note.Released || c.standby == nil {
		return err
	}
	vm := c.standby.vm.Ref
	if err := c.step("block the replica", func() error {
		return c.block(ctx, vm, func(now map[string]string) map[string]string { return replica.MergeBlocked(now, manifest.State{}) })
	}); err != nil {
		return err
	}
	if err := c.step("switch the replica off", func() error { return c.switchOff(ctx, vm) }); err != nil {
		return err
	}
	u.revert = note.Point
	interrupted, err := unfinishedRevert(ctx, c.store, c.record)
	if err != nil {
		return err
	}
	return c.step("accept what it did", func() error { return c.acceptUse(ctx, note.Point == "", interrupted != nil) })
}

func (c *chore) switchOff(ctx context.Context, ref xapi.Ref) error {
	vm, err := xapi.GetRecord[xapi.VM](ctx, c.api(), classVM, ref)
	if err != nil || vm.PowerState == xapi.Halted {
		return err
	}
	halted := xapi.Record(c.api(), classVM, ref, func(vm xapi.VM) bool { return vm.PowerState == xapi.Halted })
	return xapi.Ensure(ctx, c.api(), "VM.hard_shutdown", halted, ref)
}

// acceptUse records that the starts of the replica hold nobody up: they were the failover's. Nothing is known of its content then, and
// where no revert follows its marker says so too. Of a revert that was interrupted the record has to stay, which tells whose its disks are.
func (c *chore) acceptUse(ctx context.Context, stays, interrupted bool) error {
	vm, err := xapi.GetRecord[xapi.VM](ctx, c.api(), classVM, c.standby.vm.Ref)
	if err != nil {
		return err
	}
	metrics, err := xapi.GetRecord[xapi.VMMetrics](ctx, c.api(), "VM_metrics", vm.Metrics)
	if err != nil {
		return err
	}
	if stays {
		dirty := manifest.State{Dirty: true, Generation: manifest.NewGeneration()}
		if err := replica.SetState(ctx, c.api(), classVM, c.standby.vm.Ref, dirty); err != nil {
			return err
		}
		c.event("no-way-back", "the replica has no restore point to go back to: the next run scans and overwrites it, and until then it is of no use")
	}
	if interrupted {
		return c.store.AcceptStart(ctx, c.record.ID, metrics.StartTime.Time)
	}
	return c.store.AcceptDivergence(ctx, c.record.ID, metrics.StartTime.Time)
}

// restore makes the replica a standby copy again, and lets its source go.
func (u *undoing) restore(ctx context.Context, c *chore) error {
	to, err := replica.Failover(c.record.Failover.State).End(replica.VerbUndo)
	if err != nil {
		return err
	}
	note := c.record.Failover.Note
	c.point = note.Point
	if c.standby == nil {
		c.event("replica-gone", "the replica's VM is gone from pool %s: the next run makes a new one", c.target.Name)
	} else if err := c.step("protect the replica", func() error { return c.protect(ctx) }); err != nil {
		return err
	}
	if err := c.step("let the source go", func() error { return u.releaseSource(ctx, c, note) }); err != nil {
		return err
	}
	return c.turn(ctx, "record the standby", to, state.FailoverNote{})
}

// protect puts back what a standby copy is protected by, and lets retention have its restore points.
func (c *chore) protect(ctx context.Context) error {
	vm := c.standby.vm
	marker, _, _ := replica.Read(c.store.Installation().UUID, vm.UUID, vm.OtherConfig) // without one that can be read it is dirty
	if err := c.block(ctx, vm.Ref, func(now map[string]string) map[string]string { return replica.MergeBlocked(now, marker.State) }); err != nil {
		return err
	}
	if err := protect(ctx, c.api(), vm.Ref, c.event); err != nil {
		return err
	}
	return c.pin(ctx, "")
}

// releaseSource lets the source VM be started, and starts it when it ran until the failover. The replica is halted by now.
func (u *undoing) releaseSource(ctx context.Context, c *chore, note state.FailoverNote) error {
	if !note.Blocked && !note.Stopped {
		return nil
	}
	byHand := fmt.Sprintf("lift the blocked operations start, start_on, resume and resume_on of VM %s of pool %s", c.record.SourceVM, c.record.SourcePool)
	if note.Stopped {
		byHand += ", and start it: the failover had shut it down"
	}
	if u.source == nil {
		c.event("source-unreachable", "the source's pool was not asked; do it yourself: %s", byHand)
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, sourceTimeout)
	source, err := findSource(limited, u.source, c.record.SourcePool, c.record.SourceVM)
	cancel()
	if err == nil && source != nil {
		if err = source.lift(ctx, c); err == nil && note.Stopped {
			err = c.start(ctx, u.source.API, source.ref, xapi.NullRef)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		c.event("source-unreachable", "not all could be done in pool %s; do it yourself: %s: %v", u.source.Name, byHand, err)
	}
	return nil
}

// CommitRequest says which failover is for good.
type CommitRequest struct {
	Replica string         // id
	Target  *delegate.Pool // where the replica is
}

// CommitFailover makes a failover final: the restore point that it could have been undone to is an ordinary one from now on. The job of
// the replica stays suspended for it until it is reversed or detached.
//
// Errors: state.ErrNotFound, state.ErrBusy, *replica.FailoverError, and those of the pool.
func (e *Engine) CommitFailover(ctx context.Context, request CommitRequest) (report.Run, error) {
	run, err := e.chore(ctx, request.Replica, request.Target, state.RunCommit, func(ctx context.Context, c *chore) error {
		now := replica.Failover(c.record.Failover.State)
		through, err := now.Begin(replica.VerbCommit)
		if err != nil {
			return err
		}
		to, err := through.End(replica.VerbCommit)
		if err != nil {
			return err
		}
		if c.standby != nil {
			if err := c.step("let the restore point go", func() error { return c.pin(ctx, "") }); err != nil {
				return err
			}
		}
		note := c.record.Failover.Note
		note.Point = ""
		return c.turn(ctx, "record that it is for good", to, note)
	})
	if err != nil {
		err = fmt.Errorf("committing the failover to replica %s: %w", request.Replica, err)
	}
	return run, err
}
