package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// VM.snapshot takes the disks of a VM one after the other while it runs (xapi-facts §13.1). A VM that is paused meanwhile has written
// nothing to one disk that depends on what another one's snapshot lacks: of a write that was under way it had not heard.
//
// That a run paused its source is recorded before it does, like an object that it makes, so that whoever finds the record lets the VM go
// on. The record comes after the snapshot's, which is undone later: nothing keeps the VM waiting. A VM that was paused before the
// run has no record, and stays as it is.

const (
	// kindPause is the kind of the record that the source is paused.
	kindPause = "pause"
	pauseTask = "Async.VM.pause"
	// maxPause bounds the snapshot of a VM that is paused for it; then it is broken off, and the VM goes on.
	maxPause = time.Minute
	// busyWait is how long another operation on the VM is waited for before it is paused, busyPause the time between the attempts.
	busyWait  = 15 * time.Second
	busyPause = 250 * time.Millisecond
	// pauseAttempts is how often the VM's power state may change while it is to be paused.
	pauseAttempts = 3

	codeBadPowerState  = "VM_BAD_POWER_STATE"
	codeBlocked        = "OPERATION_BLOCKED"
	codeOtherOperation = "OTHER_OPERATION_IN_PROGRESS"
)

// notPaused are the refusals of VM.pause from before it does anything (xapi-facts §6.2).
var notPaused = []string{codeBadPowerState, codeBlocked, codeOtherOperation}

// pauseFindings tells whether the source cannot be paused though it is to be.
func (s *subject) pauseFindings() {
	if s.request.consistency() != report.ConsistencyPaused || s.vm.PowerState != xapi.Running {
		return
	}
	subject := "VM " + s.vm.NameLabel
	const without = ", or do without: consistency disk"
	for _, operation := range []xapi.VMOperation{xapi.VMOperationPause, xapi.VMOperationUnpause} {
		if why, blocked := s.vm.BlockedOperations[operation]; blocked {
			s.found(report.SeverityError, CodePause, subject, fmt.Sprintf("unblock the operation '%s' of the VM", operation)+without,
				"VM %s is to be paused for its snapshot, and the operation '%s' is blocked: %.200q", s.vm.NameLabel, operation, why)
			return
		}
	}
	// What is allowed depends on what is under way, which is waited for.
	if allowed := s.vm.AllowedOperations; len(allowed) > 0 && len(s.vm.CurrentOperations) == 0 && !slices.Contains(allowed, xapi.VMOperationPause) {
		s.found(report.SeverityError, CodePause, subject, "see which device or feature of the VM keeps its pool from allowing that"+without,
			"VM %s is to be paused for its snapshot, and pool %s does not allow it", s.vm.NameLabel, s.source.Name)
	}
}

// atRest has the source snapshotted. When it is to stand still meanwhile and runs it is paused before and goes on afterwards, whatever
// became of the snapshot.
func (r *run) atRest(ctx context.Context, snapshot func(context.Context) error) error {
	if r.plan.Consistency != report.ConsistencyPaused {
		return snapshot(ctx)
	}
	var paused state.Object
	began := time.Now()
	err := r.engine.step("pause", func() (err error) {
		paused, err = r.pause(ctx)
		return err
	})
	if err != nil || paused.UUID == "" { // it does not run
		if err == nil {
			err = snapshot(ctx)
		}
		return err
	}
	limited, cancel := context.WithTimeoutCause(ctx, maxPause,
		fmt.Errorf("the VM would be paused for longer than %v, so that it goes on instead: replicate it with consistency disk, or when its storage has less to do", maxPause))
	err = snapshot(limited)
	cancel()
	goOn := r.engine.step("unpause", func() error { return r.saga.Undo(context.WithoutCancel(ctx), paused) })
	r.report.change(func(run *report.Run) { run.Snapshot.Paused = time.Since(began).Seconds() })
	return errors.Join(err, goOn)
}

