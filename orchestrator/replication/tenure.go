package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// fenceTimeout bounds the halting of a former holder's delegates.
	fenceTimeout = 2 * time.Minute
	// releaseTimeout bounds the giving back of a lease: without it the lease runs out.
	releaseTimeout = 15 * time.Second
	// importTimeout bounds the wait for a pool to let go of a disk that an orchestrator wrote to itself: it does when the connection ends.
	importTimeout = 30 * time.Second
)

// tenure is what a run has of its replica while it is at work: the run in the state database, and the lease in the target pool.
//
// Two orchestrators that share a state database are kept apart by that, with whom a run can go on. The lease keeps apart those that share
// nothing but the pool: the copy of a state folder, and the original. It is taken before the first change of the replica and given back after
// the last. All that changes the target pool meanwhile goes through its guard; what takes back the run's own objects does not, since that
// is right whoever has the lease.
type tenure struct {
	engine *Engine
	run    string
	cancel context.CancelCauseFunc
	end    func() // of state.Store.Keep
	held   *lease.Lease
	left   bool // something of the run may still be at work: the lease is not given back
}

// keep keeps a run until its tenure ends. The context that it returns ends, with a cause, when the run or its lease is lost.
func (e *Engine) keep(ctx context.Context, run string) (context.Context, *tenure) {
	t := &tenure{engine: e, run: run}
	ctx, t.end = e.Store.Keep(ctx, run)
	ctx, t.cancel = context.WithCancelCause(ctx)
	return ctx, t
}

// close ends the tenure. A lease that was not given back runs out.
func (t *tenure) close() {
	if t.held != nil {
		t.held.Leave()
	}
	t.cancel(nil)
	t.end()
}

// leased is a replica whose lease is wanted.
type leased struct {
	replica string // id
	pool    *delegate.Pool
	vm      xapi.Ref
	disks   []xapi.Ref
}

// take takes the lease of a replica, and returns its pool with the guard. Nobody else writes to its disks then: a former holder that did not
// give the lease back may not know, or not be able to tell its delegates, so that they are halted. Errors: *LeaseError, *FenceError.
func (t *tenure) take(ctx context.Context, l leased, event func(cause, format string, args ...any)) (*delegate.Pool, error) {
	held, err := lease.Take(ctx, t.engine.place(l.pool, l.vm), lease.Holder{Process: t.engine.Store.Owner().String(), Run: t.run}, t.engine.over)
	if err != nil {
		return nil, leaseError(l.replica, err)
	}
	t.held = held
	held.Keep(ctx, func(err error) { t.cancel(err) })
	guarded := t.guard(l.pool)
	if !held.Former.Unclean() {
		return guarded, nil
	}
	halted, err := t.engine.fence(ctx, guarded, l)
	if err != nil {
		t.left = true
		return nil, err
	}
	event("lease-taken-over", "run %s of process %s had the lease of the replica until %s and did not give it back; %d delegates that held its disks were halted",
		held.Former.Run, held.Former.Process, held.Former.Until.UTC().Format(time.RFC3339), halted)
	return guarded, nil
}

// guard gives a pool in which nothing is changed without the lease.
func (t *tenure) guard(pool *delegate.Pool) *delegate.Pool {
	if t.held == nil {
		return pool
	}
	guarded := *pool
	guarded.API = t.held.Guard(pool.API)
	return &guarded
}

// release gives the lease back, unless something of the run may still be at work.
func (t *tenure) release(ctx context.Context) {
	if t.held == nil || t.left {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	if err := t.held.Release(ctx); err != nil {
		t.engine.log().Info("the lease of the replica was not given back and runs out", "run", t.run, "cause", err)
	}
}

// place is where the lease of a replica VM lies.
func (e *Engine) place(pool *delegate.Pool, vm xapi.Ref) lease.Place {
	return lease.Place{API: pool.API, VM: vm, Coordinator: pool.Inventory.Coordinator, Time: e.leaseTime}
}

// over reports whether it is certain that a holder does nothing any more: its process is dead, or has noted the end of its run itself. That
// another process ended the run says nothing, and that of a run which the state database does not know nothing can be said.
func (e *Engine) over(ctx context.Context, h lease.Holder) bool {
	run, err := e.Store.Run(ctx, h.Run)
	if err != nil {
		return false
	}
	process, err := state.ParseOwner(h.Process)
	if err != nil {
		return false
	}
	return process.Dead() || run.Owner == process && run.Report.State.Final() && run.Report.State != report.StateInterrupted
}

// fence halts delegates of this installation that hold disks of a replica, and takes the disks from them; whoever made them has lost the lease.
// Other VMs are not touched: the ladder of trust finds them.
func (e *Engine) fence(ctx context.Context, pool *delegate.Pool, l leased) (halted int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fenceTimeout, fmt.Errorf("not done within %v: %w", fenceTimeout, context.DeadlineExceeded))
	defer cancel()
	// A revert that was asked for cannot be called back, and would take the disks away.
	if ended, err := xapi.AwaitTasks(ctx, pool.API, "Async.VM.revert"); err != nil {
		return 0, err
	} else if !ended {
		return 0, fmt.Errorf("replica %s: a revert that another process asked the pool for does not end: %w", l.replica, ErrChanged)
	}
	for _, disk := range l.disks {
		var vbds []xapi.Ref
		if err := pool.API.Call(ctx, "VDI.get_VBDs", &vbds, disk); xapi.IsGone(err, disk) {
			continue
		} else if err != nil {
			return halted, err
		}
		for _, ref := range vbds {
			one, err := e.fenceVBD(ctx, pool, l, ref)
			if err != nil {
				return halted, err
			}
			halted += one
		}
	}
	return halted, nil
}

