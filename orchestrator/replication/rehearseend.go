package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// ErrNoTest says that no clone of a replica's restore points stands.
var ErrNoTest = errors.New("no test of the replica stands")

// EndTestRequest says which replica's tests are to end.
type EndTestRequest struct {
	Replica string         // id
	Target  *delegate.Pool // where the replica is
}

// EndTest removes the clones that tests of a replica have left to the administrator, whether they run or not, and gives the runs that had
// made them. Cut short it may be repeated, and 'gc' finishes it. A clone that somebody put to use, because a disk of it is
// attached elsewhere or it has got one that is not its own, is left alone: an ErrStranger, and EndTest finds it again.
//
// Errors: state.ErrNotFound, ErrNoTest, state.ErrBusy for a test that is under way, and those of the pool.
func (e *Engine) EndTest(ctx context.Context, request EndTestRequest) ([]report.Run, error) {
	target := *request.Target
	var err error
	if target.Inventory, err = inventory.Load(ctx, target.API); err != nil {
		return nil, fmt.Errorf("pool %s: %w", target.Name, err)
	}
	if _, err := e.Store.Replica(ctx, request.Replica); err != nil {
		return nil, err
	}
	tests, err := e.Store.Rehearsals(ctx, request.Replica)
	if err != nil {
		return nil, err
	}
	if len(tests) == 0 {
		return nil, fmt.Errorf("replica %s: %w", request.Replica, ErrNoTest)
	}
	var ended []report.Run
	var errs []error
	for _, run := range tests {
		if err := e.endTest(ctx, &target, run.Report.ID); err != nil {
			errs = append(errs, fmt.Errorf("test %s: %w", run.Report.ID, err))
			continue
		}
		ended = append(ended, run.Report)
	}
	return ended, errors.Join(errs...)
}

func (e *Engine) endTest(ctx context.Context, target *delegate.Pool, id string) error {
	undoers := Undoers(e.Store, target)
	run, err := e.Store.Run(ctx, id)
	if err != nil {
		return err
	}
	if !run.Report.State.Final() {
		recovered, err := saga.RecoverRun(ctx, e.Store, undoers, id)
		if err == nil && len(recovered) == 0 { // its process lives
			err = &state.BusyError{Run: id, Owner: run.Owner}
		}
		return errors.Join(err, failures(recovered))
	}
	if _, err := e.Store.TakeOver(ctx, id); err != nil {
		return err
	}
	s := saga.New(e.Store, id, undoers)
	if err := e.step("release the clone", func() error { return s.Release(ctx) }); err != nil {
		return err
	}
	failure := e.step("remove the clone", func() error { return s.Unwind(ctx) })
	if !errors.Is(failure, ErrStranger) {
		return failure
	}
	// It is nobody's left-over: kept again, no collector looks at it, and EndTest can be repeated.
	objects, err := e.Store.Objects(ctx, id)
	if err != nil {
		return errors.Join(failure, err)
	}
	objects = slices.DeleteFunc(objects, func(o state.Object) bool { return !o.Pending() || o.UUID == "" })
	return errors.Join(failure, s.Keep(context.WithoutCancel(ctx), objects...))
}

// StandingTest is a test whose clone stands, or that is under way.
type StandingTest struct {
	Run     string    `json:"run"`
	Point   string    `json:"point"`           // uuid of the restore point
	Clone   string    `json:"clone,omitempty"` // uuid of the VM; empty: it is being made
	Started time.Time `json:"started"`
	Left    bool      `json:"left"` // to the administrator, until EndTest
}

// standingTests lists them, the oldest first.
func standingTests(ctx context.Context, store *state.Store, id string) ([]StandingTest, error) {
	runs, err := store.Rehearsals(ctx, id)
	if err != nil {
		return nil, err
	}
	tests := []StandingTest{}
	for _, run := range runs {
		test := StandingTest{Run: run.Report.ID, Point: run.Report.RestorePoint, Started: run.Report.Started}
		objects, err := store.Objects(ctx, run.Report.ID)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			if o.Kind == string(replica.KindRehearsal) {
				test.Clone, test.Left = o.UUID, o.Status == state.ObjectKept
			}
		}
		tests = append(tests, test)
	}
	return tests, nil
}

