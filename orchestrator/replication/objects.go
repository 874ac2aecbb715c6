package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	classVM  = "VM"
	classVDI = "VDI"
	classVBD = "VBD"

	codeHandleInvalid = "HANDLE_INVALID"
	codeUUIDInvalid   = "UUID_INVALID"
)

const (
	// creationTimeout bounds a creating call. Snapshots and clones take seconds; a busy SR has them wait.
	creationTimeout = 5 * time.Minute
	// outcomeTimeout is how long an object is looked for whose creating call was cut off.
	outcomeTimeout = time.Minute
	outcomePause   = 500 * time.Millisecond
)

// creation is an object to be made.
type creation struct {
	pool   *delegate.Pool
	class  string
	kind   replica.Kind
	origin string   // uuid, see saga.Intent
	except xapi.Ref // an object that may have the same name
	call   func(ctx context.Context, name string) (xapi.Ref, error)
}

// create makes an object under the run's record. A creating call is not broken off when ctx ends: nobody could tell then
// what came of it.
func create(ctx context.Context, s *saga.Saga, c creation) (xapi.Ref, state.Object, error) {
	var ref xapi.Ref
	intent := saga.Intent{Pool: c.pool.Inventory.UUID, Class: c.class, Kind: string(c.kind), Origin: c.origin}
	object, err := s.Create(ctx, intent, func(ctx context.Context, name string) (uuid string, err error) {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), creationTimeout)
		defer cancel()
		if ref, err = c.call(ctx, name); errors.Is(err, xapi.ErrOutcomeUnknown) {
			ref, err = c.await(ctx, name, err)
		}
		if err != nil {
			return "", err
		}
		return uuid, c.pool.API.Call(ctx, c.class+".get_uuid", &uuid, ref)
	})
	return ref, object, err
}

// await looks for an object whose creating call was cut off: it may come yet.
func (c creation) await(ctx context.Context, name string, cause error) (xapi.Ref, error) {
	ctx, cancel := context.WithTimeout(ctx, outcomeTimeout)
	defer cancel()
	for {
		refs, err := made(ctx, c.pool.API, c.class, c.kind, name, c.except)
		if err == nil && len(refs) == 1 {
			return refs[0], nil
		}
		select {
		case <-time.After(outcomePause):
		case <-ctx.Done():
			return "", errors.Join(cause, err)
		}
	}
}

// creators are the tasks that make the objects of a kind.
var creators = map[replica.Kind]string{
	replica.KindSnapshot:     "Async.VM.snapshot",
	replica.KindRestorePoint: "Async.VM.snapshot",
	replica.KindClone:        "Async.VDI.clone",
	replica.KindSeed:         "Async.VDI.clone",
	replica.KindReplicaDisk:  "Async.VDI.create",
	replica.KindScratch:      "Async.VDI.create",
	replica.KindReplica:      "Async.VM.create",
}

// made finds what a creating call whose answer is not known has made under a name. A VM has its name before it has its disks:
// what stands there counts once no task can be at work on it any more, or the wait for those takes too long.
func made(ctx context.Context, api xapi.API, class string, kind replica.Kind, name string, except xapi.Ref) ([]xapi.Ref, error) {
	ended, err := xapi.AwaitTasks(ctx, api, creators[kind])
	if err != nil {
		return nil, err
	}
	refs, err := byName(ctx, api, class, name, except)
	if err == nil && len(refs) == 0 && !ended {
		return nil, fmt.Errorf("a task %s that was pending does not end, and may be making %s: try again when it has ended", creators[kind], name)
	}
	return refs, err
}

// byName finds the objects of a name, but for one.
func byName(ctx context.Context, api xapi.API, class, name string, except xapi.Ref) ([]xapi.Ref, error) {
	var refs []xapi.Ref
	if err := api.Call(ctx, class+".get_by_name_label", &refs, name); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(refs, func(r xapi.Ref) bool { return r == except }), nil
}

// asTask runs a call that gives a reference as a task.
func asTask(ctx context.Context, api xapi.API, method string, args ...any) (xapi.Ref, error) {
	var ref string
	err := api.Run(ctx, method, &ref, args...)
	return xapi.Ref(ref), err
}

// heldDisk is a disk of a VM as its VBDs say.
type heldDisk struct {
	number string
	vbd    xapi.Ref
	ref    xapi.Ref
	vdi    xapi.VDI
}

// disksOf reads a VM's disks from the pool as it is now, by number.
func disksOf(ctx context.Context, api xapi.API, vm xapi.VM) ([]heldDisk, error) {
	return readDisks(ctx, api, vm, func(error, xapi.Ref) bool { return false })
}

// remainingDisks is disksOf without what the records still name and the pool has no more. It serves removals: a disk that is
// missing must not keep the rest.
func remainingDisks(ctx context.Context, api xapi.API, vm xapi.VM) ([]heldDisk, error) {
	return readDisks(ctx, api, vm, xapi.IsGone)
}

func readDisks(ctx context.Context, api xapi.API, vm xapi.VM, skip func(error, xapi.Ref) bool) ([]heldDisk, error) {
	disks := map[string]heldDisk{}
	for _, ref := range vm.VBDs {
		vbd, err := xapi.GetRecord[xapi.VBD](ctx, api, classVBD, ref)
		if skip(err, ref) {
			continue
		} else if err != nil {
			return nil, err
		}
		if vbd.Type != xapi.TypeDisk || vbd.Empty || vbd.VDI.IsNull() {
			continue
		}
		vdi, err := xapi.GetRecord[xapi.VDI](ctx, api, classVDI, vbd.VDI)
		if skip(err, vbd.VDI) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("disk %s of VM %s: %w", vbd.UserDevice, vm.NameLabel, err)
		}
		disks[vbd.UserDevice] = heldDisk{number: vbd.UserDevice, vbd: ref, ref: vbd.VDI, vdi: vdi}
	}
	sorted := make([]heldDisk, 0, len(disks))
	for _, name := range sortedDisks(disks) {
		sorted = append(sorted, disks[name])
	}
	return sorted, nil
}

// setField calls a setter.
func setField(ctx context.Context, api xapi.API, class string, ref xapi.Ref, field string, value any) error {
	return api.Call(ctx, class+".set_"+field, nil, ref, value)
}