// pause pauses the source under the run's record; without a uuid: it does not run.
func (r *run) pause(ctx context.Context) (state.Object, error) {
	api := r.source.API
	for attempt := 1; ; attempt++ {
		var power xapi.VMPowerState
		if err := api.Call(ctx, "VM.get_power_state", &power, r.vm.Ref); err != nil || power != xapi.Running {
			return state.Object{}, err
		}
		intent := saga.Intent{Pool: r.source.Inventory.UUID, Class: classVM, Kind: kindPause, Origin: r.vm.UUID}
		object, err := r.saga.Create(ctx, intent, func(ctx context.Context, _ string) (string, error) {
			waiting, cancel := context.WithTimeout(ctx, busyWait)
			defer cancel()
			err := whenFree(waiting, func() error {
				return xapi.Ensure(ctx, api, "VM.pause", hasPowerState(api, r.vm.Ref, xapi.Paused), r.vm.Ref)
			})
			if xapi.IsCode(err, notPaused...) && !errors.Is(err, xapi.ErrOutcomeUnknown) {
				err = fmt.Errorf("%w: %w", saga.ErrNotMade, err)
			}
			return r.vm.UUID, err
		})
		if xapi.IsCode(err, codeBadPowerState) && attempt < pauseAttempts {
			continue // somebody else was quicker
		}
		return object, err
	}
}

// unpause has a VM go on that the run paused, if it is paused still. Of a pause whose answer is not known the VM's state tells.
func (u undoer) unpause(ctx context.Context, o state.Object) error {
	api, err := u.api(o)
	if err != nil {
		return err
	}
	if o.UUID == "" {
		if ended, err := xapi.AwaitTasks(ctx, api, pauseTask); err != nil {
			return err
		} else if !ended {
			return fmt.Errorf("a task %s that was pending does not end, and may be pausing VM %s: try again when it has ended", pauseTask, o.Origin)
		}
	}
	ref, err := xapi.GetByUUID(ctx, api, classVM, o.Origin)
	if xapi.IsCode(err, codeUUIDInvalid) {
		return nil
	} else if err != nil {
		return err
	}
	isPaused := hasPowerState(api, ref, xapi.Paused)
	err = whenFree(ctx, func() error {
		paused, err := isPaused(ctx)
		if err != nil || !paused {
			return err
		}
		return xapi.Ensure(ctx, api, "VM.unpause", func(ctx context.Context) (bool, error) {
			paused, err := isPaused(ctx)
			return !paused, err
		}, ref)
	})
	switch {
	case xapi.IsCode(err, codeBadPowerState):
		return nil // somebody else let it go on, or shut it down
	case xapi.IsCode(err, codeBlocked):
		return fmt.Errorf("VM %s stays paused: unblock its operation 'unpause', and run 'understudy gc': %w", o.Origin, err)
	}
	return xapi.UnlessGone(ctx, api, classVM, ref, err)
}

// hasPowerState is a look at whether a VM has a power state.
func hasPowerState(api xapi.API, vm xapi.Ref, wanted xapi.VMPowerState) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		var power xapi.VMPowerState
		err := api.Call(ctx, "VM.get_power_state", &power, vm)
		return power == wanted, err
	}
}

// whenFree makes a call, and again while another operation on its object excludes it, until ctx ends.
func whenFree(ctx context.Context, call func() error) error {
	for {
		err := call()
		if !xapi.IsCode(err, codeOtherOperation) {
			return err
		}
		select {
		case <-time.After(busyPause):
		case <-ctx.Done():
			return err
		}
	}
}

// noteSnapshot reports how far the disks of the snapshot are consistent with one another.
func (r *run) noteSnapshot(snapshot xapi.VM, disks []heldDisk) {
	times := make([]time.Time, len(disks))
	for i, d := range disks {
		times[i] = d.vdi.SnapshotTime.Time
	}
	power := snapshot.SnapshotInfo["power-state-at-snapshot"]
	r.report.change(func(run *report.Run) { run.Snapshot.PowerState, run.Snapshot.Spread = power, report.NewSpread(times) })
	if r.plan.Consistency == report.ConsistencyPaused && power == string(xapi.Running) {
		r.report.event("not-paused", "VM %s was to stand still while it was snapshotted, and ran: somebody let it go on, or started it; the replica is crash-consistent per disk", r.vm.NameLabel)
	}
}
