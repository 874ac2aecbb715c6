package replication

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// mark applies our marker to an object.
func (r *run) mark(ctx context.Context, api xapi.API, class string, ref xapi.Ref, m replica.Marker) error {
	m.Installation, m.Run = r.store.Installation().UUID, r.id
	return replica.Apply(ctx, api, class, ref, m)
}

// prepareSource takes a snapshot of the source VM and clones its disks. The snapshot is what the run is about and stays
// untouched; the clones are for plugging, since an HVM guest takes no read-only disk while it runs (xapi-facts §14.18). A pool exports
// the snapshot's disks themselves.
func (r *run) prepareSource(ctx context.Context) error {
	api := r.source.API
	if err := r.readBases(ctx); err != nil {
		return err
	}
	if err := r.trackChanges(ctx); err != nil {
		return err
	}
	ref, object, err := create(ctx, r.saga, creation{
		pool: r.source, class: classVM, kind: replica.KindSnapshot, origin: r.vm.UUID,
		call: func(ctx context.Context, name string, creating maker) (ref xapi.Ref, err error) {
			err = r.atRest(ctx, func(ctx context.Context) error {
				ref, err = snapshotOf(api, r.vm.Ref)(ctx, name, creating)
				return err
			})
			return ref, err
		},
	})
	if err != nil {
		return err
	}
	r.snapshotVM = ref
	err = r.mark(ctx, api, classVM, ref, replica.Marker{Kind: replica.KindSnapshot, Self: object.UUID, Source: r.vm.UUID})
	if err != nil {
		return err
	}
	snapshot, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, ref)
	if err != nil {
		return err
	}
	disks, err := disksOf(ctx, api, snapshot)
	if err != nil {
		return err
	}
	if err := r.checkDisks(disks); err != nil {
		return err
	}
	r.noteSnapshot(snapshot, disks)
	for i, d := range disks {
		if err := r.cloneDisk(ctx, r.disks[i], d); err != nil {
			return err
		}
	}
	return r.askChanged(ctx)
}

// checkDisks makes sure that the snapshot has the disks that were planned for.
func (r *run) checkDisks(disks []heldDisk) error {
	if len(disks) != len(r.disks) {
		return fmt.Errorf("VM %s has %d disks now, it had %d: %w", r.vm.NameLabel, len(disks), len(r.disks), ErrChanged)
	}
	for i, d := range disks {
		if plan := r.disks[i].plan; d.number != plan.Disk || d.vdi.VirtualSize != plan.Size {
			return fmt.Errorf("disk %s of VM %s has %d bytes now, disk %s had %d: %w",
				d.number, r.vm.NameLabel, d.vdi.VirtualSize, plan.Disk, plan.Size, ErrChanged)
		}
	}
	return nil
}

// cloneDisk marks a disk of the snapshot and clones it, unless its pool is to read it.
func (r *run) cloneDisk(ctx context.Context, d *diskRun, from heldDisk) error {
	api := r.source.API
	d.snapshot = from
	err := r.mark(ctx, api, classVDI, from.ref, replica.Marker{
		Kind: replica.KindSnapshotDisk, Self: from.vdi.UUID, Source: d.plan.SourceVDI, Disk: d.plan.Disk,
	})
	if err != nil {
		return err
	}
	if r.plan.Method == report.Standard {
		return nil
	}
	ref, object, err := create(ctx, r.saga, creation{
		pool: r.source, class: classVDI, kind: replica.KindClone, origin: from.vdi.UUID, except: from.ref,
		call: func(ctx context.Context, name string, creating maker) (xapi.Ref, error) {
			return cloneNamed(ctx, api, from.ref, from.vdi.NameLabel, name, creating)
		},
	})
	if err != nil {
		return err
	}
	d.clone = ref
	return r.mark(ctx, api, classVDI, ref, replica.Marker{
		Kind: replica.KindClone, Self: object.UUID, Source: from.vdi.UUID, Disk: d.plan.Disk,
	})
}

// cloneNamed clones a disk under a name. VDI.clone takes none, the clone gets that of its original: so the original bears it
// meanwhile.
func cloneNamed(ctx context.Context, api xapi.API, from xapi.Ref, itsName, name string, creating maker) (xapi.Ref, error) {
	if err := setField(ctx, api, classVDI, from, "name_label", name); err != nil {
		return "", err
	}
	ref, err := creating(ctx, "VDI.clone", from, map[string]string{})
	if back := setField(ctx, api, classVDI, from, "name_label", itsName); err == nil {
		err = back
	}
	return ref, err
}
