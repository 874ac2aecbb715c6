package delegate

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// bootDevice is the position of a delegate's own disk.
	bootDevice = 0
	// cloneTask is the name of the tasks that make delegates.
	cloneTask = "Async.VM.clone"

	codeUUIDInvalid    = "UUID_INVALID"
	codeBadPowerState  = "VM_BAD_POWER_STATE"
	codeOtherOperation = "OTHER_OPERATION_IN_PROGRESS"
)

// Undoers gives what a saga needs to remove delegates, and templates whose deployment did not end well, in these pools from their
// records alone. A delegate is removed whatever
// its state; a VM that does not bear its own marker, or a disk that is not the delegate's own, is never touched: an
// ErrStranger.
func Undoers(pools ...*Pool) saga.Undoers {
	inPool := func(remove func(context.Context, *Pool, state.Object) error) saga.Undoer {
		return func(ctx context.Context, o state.Object) error {
			for _, pool := range pools {
				if pool.Inventory.UUID == o.Pool {
					return remove(ctx, pool, o)
				}
			}
			return fmt.Errorf("pool %s is not connected; connect it and try again", o.Pool)
		}
	}
	return saga.Undoers{
		string(replica.KindDelegate): inPool(func(ctx context.Context, pool *Pool, o state.Object) error {
			return remover{pool: pool, installation: pool.Store.Installation().UUID}.remove(ctx, o)
		}),
		string(replica.KindDelegateTemplate): inPool(func(ctx context.Context, pool *Pool, o state.Object) error {
			return templateRemover{pool}.remove(ctx, o)
		}),
	}
}

// remover removes delegates from one pool.
type remover struct {
	pool         *Pool
	installation string
}

// claim says how far a VM is known to be the one of a record.
type claim int

const (
	stranger   claim = iota
	unfinished       // cloned under the record's name, not wholly marked yet; still a template, so that it never ran
	complete         // bears its own marker, and so does its disk
)

func (r remover) remove(ctx context.Context, o state.Object) error {
	ref, claimed, err := r.find(ctx, o)
	if err != nil || claimed == stranger {
		return err
	}
	err = Halt(ctx, r.pool.API, ref)
	if err == nil {
		err = r.removeDisk(ctx, o, ref, claimed)
	}
	if err == nil {
		err = xapi.Destroy(ctx, r.pool.API, "VM", ref)
	}
	return xapi.UnlessGone(ctx, r.pool.API, "VM", ref, err) // somebody else may have removed the VM
}

// find looks for the VM of a record; stranger means that there is none.
func (r remover) find(ctx context.Context, o state.Object) (xapi.Ref, claim, error) {
	if o.UUID == "" {
		return r.findByName(ctx, o)
	}
	ref, err := xapi.GetByUUID(ctx, r.pool.API, "VM", o.UUID)
	if xapi.IsCode(err, codeUUIDInvalid) {
		return "", stranger, nil
	} else if err != nil {
		return "", stranger, err
	}
	vm, err := xapi.GetRecord[xapi.VM](ctx, r.pool.API, "VM", ref)
	if xapi.IsCode(err, codeHandleInvalid) {
		return "", stranger, nil
	} else if err != nil {
		return "", stranger, err
	}
	claimed := r.claim(o, vm)
	if claimed == stranger {
		return "", stranger, fmt.Errorf("VM %s (%s) in pool %s: %w: it does not bear the marker of run %s; remove it by hand if it is a delegate",
			vm.NameLabel, o.UUID, r.pool.Name, ErrStranger, o.Run)
	}
	return ref, claimed, nil
}

// findByName looks for a VM whose creation was asked for and never answered. The pool may still be making it, after its
// orchestrator was killed or cancelled the call: a VM has its name before it has its disks, and while a clone is pending not to
// find the VM proves nothing. Both are settled once the clones of now have ended, or the wait for them takes too long.
func (r remover) findByName(ctx context.Context, o state.Object) (xapi.Ref, claim, error) {
	ended, err := xapi.AwaitTasks(ctx, r.pool.API, cloneTask)
	if err != nil {
		return "", stranger, err
	}
	var refs []xapi.Ref
	if err := r.pool.API.Call(ctx, "VM.get_by_name_label", &refs, o.Name); err != nil {
		return "", stranger, err
	}
	for _, ref := range refs {
		vm, err := xapi.GetRecord[xapi.VM](ctx, r.pool.API, "VM", ref)
		if xapi.IsGone(err, ref) {
			continue
		} else if err != nil {
			return "", stranger, err
		}
		if claimed := r.claim(o, vm); claimed != stranger {
			return ref, claimed, nil
		}
	}
	if !ended {
		return "", stranger, fmt.Errorf("pool %s is still cloning VMs, %s may be among them: try again when it has ended", r.pool.Name, o.Name)
	}
	return "", stranger, nil
}