// removeRehearsal removes the clone of a test with its disks, running or not.
func (u undoer) removeRehearsal(ctx context.Context, o state.Object) error {
	return u.each(ctx, o, func(api xapi.API, ref xapi.Ref) error {
		disks, err := u.rehearsalDisks(ctx, api, o, ref)
		if err != nil {
			return err
		}
		if err := delegate.Halt(ctx, api, ref); err != nil {
			return err
		}
		for _, d := range disks {
			if err := xapi.DestroyVDI(ctx, api, d.ref); err != nil {
				return err
			}
		}
		return xapi.Destroy(ctx, api, classVM, ref)
	})
}

// removeRehearsalDisk removes a disk of a test's clone. As long as the clone has it, it goes as a part of that: with one of its disks in
// use elsewhere none of it is touched.
func (u undoer) removeRehearsalDisk(ctx context.Context, o state.Object) error {
	return u.each(ctx, o, func(api xapi.API, ref xapi.Ref) error {
		vdi, err := xapi.GetRecord[xapi.VDI](ctx, api, classVDI, ref)
		if err != nil {
			return err
		}
		if err := u.claims(o, vdi.UUID, vdi.NameLabel, vdi.OtherConfig); err != nil {
			return err
		}
		clone, err := xapi.GetByUUID(ctx, api, classVM, o.Origin)
		switch {
		case err == nil:
			held, err := u.rehearsalDisks(ctx, api, state.Object{Run: o.Run}, clone)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(held, func(d heldDisk) bool { return d.ref == ref }) {
				if err := delegate.Halt(ctx, api, clone); err != nil {
					return err
				}
			}
		case !xapi.IsCode(err, codeUUIDInvalid):
			return err
		}
		if err := heldByOthers(ctx, api, vdi, func(holder xapi.Ref, _ xapi.VM) bool { return holder == clone }); err != nil {
			return err
		}
		return xapi.DestroyVDI(ctx, api, ref)
	})
}

// rehearsalDisks are the disks of a test's clone, once it is known that the VM is the one of the record and that nobody has put it to use:
// each disk bears the marker of the test, or has not been marked yet, and no other VM holds it. Until it is marked the clone is a template
// under the record's name, and bears the marker of its original.
func (u undoer) rehearsalDisks(ctx context.Context, api xapi.API, o state.Object, ref xapi.Ref) ([]heldDisk, error) {
	vm, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, ref)
	if err != nil {
		return nil, err
	}
	marker, owner, _ := replica.Read(u.installation, vm.UUID, vm.OtherConfig) // a malformed marker is one that was not finished
	marked := owner == replica.Ours && marker.Run == o.Run && marker.Kind == replica.KindRehearsal
	fresh := vm.NameLabel == o.Name && vm.IsATemplate && !vm.IsASnapshot && (marker.Self == "" || marker.Self == o.Origin)
	if !marked && !fresh {
		return nil, fmt.Errorf("VM %s (%s): %w", vm.NameLabel, vm.UUID, ErrStranger)
	}
	disks, err := remainingDisks(ctx, api, vm)
	if err != nil {
		return nil, err
	}
	for _, d := range disks {
		marker, owner, _ := replica.Read(u.installation, d.vdi.UUID, d.vdi.OtherConfig)
		own := owner == replica.Ours && marker.Run == o.Run && marker.Kind == replica.KindRehearsalDisk
		if !own && (marked || owner == replica.Ours) {
			return nil, fmt.Errorf("disk %s (VDI %s) of VM %s (%s) is not the test's: %w", d.number, d.vdi.UUID, vm.NameLabel, vm.UUID, ErrStranger)
		}
		if err := heldByOthers(ctx, api, d.vdi, func(holder xapi.Ref, _ xapi.VM) bool { return holder == ref }); err != nil {
			return nil, err
		}
	}
	return disks, nil
}
