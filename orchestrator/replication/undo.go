package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// ErrStranger says that an object which a record leads to is not, or no longer, what the record is about. It is left alone.
var ErrStranger = errors.New("not what the run made: left alone")

// Undoers gives what a saga needs to remove everything that a run makes in these pools, delegates among it, from the record
// alone. It removes no VM that has run, but delegates and the clones of tests, no disk that another VM holds, and nothing that a later run has taken over.
func Undoers(store *state.Store, pools ...*delegate.Pool) saga.Undoers {
	u := undoer{installation: store.Installation().UUID, store: store, pools: map[string]*delegate.Pool{}}
	for _, p := range pools {
		u.pools[p.Inventory.UUID] = p
	}
	undoers := saga.Undoers{
		string(replica.KindSnapshot):      u.removeSnapshot,
		string(replica.KindRestorePoint):  u.removeSnapshot,
		string(replica.KindDiverged):      u.removeSnapshot, // of a run that did not keep it
		string(replica.KindClone):         u.removeDisk,
		string(replica.KindSeed):          u.removeDisk,
		string(replica.KindCBTBase):       u.removeBase,
		string(replica.KindReplicaDisk):   u.removeDisk,
		string(replica.KindScratch):       u.removeDisk,
		string(replica.KindReplica):       u.removeReplica,
		kindPause:                         u.unpause,
		string(replica.KindRehearsal):     u.removeRehearsal,
		string(replica.KindRehearsalDisk): u.removeRehearsalDisk,
	}
	maps.Copy(undoers, delegate.Undoers(pools...))
	return undoers
}

type undoer struct {
	installation string
	store        *state.Store
	pools        map[string]*delegate.Pool
}

func (u undoer) api(o state.Object) (xapi.API, error) {
	pool, ok := u.pools[o.Pool]
	if !ok {
		return nil, fmt.Errorf("pool %s is not connected: connect it and try again", o.Pool)
	}
	return pool.API, nil
}

// find gives the objects that a record is about: none, or one.
func (u undoer) find(ctx context.Context, api xapi.API, o state.Object) ([]xapi.Ref, error) {
	if o.UUID != "" {
		ref, err := xapi.GetByUUID(ctx, api, o.Class, o.UUID)
		if xapi.IsCode(err, codeUUIDInvalid) {
			return nil, nil
		}
		return []xapi.Ref{ref}, err
	}
	origin, err := u.origin(ctx, api, o)
	if err != nil {
		return nil, err
	}
	refs, err := made(ctx, api, o.Class, replica.Kind(o.Kind), o.Name, origin)
	if err != nil {
		return nil, err
	}
	if len(refs) > 1 {
		return nil, fmt.Errorf("%d objects are called %s: %w; remove those that nobody needs", len(refs), o.Name, ErrStranger)
	}
	return refs, nil
}

// origin is the object that a clone was made of, and that bears the same name.
func (u undoer) origin(ctx context.Context, api xapi.API, o state.Object) (xapi.Ref, error) {
	if o.Kind != string(replica.KindClone) && o.Kind != string(replica.KindSeed) {
		return "", nil
	}
	ref, err := xapi.GetByUUID(ctx, api, o.Class, o.Origin)
	if xapi.IsCode(err, codeUUIDInvalid) {
		return "", nil
	}
	return ref, err
}

// claims checks that an object is still the one of the record: it bears the marker of the record's run, or was not marked yet
// and has the record's name. A replica that a later run has taken over bears that run's.
func (u undoer) claims(o state.Object, uuid, name string, otherConfig map[string]string) error {
	marker, owner, _ := replica.Read(u.installation, uuid, otherConfig) // a malformed marker is one that was not finished
	switch {
	case owner == replica.Ours && marker.Run == o.Run && string(marker.Kind) == o.Kind:
		return nil
	case owner != replica.Ours && name == o.Name:
		return nil
	}
	return fmt.Errorf("%s %s (%s): %w", o.Class, name, uuid, ErrStranger)
}

// removeSnapshot removes a snapshot with its disks. The VM goes last: it is what leads to the disks.
func (u undoer) removeSnapshot(ctx context.Context, o state.Object) error {
	return u.each(ctx, o, func(api xapi.API, ref xapi.Ref) error {
		vm, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, ref)
		if err != nil {
			return err
		}
		if err := u.claims(o, vm.UUID, vm.NameLabel, vm.OtherConfig); err != nil {
			return err
		}
		return destroySnapshot(ctx, api, ref, vm)
	})
}