// claim compares a VM with a record. Until its marker is written a clone is a template and bears that of its original, the
// record's origin; a copy that somebody made of a delegate names that delegate instead.
func (r remover) claim(o state.Object, vm xapi.VM) claim {
	marker, ownership, _ := replica.Read(r.installation, vm.UUID, vm.OtherConfig) // a malformed marker is no marker of ours
	switch {
	case ownership == replica.Ours && marker.Kind == replica.KindDelegate && marker.Run == o.Run:
		return complete
	case vm.NameLabel == o.Name && vm.IsATemplate && !vm.IsASnapshot && (marker.Self == "" || marker.Self == o.Origin):
		return unfinished
	}
	return stranger
}

// Halt ends a VM whatever it does. A start that is under way cannot be stopped; it is waited for.
func Halt(ctx context.Context, api xapi.API, ref xapi.Ref) error {
	return watch(ctx, api, ref, func(vm xapi.VM) (bool, error) {
		if vm.PowerState == xapi.Halted {
			for _, operation := range vm.CurrentOperations {
				if operation == xapi.VMOperationStart || operation == xapi.VMOperationStartOn {
					return false, nil
				}
			}
			return true, nil
		}
		err := xapi.Ensure(ctx, api, "VM.hard_shutdown", xapi.Record(api, "VM", ref, halted), ref)
		if xapi.IsCode(err, codeBadPowerState, codeOtherOperation) {
			err = nil // it halts by itself, or somebody halts it: the next state tells
		}
		return false, err
	})
}

func halted(vm xapi.VM) bool { return vm.PowerState == xapi.Halted }

// removeDisk destroys the delegate's own disk. It comes before the VM, which is what leads to it.
func (r remover) removeDisk(ctx context.Context, o state.Object, ref xapi.Ref, claimed claim) error {
	vm, err := xapi.GetRecord[xapi.VM](ctx, r.pool.API, "VM", ref)
	if err != nil {
		return err
	}
	disk, err := bootDisk(ctx, r.pool.API, vm)
	if err != nil || disk == nil {
		return err
	}
	if slices.ContainsFunc(disk.vdi.VBDs, func(vbd xapi.Ref) bool { return vbd != disk.vbd }) {
		return fmt.Errorf("disk %s of delegate %s: %w: it is attached to another VM as well; detach it there", disk.vdi.UUID, vm.NameLabel, ErrStranger)
	}
	marker, ownership, _ := replica.Read(r.installation, disk.vdi.UUID, disk.vdi.OtherConfig) // see claim
	own := ownership == replica.Ours && marker.Kind == replica.KindDelegateDisk && marker.Run == o.Run
	if !own && (claimed == complete || ownership == replica.Ours) {
		return fmt.Errorf("disk %s at position %d of delegate %s: %w: it is not the delegate's own; detach it from the VM",
			disk.vdi.UUID, bootDevice, vm.NameLabel, ErrStranger)
	}
	return xapi.DestroyVDI(ctx, r.pool.API, disk.ref)
}

// attachedDisk is a disk with the VBD that joins it to its VM.
type attachedDisk struct {
	vbd, ref xapi.Ref
	vdi      xapi.VDI
}

// bootDisk finds the disk at bootDevice; nil when there is none.
func bootDisk(ctx context.Context, api xapi.API, vm xapi.VM) (*attachedDisk, error) {
	for _, ref := range vm.VBDs {
		vbd, err := xapi.GetRecord[xapi.VBD](ctx, api, "VBD", ref)
		if xapi.IsCode(err, codeHandleInvalid) {
			continue
		} else if err != nil {
			return nil, err
		}
		if vbd.UserDevice != strconv.Itoa(bootDevice) || vbd.Type != xapi.TypeDisk || vbd.VDI.IsNull() {
			continue
		}
		vdi, err := xapi.GetRecord[xapi.VDI](ctx, api, "VDI", vbd.VDI)
		if xapi.IsCode(err, codeHandleInvalid) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		return &attachedDisk{vbd: ref, ref: vbd.VDI, vdi: vdi}, nil
	}
	return nil, nil
}