func (e *Engine) fenceVBD(ctx context.Context, pool *delegate.Pool, l leased, ref xapi.Ref) (halted int, err error) {
	vbd, err := xapi.GetRecord[xapi.VBD](ctx, pool.API, classVBD, ref)
	if xapi.IsGone(err, ref) || err == nil && vbd.VM == l.vm {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	vm, err := xapi.GetRecord[xapi.VM](ctx, pool.API, classVM, vbd.VM)
	if xapi.IsGone(err, vbd.VM) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	if vm.IsControlDomain {
		return 0, e.awaitImport(ctx, pool, l, ref, vm)
	}
	marker, owner, _ := replica.Read(e.Store.Installation().UUID, vm.UUID, vm.OtherConfig)
	if owner != replica.Ours || marker.Kind != replica.KindDelegate {
		return 0, nil
	}
	err = delegate.Halt(ctx, pool.API, vbd.VM)
	if err == nil {
		err = xapi.Destroy(ctx, pool.API, classVBD, ref)
	}
	if err := xapi.UnlessGone(ctx, pool.API, classVM, vbd.VM, err); err != nil {
		return 0, &FenceError{Replica: l.replica, Delegate: vm.NameLabel, UUID: vm.UUID, Run: marker.Run, Cause: err}
	}
	return 1, nil
}

// awaitImport waits until the control domain lets go of a disk: what an orchestrator imports into it itself ends with its connection.
func (e *Engine) awaitImport(ctx context.Context, pool *delegate.Pool, l leased, ref xapi.Ref, holder xapi.VM) error {
	for began := time.Now(); ; {
		vbd, err := xapi.GetRecord[xapi.VBD](ctx, pool.API, classVBD, ref)
		if xapi.IsGone(err, ref) || err == nil && !vbd.CurrentlyAttached {
			return nil
		} else if err != nil {
			return err
		}
		if time.Since(began) >= importTimeout {
			return &FenceError{Replica: l.replica, Delegate: holder.NameLabel, UUID: holder.UUID, Cause: fmt.Errorf("it did not let go within %v", importTimeout)}
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// LeaseError says that another orchestrator is at work on the replica. It is a state.ErrBusy: run it again later.
type LeaseError struct {
	Replica string // id
	Holder  lease.Entry
}

func (e *LeaseError) Error() string {
	return fmt.Sprintf("another orchestrator is at work on replica %s: %v; wait for it, and see to it that one state folder is not used at two places",
		e.Replica, &lease.BusyError{Entry: e.Holder})
}

// Is makes errors.Is(err, state.ErrBusy) true.
func (e *LeaseError) Is(target error) bool { return target == state.ErrBusy }

func leaseError(replica string, err error) error {
	if busy := (*lease.BusyError)(nil); errors.As(err, &busy) {
		return &LeaseError{Replica: replica, Holder: busy.Entry}
	}
	return fmt.Errorf("taking the lease of replica %s: %w", replica, err)
}

// FenceError says that a delegate which may write to the replica could not be halted. Nothing else was done to the replica.
type FenceError struct {
	Replica        string // id
	Delegate, UUID string // of its VM
	Run            string // that made it; empty: it is a control domain, through which an orchestrator may write itself
	Cause          error
}

func (e *FenceError) Error() string { return e.what() + "; " + e.mend() }

func (e *FenceError) what() string {
	if e.Run == "" {
		return fmt.Sprintf("%s (%s) holds a disk of replica %s for an orchestrator that has lost its lease, or for a transfer that broke: %v", e.Delegate, e.UUID, e.Replica, e.Cause)
	}
	return fmt.Sprintf("delegate %s (%s) of run %s holds a disk of replica %s, has lost its lease, and could not be halted: %v", e.Delegate, e.UUID, e.Run, e.Replica, e.Cause)
}

func (e *FenceError) mend() string {
	if e.Run == "" {
		return "end the other orchestrator, or unplug the disk there once nothing writes to it (xe vbd-unplug), then run again"
	}
	return "shut that VM down, or make sure that its host is down and have the pool know it (host-declare-dead), then run again"
}

func (e *FenceError) Unwrap() error { return e.Cause }

// lostLease reports whether a context ended because the lease was lost: then the run was not cancelled, it failed.
func lostLease(ctx context.Context) bool {
	return errors.As(context.Cause(ctx), new(*lease.LostError))
}
