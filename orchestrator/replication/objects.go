package replication

import (
	"cmp"
	"context"
	"fmt"
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

	codeUUIDInvalid = "UUID_INVALID"
)

const (
	// creationTimeout bounds a creating call. Snapshots and clones take seconds; a busy SR has them wait.
	creationTimeout = 5 * time.Minute
)

// creation is an object to be made.
type creation struct {
	pool   *delegate.Pool
	class  string
	kind   replica.Kind
	origin string        // uuid, see saga.Intent
	except xapi.Ref      // an object that may have the same name
	within time.Duration // bounds the call; 0: creationTimeout
	call   func(ctx context.Context, name string, creating maker) (xapi.Ref, error)
}

// snapshotOf is the call of a creation that snapshots a VM.
func snapshotOf(api xapi.API, vm xapi.Ref) func(context.Context, string, maker) (xapi.Ref, error) {
	return func(ctx context.Context, name string, _ maker) (xapi.Ref, error) {
		return xapi.CopyVM(ctx, api, "VM.snapshot", vm, name)
	}
}

// maker makes the call that gives the object, and is sure of its outcome.
type maker func(ctx context.Context, method string, args ...any) (xapi.Ref, error)

// create makes an object under the run's record. A creating call is not broken off when ctx ends: nobody could tell then
// what came of it.
func create(ctx context.Context, s *saga.Saga, c creation) (xapi.Ref, state.Object, error) {
	var ref xapi.Ref
	intent := saga.Intent{Pool: c.pool.Inventory.UUID, Class: c.class, Kind: string(c.kind), Origin: c.origin}
	object, err := s.Create(ctx, intent, func(ctx context.Context, name string) (uuid string, err error) {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(c.within, creationTimeout))
		defer cancel()
		ref, err = c.call(ctx, name, func(ctx context.Context, method string, args ...any) (xapi.Ref, error) {
			return xapi.Make(ctx, c.pool.API, method, xapi.ByName(c.pool.API, c.class, name, c.except), args...)
		})
		if err != nil {
			return "", err
		}
		return uuid, c.pool.API.Call(ctx, c.class+".get_uuid", &uuid, ref)
	})
	return ref, object, err
}

// creators are the tasks that make the objects of a kind.
var creators = map[replica.Kind]string{
	replica.KindSnapshot:     "Async.VM.snapshot",
	replica.KindRestorePoint: "Async.VM.snapshot",
	replica.KindDiverged:     "Async.VM.snapshot",
	replica.KindClone:        "Async.VDI.clone",
	replica.KindSeed:         "Async.VDI.clone",
	replica.KindReplicaDisk:  "Async.VDI.create",
	replica.KindScratch:      "Async.VDI.create",
	replica.KindReplica:      "Async.VM.create",
	replica.KindRehearsal:    "Async.VM.clone",
}

// made finds what a creating call whose answer is not known has made under a name. A VM has its name before it has its disks:
// what stands there counts once no task can be at work on it any more, or the wait for those takes too long.
func made(ctx context.Context, api xapi.API, class string, kind replica.Kind, name string, except xapi.Ref) ([]xapi.Ref, error) {
	ended, err := xapi.AwaitTasks(ctx, api, creators[kind])
	if err != nil {
		return nil, err
	}
	refs, err := xapi.ByName(api, class, name, except)(ctx)
	if err == nil && len(refs) == 0 && !ended {
		return nil, fmt.Errorf("a task %s that was pending does not end, and may be making %s: try again when it has ended", creators[kind], name)
	}
	return refs, err
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