// destroySnapshot destroys a snapshot VM with its disks, unless somebody else holds one of them.
func destroySnapshot(ctx context.Context, api xapi.API, ref xapi.Ref, vm xapi.VM) error {
	if !vm.IsASnapshot {
		return fmt.Errorf("VM %s (%s) is no snapshot: %w", vm.NameLabel, vm.UUID, ErrStranger)
	}
	disks, err := remainingDisks(ctx, api, vm)
	if err != nil {
		return err
	}
	for _, d := range disks {
		if err := heldByOthers(ctx, api, d.vdi, func(holder xapi.Ref, _ xapi.VM) bool { return holder == ref }); err != nil {
			return err
		}
	}
	for _, d := range disks {
		if err := xapi.DestroyVDI(ctx, api, d.ref); err != nil {
			return err
		}
	}
	return xapi.Destroy(ctx, api, classVM, ref)
}

// removeDisk removes a clone, a scratch disk, or a disk of a replica that never held data.
func (u undoer) removeDisk(ctx context.Context, o state.Object) error {
	return u.each(ctx, o, func(api xapi.API, ref xapi.Ref) error {
		vdi, err := xapi.GetRecord[xapi.VDI](ctx, api, classVDI, ref)
		if err != nil {
			return err
		}
		if err := u.claims(o, vdi.UUID, vdi.NameLabel, vdi.OtherConfig); err != nil {
			return err
		}
		if err := heldByOthers(ctx, api, vdi, u.isOurs); err != nil {
			return err
		}
		return xapi.DestroyVDI(ctx, api, ref)
	})
}

// isOurs reports whether a VM is a replica or a delegate of ours.
func (u undoer) isOurs(_ xapi.Ref, vm xapi.VM) bool {
	marker, owner, _ := replica.Read(u.installation, vm.UUID, vm.OtherConfig)
	return owner == replica.Ours && (marker.Kind == replica.KindReplica || marker.Kind == replica.KindDelegate)
}

// letGoTimeout is how long a control domain may take to give back a disk whose export or import was broken off (xapi-facts §10.6), and
// letGoPause the time between two looks.
const (
	letGoTimeout = 15 * time.Second
	letGoPause   = 100 * time.Millisecond
)

// letGo waits until a control domain has removed a VBD of its own, and reports whether it has.
func letGo(ctx context.Context, api xapi.API, vbd xapi.Ref) bool {
	ctx, cancel := context.WithTimeout(ctx, letGoTimeout)
	defer cancel()
	for {
		if err := api.Call(ctx, classVBD+".get_uuid", nil, vbd); xapi.IsGone(err, vbd) {
			return true
		}
		select {
		case <-time.After(letGoPause):
		case <-ctx.Done():
			return false
		}
	}
}

// heldByOthers is an ErrStranger when a VM that is not ours has a VBD of the disk.
func heldByOthers(ctx context.Context, api xapi.API, vdi xapi.VDI, ours func(xapi.Ref, xapi.VM) bool) error {
	for _, ref := range vdi.VBDs {
		vbd, err := xapi.GetRecord[xapi.VBD](ctx, api, classVBD, ref)
		if xapi.IsGone(err, ref) {
			continue
		} else if err != nil {
			return err
		}
		vm, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, vbd.VM)
		if xapi.IsGone(err, vbd.VM) {
			continue
		} else if err != nil {
			return err
		}
		if vm.IsControlDomain && letGo(ctx, api, ref) {
			continue
		}
		if !ours(vbd.VM, vm) {
			return fmt.Errorf("VDI %s is held by VM %s (%s): %w", vdi.UUID, vm.NameLabel, vm.UUID, ErrStranger)
		}
	}
	return nil
}

// removeReplica removes a replica VM that never held data. Its disks have records of their own.
func (u undoer) removeReplica(ctx context.Context, o state.Object) error {
	return u.each(ctx, o, func(api xapi.API, ref xapi.Ref) error {
		vm, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, ref)
		if err != nil {
			return err
		}
		if err := u.claims(o, vm.UUID, vm.NameLabel, vm.OtherConfig); err != nil {
			return err
		}
		metrics, err := xapi.GetRecord[xapi.VMMetrics](ctx, api, "VM_metrics", vm.Metrics)
		if err != nil {
			return err
		}
		if vm.PowerState != xapi.Halted || !metrics.StartTime.IsZero() {
			return fmt.Errorf("VM %s (%s) has run: %w", vm.NameLabel, vm.UUID, ErrStranger)
		}
		return xapi.Destroy(ctx, api, classVM, ref)
	})
}

// each calls remove for what a record is about. An object that goes meanwhile is undone.
func (u undoer) each(ctx context.Context, o state.Object, remove func(xapi.API, xapi.Ref) error) error {
	api, err := u.api(o)
	if err != nil {
		return err
	}
	refs, err := u.find(ctx, api, o)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		if err := xapi.UnlessGone(ctx, api, o.Class, ref, remove(api, ref)); err != nil {
			return err
		}
	}
	return nil
}
