package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// A base begins as a disk of the run's snapshot and is a VDI of its own in the end, without data:
//
//	recorded as an object of the run ─▶ marked ─▶ the snapshot's VM and other disks go ─▶ VDI.data_destroy
//	  ─▶ one transaction: the replica is clean, names the base, keeps it; the base before becomes an object of the run
//	  ─▶ the run removes what it does not keep
//
// Killed before the transaction, the new one is removed and the old one stays; after it, the other way round.

// keepBases makes the bases of the next run. Where it cannot the run goes on without, which is an event: it returns an error only when
// ctx ends.
func (r *run) keepBases(ctx context.Context) (bases []state.CBTBase, objects []state.Object, err error) {
	if r.request.CBT == CBTOff {
		return nil, nil, nil
	}
	var made []*diskRun
	for _, d := range r.disks {
		distrusted := d.cbt.disabled
		if last := d.cbt.last; distrusted == "" && last != nil {
			distrusted = last.Distrusted
		}
		switch {
		case distrusted != "":
			bases = append(bases, state.CBTBase{Disk: d.plan.Disk, SourceVDI: d.plan.SourceVDI, Generation: r.generation, Distrusted: distrusted})
		case d.cbt.tracked:
			made = append(made, d)
		}
	}
	if len(made) == 0 {
		return bases, nil, nil
	}
	recorded, err := r.recordBases(ctx, made)
	if err == nil {
		err = r.dropSnapshot(ctx, made)
	}
	for i, d := range made {
		failure := err
		if failure == nil {
			failure = stripData(ctx, r.source.API, d.snapshot.ref)
		}
		switch {
		case ctx.Err() != nil:
			return nil, nil, errors.Join(context.Cause(ctx), failure)
		case failure != nil:
			r.report.event(causeCBTBaseFailed, "disk %s: the next run reads everything: what changes could be tracked since could not be kept: %v", d.plan.Disk, failure)
			continue
		case d.cbt.changed == nil:
			r.report.event(causeCBTBegun, "disk %s: changes are tracked from now on, and the next run reads only those", d.plan.Disk)
		}
		bases = append(bases, state.CBTBase{Disk: d.plan.Disk, SourceVDI: d.plan.SourceVDI, VDI: d.snapshot.vdi.UUID, Generation: r.generation, Slice: d.cbt.slice})
		objects = append(objects, recorded[i])
	}
	return bases, objects, nil
}

// recordBases records disks of the snapshot as bases, and marks them as such.
func (r *run) recordBases(ctx context.Context, disks []*diskRun) (recorded []state.Object, err error) {
	for _, d := range disks {
		_, object, err := create(ctx, r.saga, creation{
			pool: r.source, class: classVDI, kind: replica.KindCBTBase, origin: d.plan.SourceVDI,
			call: func(context.Context, string, maker) (xapi.Ref, error) { return d.snapshot.ref, nil }, // it is there
		})
		if err != nil {
			return nil, err
		}
		recorded = append(recorded, object)
		err = r.mark(ctx, r.source.API, classVDI, d.snapshot.ref, replica.Marker{
			Kind: replica.KindCBTBase, Self: d.snapshot.vdi.UUID, Source: d.plan.SourceVDI, Disk: d.plan.Disk, State: manifest.State{Generation: r.generation},
		})
		if err != nil {
			return nil, err
		}
	}
	return recorded, nil
}

// dropSnapshot removes the snapshot's VM, and those of its disks that are to be no bases.
func (r *run) dropSnapshot(ctx context.Context, bases []*diskRun) error {
	for _, d := range r.disks {
		vdi, err := xapi.GetRecord[xapi.VDI](ctx, r.source.API, classVDI, d.snapshot.ref)
		if err == nil {
			err = heldByOthers(ctx, r.source.API, vdi, func(holder xapi.Ref, _ xapi.VM) bool { return holder == r.snapshotVM })
		}
		if err != nil {
			return err
		}
	}
	for _, d := range r.disks {
		if slices.Contains(bases, d) {
			continue
		}
		if err := xapi.DestroyVDI(ctx, r.source.API, d.snapshot.ref); err != nil {
			return err
		}
	}
	return xapi.Destroy(ctx, r.source.API, classVM, r.snapshotVM)
}

