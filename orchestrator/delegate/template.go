package delegate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// importTimeout bounds the wait for the end of an import whose client has gone, and importPause is the time between looks.
	importTimeout = 30 * time.Second
	importPause   = 250 * time.Millisecond
	// takeUpTimeout is how long an import may take from its beginning to the first object, which it makes of the file's head.
	takeUpTimeout = 5 * time.Second
)

// templateName is what administrators see.
func templateName(version string) string { return "Understudy delegate " + version }

// complete makes an imported VM a template that delegates are cloned from. Its network interface comes last: until then it does
// not count as deployed, to anybody.
func (d *deployment) complete(ctx context.Context, ref xapi.Ref, uuid string) error {
	api := d.pool.API
	vm, err := xapi.GetRecord[xapi.VM](ctx, api, "VM", ref)
	if err != nil {
		return err
	}
	disk, err := bootDisk(ctx, api, vm)
	if err != nil {
		return err
	}
	if !vm.IsATemplate || disk == nil {
		return fmt.Errorf("%w: what the pool made of it is no template with a disk at position %d", ErrImage, bootDevice)
	}
	for _, call := range []struct{ method, value string }{
		{"VM.set_name_label", templateName(d.image.version)},
		{"VM.add_tags", replica.TagLeaveAlone},
	} {
		if err := api.Call(ctx, call.method, nil, ref, call.value); err != nil {
			return err
		}
	}
	marker := replica.Marker{
		Installation: d.pool.Store.Installation().UUID, Run: d.run, Kind: replica.KindTemplateDisk, Self: disk.vdi.UUID, Disk: strconv.Itoa(bootDevice),
	}
	if err := replica.Apply(ctx, api, "VDI", disk.ref, marker); err != nil {
		return err
	}
	marker.Kind, marker.Self, marker.Disk = replica.KindDelegateTemplate, uuid, ""
	if err := replica.Apply(ctx, api, "VM", ref, marker); err != nil {
		return err
	}
	_, err = xapi.MakeVIF(ctx, api, map[string]any{
		"device": "0", "network": d.network, "VM": ref, "MAC": "", "MTU": d.pool.Inventory.Networks[d.network].MTU,
		"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	})
	return err
}

// templateRemover removes delegates' templates from one pool.
type templateRemover struct{ *Pool }

// remove removes what an unfinished deployment has made, knowing its record alone. The record's origin is the task of the import.
// That ends by itself when it has lost its client; a task that was never taken up by an import is dropped.
func (r templateRemover) remove(ctx context.Context, o state.Object) error {
	task := xapi.Ref(o.Origin)
	if err := r.API.Call(ctx, "task.cancel", nil, task); err != nil && !xapi.IsGone(err, task) {
		return err
	}
	for began := time.Now(); ; {
		ended, err := r.ended(ctx, task)
		if err != nil {
			return err
		}
		refs, err := r.made(ctx, o)
		switch waited := time.Since(began); {
		case err != nil:
			return err
		case ended:
			return errors.Join(r.destroyAll(ctx, refs), r.destroyDisks(ctx, o))
		case waited > takeUpTimeout && len(refs) == 0:
			return r.drop(ctx, task)
		case waited > importTimeout:
			return fmt.Errorf("pool %s is still importing the delegate's image: try again when it has ended", r.Name)
		}
		if err := pause(ctx, importPause); err != nil {
			return err
		}
	}
}

// ended reports whether an import is over, and what it made is whole or gone.
func (r templateRemover) ended(ctx context.Context, task xapi.Ref) (bool, error) {
	record, err := xapi.GetRecord[xapi.Task](ctx, r.API, "task", task)
	if xapi.IsGone(err, task) {
		return true, nil
	}
	return err == nil && slices.Contains([]xapi.TaskStatus{xapi.TaskSuccess, xapi.TaskFailure, xapi.TaskCancelled}, record.Status), err
}

// drop removes a task that nothing works on; the pool would keep it for a day.
func (r templateRemover) drop(ctx context.Context, task xapi.Ref) error {
	err := r.API.Call(ctx, "task.set_status", nil, task, xapi.TaskCancelled)
	if err == nil {
		err = r.API.Call(ctx, "task.destroy", nil, task)
	}
	return xapi.UnlessGone(ctx, r.API, "task", task, err)
}

func (r templateRemover) destroyAll(ctx context.Context, refs []xapi.Ref) error {
	for _, ref := range refs {
		if err := r.destroy(ctx, ref); err != nil {
			return err
		}
	}
	return nil
}

// destroyDisks removes disks of an import that ended before they had a VM: xapi makes them first. A copy of such a disk may bear the
// note as well, so that only an import counts whose VM was never known, and only disks that no VM has.
func (r templateRemover) destroyDisks(ctx context.Context, o state.Object) error {
	if o.UUID != "" {
		return nil
	}
	vdis, err := xapi.AllRecords[xapi.VDI](ctx, r.API, "VDI")
	for ref, vdi := range vdis {
		if vdi.SMConfig[xapi.ImportTaskKey] == o.Origin && len(vdi.VBDs) == 0 {
			err = errors.Join(err, xapi.DestroyVDI(ctx, r.API, ref))
		}
	}
	return err
}

// made finds the template of a record. The pool notes in each VM the import that it is of; copies of a VM have that note too, so
// that of several none is touched.
func (r templateRemover) made(ctx context.Context, o state.Object) ([]xapi.Ref, error) {
	vms, err := xapi.AllRecords[xapi.VM](ctx, r.API, "VM")
	if err != nil {
		return nil, err
	}
	var refs []xapi.Ref
	for ref, vm := range vms {
		if vm.OtherConfig[xapi.ImportTaskKey] == o.Origin && (o.UUID == "" || o.UUID == vm.UUID) {
			refs = append(refs, ref)
		}
	}
	if len(refs) > 1 {
		return nil, fmt.Errorf("%d VMs in pool %s are of one import: %w: remove those that nobody needs", len(refs), r.Name, ErrStranger)
	}
	return refs, nil
}

// destroy removes a template with its disk, the disk first because the VM leads to it. A VM that is not wholly a delegate's
// template of ours, or is being imported under a record of ours, is left alone: an ErrStranger.
func (r templateRemover) destroy(ctx context.Context, ref xapi.Ref) error {
	vm, err := xapi.GetRecord[xapi.VM](ctx, r.API, "VM", ref)
	if err != nil {
		return xapi.UnlessGone(ctx, r.API, "VM", ref, err)
	}
	installation := r.Store.Installation().UUID
	marker, ownership, _ := replica.Read(installation, vm.UUID, vm.OtherConfig) // a malformed one has not been finished, here and below
	if !vm.IsATemplate || vm.IsASnapshot || marker.Kind != replica.KindDelegateTemplate || marker.Self != "" && ownership != replica.Ours {
		return fmt.Errorf("VM %s (%s) in pool %s: %w: it is no delegate's template of ours; remove it by hand if nobody needs it",
			vm.NameLabel, vm.UUID, r.Name, ErrStranger)
	}
	disk, err := bootDisk(ctx, r.API, vm)
	if err != nil {
		return err
	}
	if disk != nil {
		marker, ownership, _ := replica.Read(installation, disk.vdi.UUID, disk.vdi.OtherConfig)
		own := marker.Self == "" || ownership == replica.Ours && marker.Kind == replica.KindTemplateDisk
		if !own || slices.ContainsFunc(disk.vdi.VBDs, func(vbd xapi.Ref) bool { return vbd != disk.vbd }) {
			return fmt.Errorf("disk %s of %s: %w: it is another's, or attached to another VM as well; detach it there",
				disk.vdi.UUID, vm.NameLabel, ErrStranger)
		}
		if err := xapi.DestroyVDI(ctx, r.API, disk.ref); err != nil {
			return err
		}
	}
	return xapi.Destroy(ctx, r.API, "VM", ref)
}
