package xapi

import (
	"context"
	"errors"
	"fmt"
)

// CopyVM is Make for VM.clone, VM.snapshot and VM.copy, under a name that no other VM has; args come after the name.
//
// A coordinator that dies over it leaves a VM without all of its devices: xapi copies the disks first, then makes the record, then the
// devices one by one, and nobody takes that back (xen-api ocaml/xapi/xapi_vm_clone.ml). Such a VM is no copy: it is removed with its
// disks, and the copy made again. A disk that was copied and had no VBD yet bears no sign of whose it is, and stays.
func CopyVM(ctx context.Context, api API, method string, of Ref, name string, args ...any) (Ref, error) {
	copies := func(ctx context.Context, wanted bool) ([]Ref, error) {
		found, err := ByName(api, "VM", name, of)(ctx)
		if err != nil || len(found) == 0 {
			return nil, err
		}
		original, err := devicesOf(ctx, api, of)
		if err != nil {
			return nil, err
		}
		var refs []Ref
		for _, ref := range found {
			devices, err := devicesOf(ctx, api, ref)
			switch {
			case IsGone(err, ref):
			case err != nil:
				return nil, err
			case devices.has(original) == wanted:
				refs = append(refs, ref)
			}
		}
		return refs, nil
	}
	whole := func(ctx context.Context) ([]Ref, error) { return copies(ctx, true) }
	clear := func(ctx context.Context) error {
		unfinished, err := copies(ctx, false)
		for _, ref := range unfinished {
			err = errors.Join(err, destroyCopy(ctx, api, ref))
		}
		return err
	}
	return makeWith(ctx, api, method, whole, clear, append([]any{of, name}, args...))
}

// devices are what a VM's copy must have as well, by their kind and position; of disks, the VDIs.
type devices map[string]Ref

func (d devices) has(all devices) bool {
	for position := range all {
		if _, ok := d[position]; !ok {
			return false
		}
	}
	return true
}

func devicesOf(ctx context.Context, api API, ref Ref) (devices, error) {
	vm, err := GetRecord[VM](ctx, api, "VM", ref)
	if err != nil {
		return nil, err
	}
	found := devices{}
	for _, ref := range vm.VBDs {
		vbd, err := GetRecord[VBD](ctx, api, "VBD", ref)
		switch {
		case IsGone(err, ref):
		case err != nil:
			return nil, err
		case vbd.Type == TypeDisk && !vbd.VDI.IsNull():
			found["disk "+vbd.UserDevice] = vbd.VDI
		}
	}
	for _, ref := range vm.VIFs {
		vif, err := GetRecord[VIF](ctx, api, "VIF", ref)
		switch {
		case IsGone(err, ref):
		case err != nil:
			return nil, err
		default:
			found["interface "+vif.Device] = NullRef
		}
	}
	for i := range vm.VTPMs {
		found[fmt.Sprint("TPM ", i)] = NullRef
	}
	return found, nil
}

// destroyCopy removes an unfinished copy with its disks, the VM last because it leads to them. It has never run, and nobody else has
// got at it: when that is not so, it is left.
func destroyCopy(ctx context.Context, api API, ref Ref) error {
	vm, err := GetRecord[VM](ctx, api, "VM", ref)
	if err != nil {
		return UnlessGone(ctx, api, "VM", ref, err)
	}
	if vm.PowerState != Halted {
		return fmt.Errorf("VM %s (%s) lacks devices of its original, and is %s: remove it if nobody needs it", vm.NameLabel, vm.UUID, vm.PowerState)
	}
	held, err := devicesOf(ctx, api, ref)
	if err != nil {
		return UnlessGone(ctx, api, "VM", ref, err)
	}
	for _, disk := range held {
		if disk.IsNull() {
			continue
		}
		vdi, err := GetRecord[VDI](ctx, api, "VDI", disk)
		if IsGone(err, disk) {
			continue
		} else if err != nil {
			return err
		}
		if len(vdi.VBDs) > 1 {
			return fmt.Errorf("disk %s of the unfinished VM %s (%s) is attached to another VM as well: detach it there", vdi.UUID, vm.NameLabel, vm.UUID)
		}
		if err := DestroyVDI(ctx, api, disk); err != nil {
			return err
		}
	}
	return Destroy(ctx, api, "VM", ref)
}