// stripData frees a snapshot's data; what changed up to it stays known (xapi-facts §11).
func stripData(ctx context.Context, api xapi.API, ref xapi.Ref) error {
	stripped := xapi.Record(api, classVDI, ref, func(v xapi.VDI) bool { return v.Type == xapi.VDITypeCBTMetadata })
	return xapi.Ensure(ctx, api, "VDI.data_destroy", stripped, ref)
}

// removeBase removes what is recorded as a base and is none. One that is still a disk of a snapshot goes with that.
func (u undoer) removeBase(ctx context.Context, o state.Object) error {
	if o.UUID == "" {
		return nil
	}
	return u.each(ctx, o, func(api xapi.API, ref xapi.Ref) error {
		vdi, err := xapi.GetRecord[xapi.VDI](ctx, api, classVDI, ref)
		if err != nil || len(vdi.VBDs) > 0 {
			return err
		}
		return u.destroyBase(ctx, api, ref, vdi)
	})
}

// destroyBase destroys a base that no replica names. What does not say that it is one is left alone.
func (u undoer) destroyBase(ctx context.Context, api xapi.API, ref xapi.Ref, vdi xapi.VDI) error {
	if !u.isBase(vdi) {
		return fmt.Errorf("VDI %s: %w", vdi.UUID, ErrStranger)
	}
	if named, err := u.store.IsCBTBase(ctx, vdi.UUID); named || err != nil {
		return err
	}
	return xapi.DestroyVDI(ctx, api, ref)
}

// isBase reports whether a disk is a base of ours, that nothing holds.
func (u undoer) isBase(vdi xapi.VDI) bool {
	marker, owner, _ := replica.Read(u.installation, vdi.UUID, vdi.OtherConfig) // a malformed marker is not ours
	return owner == replica.Ours && marker.Kind == replica.KindCBTBase && len(vdi.VBDs) == 0 && (vdi.IsASnapshot || vdi.Type == xapi.VDITypeCBTMetadata)
}

