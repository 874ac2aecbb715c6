package replication

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// diskRun is one disk of a run.
type diskRun struct {
	*run
	plan DiskPlan

	snapshot                   heldDisk // the snapshot's disk
	clone                      xapi.Ref // of the snapshot's disk, in the source pool, by the enhanced one
	vdi                        xapi.Ref // of the replica, in the target pool
	uuid                       string   // of that
	sourceNumber, targetNumber int      // positions in the delegates

	base     *state.View        // the cached manifest; nil: none, or none that counts
	past     *state.JournalView // what was journalled before this transfer
	known    []manifest.Digest  // extent digests against which the transfer reports; nil: every extent is reported
	journal  *state.Journal
	manifest state.Manifest // what the run leads to
	moved    bool           // the manifest is there
	// readBackDone: what is to be read back of it was, and is right
	readBackDone bool
	received     atomic.Int64 // bytes that exports gave

	cbt tracking

	start   uint32      // extent from which the next transfer goes on
	resumed bool        // an earlier transfer of this run may have written beyond it
	before  report.Disk // what was counted in those transfers
	reach   uint32      // no transfer of this run has written at or above it
}

// close gives back what the disk holds open in the state directory.
func (d *diskRun) close() error {
	if d.base != nil {
		d.base.Close()
		d.base = nil
	}
	if d.past != nil {
		d.past.Close()
		d.past = nil
	}
	if d.journal == nil {
		return nil
	}
	journal := d.journal
	d.journal = nil
	return journal.Close()
}

// prepareTarget makes sure of the replica VM and its disks.
func (r *run) prepareTarget(ctx context.Context) error {
	if r.standby == nil {
		if err := r.makeReplica(ctx); err != nil {
			return err
		}
	} else {
		r.standbyRef, r.standbyUUID = r.standby.vm.Ref, r.standby.vm.UUID
	}
	r.report.change(func(run *report.Run) { run.Replica.UUID = r.standbyUUID })
	if err := r.makeRoom(ctx); err != nil {
		return err
	}
	for _, name := range r.plan.Removed {
		if err := r.detach(ctx, name); err != nil {
			return err
		}
	}
	for i, d := range r.disks {
		if err := r.prepareDisk(ctx, d, r.subject.disks[i]); err != nil {
			return fmt.Errorf("disk %s of the replica: %w", d.plan.Disk, err)
		}
	}
	return nil
}

// prepareDisk makes a disk of the replica, or makes sure of its size and place.
func (r *run) prepareDisk(ctx context.Context, d *diskRun, source inventory.Disk) error {
	known, exists := r.standbyDisks[d.plan.Disk]
	if exists {
		d.vdi, d.uuid = known.VDIRef, known.VDI.UUID
		if known.VDI.VirtualSize < d.plan.Size {
			grown := xapi.Record(r.target.API, classVDI, d.vdi, func(v xapi.VDI) bool { return v.VirtualSize >= d.plan.Size })
			if err := xapi.Ensure(ctx, r.target.API, "VDI.resize", grown, d.vdi, d.plan.Size); err != nil {
				return err
			}
			r.report.event("disk-grown", "disk %s grew to %d bytes with its source", d.plan.Disk, d.plan.Size)
		}
	} else if err := r.makeDisk(ctx, d, source); err != nil {
		return err
	}
	if err := r.checkSize(ctx, d); err != nil {
		return err
	}
	err := r.store.PutDisk(ctx, r.record.ID, state.Disk{
		Disk: d.plan.Disk, SourceVDI: d.plan.SourceVDI, TargetVDI: d.uuid, LogicalSize: d.plan.Size,
	})
	if err != nil {
		return err
	}
	if exists && !known.VBDRef.IsNull() {
		return nil
	}
	return r.attach(ctx, d, source)
}

// makeDisk creates a disk of the logical size; the SR rounds it up.
func (r *run) makeDisk(ctx context.Context, d *diskRun, source inventory.Disk) error {
	api := r.target.API
	marker := replica.Marker{
		Installation: r.store.Installation().UUID, Run: r.id, Kind: replica.KindReplicaDisk, Source: d.plan.SourceVDI, Disk: d.plan.Disk,
	}
	ref, object, err := create(ctx, r.saga, creation{
		pool: r.target, class: classVDI, kind: replica.KindReplicaDisk, origin: d.plan.SourceVDI,
		call: func(ctx context.Context, name string, creating maker) (xapi.Ref, error) {
			return createDisk(ctx, creating, r.diskSR(d.plan.Disk).Ref, name, d.plan.Size, marker)
		},
	})
	if err != nil {
		return err
	}
	d.vdi, d.uuid = ref, object.UUID
	r.made = append(r.made, object)
	marker.Self = object.UUID
	if err := r.mark(ctx, api, classVDI, ref, marker); err != nil {
		return err
	}
	return setField(ctx, api, classVDI, ref, "name_label", source.VDI.NameLabel)
}

// createDisk creates a disk that bears its marker, but for its own uuid, from the first moment.
func createDisk(ctx context.Context, creating maker, sr xapi.Ref, name string, size int64, marker replica.Marker) (xapi.Ref, error) {
	return creating(ctx, "VDI.create", map[string]any{
		"name_label": name, "name_description": "", "SR": sr, "virtual_size": size, "type": "user",
		"sharable": false, "read_only": false, "other_config": marker.OtherConfig(), "tags": []string{},
		"xenstore_data": map[string]string{}, "sm_config": map[string]string{},
	})
}

// checkSize reads back what the SR made of the size.
func (r *run) checkSize(ctx context.Context, d *diskRun) error {
	var size int64
	if err := r.target.API.Call(ctx, "VDI.get_virtual_size", &size, d.vdi); err != nil {
		return err
	}
	if size < d.plan.Size {
		return fmt.Errorf("VDI %s on SR %s has %d bytes, its source %d: scan the SR, or choose another", d.uuid, d.plan.SRName, size, d.plan.Size)
	}
	return nil
}

// detach takes a disk off the replica that its source has no more. The disk is kept: it may be wanted back.
func (r *run) detach(ctx context.Context, name string) error {
	i := slices.IndexFunc(r.record.Disks, func(d state.Disk) bool { return d.Disk == name })
	ours := r.record.Disks[i].TargetVDI
	var held inventory.Disk
	if r.standby != nil {
		held = r.standby.disks[name]
	}
	switch {
	case held.VBDRef.IsNull():
	case held.VDI.UUID != ours:
		r.report.event("foreign-disk", "disk %s of the replica VM is VDI %s, which is not ours: it is left alone", name, held.VDI.UUID)
	default:
		if err := xapi.Destroy(ctx, r.target.API, classVBD, held.VBDRef); err != nil {
			return fmt.Errorf("disk %s, which the source has no more: %w", name, err)
		}
	}
	r.report.event("disk-removed", "the source has no disk %s any more, and the replica none either; its VDI %s is kept, destroy it when nobody needs it",
		name, ours)
	return r.store.RemoveDisk(ctx, r.record.ID, name)
}