// orphans are the bases in a pool that no replica names, and no run has made or is to remove: their replica was forgotten, or the state
// database was restored. The pool is looked at first, so that a base which is made meanwhile is none.
func (u undoer) orphans(ctx context.Context, pool *delegate.Pool) (found []xapi.Ref, err error) {
	for _, ref := range slices.Sorted(maps.Keys(pool.Inventory.VDIs)) {
		if u.isBase(pool.Inventory.VDIs[ref]) {
			found = append(found, ref)
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	used, err := u.store.BasesInUse(ctx)
	return slices.DeleteFunc(found, func(ref xapi.Ref) bool { return used[pool.Inventory.VDIs[ref].UUID] }), err
}

// CollectedBase is a base that no replica names.
type CollectedBase struct {
	Pool string `json:"pool"` // uuid
	UUID string `json:"uuid"`
}

// CollectBases removes the bases in these pools that no replica names any more, and ends the tracking of disks that was switched on by us
// and that nobody needs: their replica was forgotten, or the state database was restored. In a dry run it changes nothing. It returns
// what it removed, or would; the error joins what could not be done.
func (e *Engine) CollectBases(ctx context.Context, dry bool, pools ...*delegate.Pool) ([]CollectedBase, error) {
	var fresh []*delegate.Pool // a view from before runs were recovered would have what these removed
	for _, p := range pools {
		pool := *p
		pool.Inventory = nil
		fresh = append(fresh, &pool)
	}
	answering, failure := load(ctx, fresh)
	all := []CollectedBase{}
	for _, pool := range answering {
		removed, err := collectBases(ctx, e.Store, pool, dry)
		for _, uuid := range removed {
			all = append(all, CollectedBase{Pool: pool.Inventory.UUID, UUID: uuid})
		}
		failure = errors.Join(failure, err)
	}
	return all, failure
}

// collectBases is CollectBases for one pool, as it was when it was looked at.
func collectBases(ctx context.Context, store *state.Store, pool *delegate.Pool, dry bool) (removed []string, failure error) {
	u := undoer{installation: store.Installation().UUID, store: store}
	orphans, err := u.orphans(ctx, pool)
	if err != nil {
		return nil, err
	}
	for _, ref := range orphans {
		known := pool.Inventory.VDIs[ref]
		if dry {
			removed = append(removed, known.UUID)
			continue
		}
		vdi, err := xapi.GetRecord[xapi.VDI](ctx, pool.API, classVDI, ref)
		if xapi.IsGone(err, ref) {
			continue
		}
		if err == nil {
			err = xapi.UnlessGone(ctx, pool.API, classVDI, ref, u.destroyBase(ctx, pool.API, ref, vdi))
		}
		if err != nil {
			failure = errors.Join(failure, fmt.Errorf("base %s: %w", known.UUID, err))
			continue
		}
		removed = append(removed, known.UUID)
	}
	if dry {
		return removed, failure
	}
	return removed, errors.Join(failure, endTracking(ctx, store, pool, nil))
}

// endTracking switches the tracking of disks off that nobody needs: of those that are named, and of those whose replica is forgotten.
// Only what was switched on by us is switched off.
func endTracking(ctx context.Context, store *state.Store, pool *delegate.Pool, named []string) (failure error) {
	ours, err := store.Tracked(ctx, pool.Inventory.UUID)
	if err != nil {
		return err
	}
	for _, t := range ours {
		if !t.Idle && (t.Used || !slices.Contains(named, t.VDI)) {
			continue
		}
		ref, err := xapi.GetByUUID(ctx, pool.API, classVDI, t.VDI)
		if err == nil {
			off := xapi.Record(pool.API, classVDI, ref, func(v xapi.VDI) bool { return !v.CBTEnabled })
			err = xapi.UnlessGone(ctx, pool.API, classVDI, ref, xapi.Ensure(ctx, pool.API, "VDI.disable_cbt", off, ref))
		}
		if xapi.IsCode(err, codeUUIDInvalid) {
			err = nil
		}
		if err == nil {
			err = store.ForgetTracked(ctx, pool.Inventory.UUID, t.VDI)
		}
		if err != nil {
			failure = errors.Join(failure, fmt.Errorf("switching the tracking of VDI %s off: %w", t.VDI, err))
		}
	}
	return failure
}

// tidyBases removes what is left of change tracking and of no use any more, at the end of a run: bases that no replica names, and the
// tracking of disks that are not to be tracked, or not the VM's any more.
func (r *run) tidyBases(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	var named []string
	for _, b := range r.bases {
		if !slices.ContainsFunc(r.disks, func(d *diskRun) bool { return d.plan.SourceVDI == b.SourceVDI }) {
			named = append(named, b.SourceVDI)
		}
	}
	for _, d := range r.disks {
		if last := d.cbt.last; r.request.CBT == CBTOff || d.cbt.disabled != "" || last != nil && last.Distrusted != "" {
			named = append(named, d.plan.SourceVDI)
		}
	}
	removed, err := collectBases(ctx, r.store, r.source, false)
	for _, uuid := range removed {
		r.report.event(causeCBTOrphan, "VDI %s, since which changes had been tracked for a replica that does not name it, was removed", uuid)
	}
	if err = errors.Join(err, endTracking(ctx, r.store, r.source, named)); err != nil {
		r.report.event("left-behind", "change tracking left something behind, recovery tries it again: %v", err)
	}
}
