package replication

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Changed block tracking (CBT) is a hint: the pool tells which blocks of a disk were written since a snapshot, and what it does not
// name is not read but taken to be as the manifest has it.
//
//	run n     snapshot ─▶ replica, clean(generation n), manifest n
//	             └─ at the commit its data goes, the record stays: the base, bound to generation n
//	run n+1   snapshot ─▶ what changed since the base ─▶ read: those blocks, and a slice of the others ─▶ its own base
//
// A bitmap counts only for a replica whose manifest is of exactly the base's generation. Whatever is not so is an event, and everything
// is read. What runs which came to nothing wrote to the replica since is read as a whole, besides.

// CBT says whether the change tracking of the source's storage is used.
type CBT string

// The choices.
const (
	CBTOn  CBT = "on"  // where it is to be had; the default
	CBTOff CBT = "off" // what earlier runs kept for it goes, and tracking that they switched on is switched off
)

// Valid reports whether c is one of the choices, or empty: on.
func (c CBT) Valid() bool { return c == "" || c == CBTOn || c == CBTOff }

// The causes of events about change tracking. They are stable.
const (
	causeCBTUnavailable = "cbt-unavailable"  // tracking cannot be switched on
	causeCBTBegun       = "cbt-begun"        // the next run reads only what changes
	causeCBTSwitchedOff = "cbt-switched-off" // somebody, or the storage, gave tracking up
	causeCBTOtherDisk   = "cbt-other-disk"   // the source has another disk: it was reverted, or its disk swapped
	causeCBTResized     = "cbt-resized"      // the disk has another size
	causeCBTGeneration  = "cbt-generation"   // the replica is not of the base's generation
	causeCBTBaseGone    = "cbt-base-gone"    // the base is not there, or not ours
	causeCBTChainLost   = "cbt-chain-lost"   // the pool cannot tell what changed since the base
	causeCBTBitmap      = "cbt-bitmap"       // what it told cannot be of the disk
	causeCBTDistrusted  = "cbt-distrusted"   // a bitmap was wrong before
	causeCBTBaseFailed  = "cbt-base-failed"  // this run leaves no base
	causeCBTOrphan      = "cbt-orphan"       // a base that no replica named was removed
)

// tracking is what is known of one disk's change tracking.
type tracking struct {
	last     *state.CBTBase // that the last commit left; nil: none
	tracked  bool           // the snapshot's disk can be the next base
	changed  *blockio.AllocationMap
	slice    uint32 // of the next run
	disabled string // why the hint was wrong
	assumed  bool   // something was not read
}

// lost tells why the bitmap is of no use.
func (d *diskRun) lost(cause, format string, args ...any) {
	d.report.event(cause, "disk %s: everything is read, not only what changed: %s", d.plan.Disk, fmt.Sprintf(format, args...))
}

// sourceDisk is the disk of the source, as it was when the run was planned.
func (d *diskRun) sourceDisk() inventory.Disk {
	disks := d.subject.disks
	return disks[slices.IndexFunc(disks, func(s inventory.Disk) bool { return diskName(s.Number) == d.plan.Disk })]
}

// tracks reports whether the run uses change tracking. By the standard method everything is read, so that there is nothing to spare.
func (r *run) tracks() bool { return r.request.CBT != CBTOff && r.plan.Method != report.Standard }

// readBases reads what the last commit left.
func (r *run) readBases(ctx context.Context) error {
	bases, err := r.store.CBTBases(ctx, r.record.ID)
	if err != nil {
		return err
	}
	r.bases = bases
	for _, d := range r.disks {
		for _, b := range bases {
			if b.Disk == d.plan.Disk {
				d.cbt.last, d.cbt.slice = &b, b.Slice
			}
		}
	}
	return nil
}

// trackChanges has the pool track the changes of the source's disks, from the snapshot on that comes next. That it cannot is an event.
func (r *run) trackChanges(ctx context.Context) error {
	if !r.tracks() {
		return nil
	}
	ours, err := r.store.Tracked(ctx, r.source.Inventory.UUID)
	if err != nil {
		return err
	}
	for _, d := range r.disks {
		source, last := d.sourceDisk(), d.cbt.last
		byUs := slices.ContainsFunc(ours, func(t state.Tracked) bool { return t.VDI == source.VDI.UUID })
		switch {
		case last != nil && last.Distrusted != "":
			d.report.event(causeCBTDistrusted, "disk %s: everything is read: change tracking was wrong before and is not relied upon any more: %s; "+
				"a run without it (--cbt=off) has it forgotten", d.plan.Disk, last.Distrusted)
		case source.VDI.CBTEnabled && byUs: // maybe for a replica that is no more
			err = r.store.NoteTracked(ctx, r.record.ID, r.source.Inventory.UUID, source.VDI.UUID)
		case !source.VDI.CBTEnabled:
			err = d.enableCBT(ctx, source)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *diskRun) enableCBT(ctx context.Context, source inventory.Disk) error {
	api, pool, uuid := d.source.API, d.source.Inventory.UUID, source.VDI.UUID
	if last := d.cbt.last; last != nil && last.SourceVDI == uuid {
		d.lost(causeCBTSwitchedOff, "change tracking was switched off since the last run, by its storage after a crash or for want of room (the pool's messages tell), or by somebody")
		d.cbt.last = nil
	}
	if err := d.store.NoteTracked(ctx, d.record.ID, pool, uuid); err != nil {
		return err
	}
	err := xapi.Ensure(ctx, api, "VDI.enable_cbt", xapi.Record(api, classVDI, source.VDIRef, func(v xapi.VDI) bool { return v.CBTEnabled }), source.VDIRef)
	if err == nil || ctx.Err() != nil {
		return err
	}
	d.report.event(causeCBTUnavailable, "disk %s: everything is read: its changes cannot be tracked: %s", d.plan.Disk, whyUntracked(err))
	return d.store.ForgetTracked(ctx, pool, uuid)
}

// whyUntracked explains a refusal of VDI.enable_cbt (xapi-facts §11).
func whyUntracked(err error) string {
	switch {
	case xapi.IsCode(err, "LICENCE_RESTRICTION"):
		return fmt.Sprintf("the pool's licence does not include change tracking (%v)", err)
	case xapi.IsCode(err, "SR_OPERATION_NOT_SUPPORTED", "SR_BACKEND_FAILURE_66"):
		return fmt.Sprintf("its SR has no change tracking (%v)", err)
	case xapi.IsCode(err, "MESSAGE_METHOD_UNKNOWN"):
		return "the pool is older than change tracking (XenServer 7.3)"
	}
	return err.Error()
}

// askChanged asks what changed since the bases. It comes after the snapshot.
func (r *run) askChanged(ctx context.Context) error {
	if !r.tracks() {
		return nil
	}
	for _, d := range r.disks {
		if err := d.askChanged(ctx); err != nil && ctx.Err() != nil {
			return err
		} else if err != nil {
			d.lost(causeCBTChainLost, "%v", err)
		}
	}
	return nil
}

func (d *diskRun) askChanged(ctx context.Context) error {
	if last := d.cbt.last; last != nil && last.Distrusted != "" {
		return nil
	}
	snapshot, err := xapi.GetRecord[xapi.VDI](ctx, d.source.API, classVDI, d.snapshot.ref)
	if err != nil {
		return err
	}
	d.cbt.tracked = snapshot.CBTEnabled
	if cause, why := d.unrelated(); why != "" {
		d.lost(cause, "%s", why)
		return nil
	}
	last := d.cbt.last
	if last == nil {
		return nil
	}
	if !d.cbt.tracked {
		d.lost(causeCBTSwitchedOff, "the storage gave change tracking up when the snapshot was taken; the pool's messages tell why")
		return nil
	}
	base, why, err := d.findBase(ctx, *last)
	if why != "" || err != nil {
		if why != "" {
			d.lost(causeCBTBaseGone, "%s", why)
		}
		return err
	}
	var encoded string
	if err := d.source.API.Call(ctx, "VDI.list_changed_blocks", &encoded, base, d.snapshot.ref); err != nil {
		return fmt.Errorf("the pool cannot tell what changed since the last run: %w", err)
	}
	bitmap, err := base64.StdEncoding.DecodeString(encoded)
	if want := bitmapBytes(snapshot.VirtualSize); err == nil && len(bitmap) != want {
		err = fmt.Errorf("it has %d bytes, a disk of %d bytes has %d", len(bitmap), snapshot.VirtualSize, want)
	}
	if err == nil {
		d.cbt.changed, err = blockio.ParseBitmap(bitmap, d.plan.Size)
	}
	if err != nil {
		d.lost(causeCBTBitmap, "the bitmap of what changed is not of the disk: %v", err)
	}
	return nil
}

// bitmapBytes is the length of the bitmap of a disk of so many bytes (xapi-facts §11).
func bitmapBytes(size int64) int {
	return int(((size+blockio.AllocationUnit-1)/blockio.AllocationUnit + 7) / 8)
}

// unrelated tells why the base says nothing of the disk, or of the replica, as they are now.
func (d *diskRun) unrelated() (cause, why string) {
	last := d.cbt.last
	if last == nil {
		return "", ""
	}
	i := slices.IndexFunc(d.record.Disks, func(k state.Disk) bool { return k.Disk == d.plan.Disk })
	if i < 0 {
		return causeCBTGeneration, "nothing is known of the replica's disk"
	}
	switch known := d.record.Disks[i]; {
	case last.SourceVDI != d.plan.SourceVDI:
		return causeCBTOtherDisk, fmt.Sprintf("the VM's disk is VDI %s, it was %s: the VM was reverted, or its disk replaced", d.plan.SourceVDI, last.SourceVDI)
	case known.LogicalSize != d.plan.Size:
		return causeCBTResized, fmt.Sprintf("the disk has %d bytes, it had %d", d.plan.Size, known.LogicalSize)
	case !known.State.Valid():
		return causeCBTGeneration, "the replica was to be compared anew"
	case !known.State.Dirty && known.State.Generation != last.Generation:
		return causeCBTGeneration, fmt.Sprintf("the replica is of generation %s, changes are tracked since %s: it was reverted, or committed without", known.State.Generation, last.Generation)
	}
	return "", ""
}

// findBase finds the base in the pool.
func (d *diskRun) findBase(ctx context.Context, last state.CBTBase) (ref xapi.Ref, why string, err error) {
	ref, err = xapi.GetByUUID(ctx, d.source.API, classVDI, last.VDI)
	if xapi.IsCode(err, codeUUIDInvalid) {
		return "", fmt.Sprintf("VDI %s, since which changes were tracked, is gone", last.VDI), nil
	} else if err != nil {
		return "", "", err
	}
	vdi, err := xapi.GetRecord[xapi.VDI](ctx, d.source.API, classVDI, ref)
	if err != nil {
		return "", "", err
	}
	marker, owner, _ := replica.Read(d.store.Installation().UUID, vdi.UUID, vdi.OtherConfig)
	if want := (manifest.State{Generation: last.Generation}); owner != replica.Ours || marker.Kind != replica.KindCBTBase || marker.State != want {
		return "", fmt.Sprintf("VDI %s, since which changes were tracked, does not say that it is of generation %s", last.VDI, last.Generation), nil
	}
	return ref, "", nil
}

// hint is what the source's delegate is told; nil: it reads everything. The replica's manifest and journal must be open.
func (d *diskRun) hint() (*control.Hint, error) {
	if d.cbt.changed == nil {
		return nil, nil
	}
	last := *d.cbt.last
	header := manifest.Header{}
	if d.base != nil {
		header = d.base.Header()
	}
	if d.plan.Baseline == BaselineZero || d.known == nil || header.Generation != last.Generation || header.Geometry.Size != d.plan.Size {
		d.lost(causeCBTGeneration, "there is no manifest of generation %s, since which changes are tracked, to have the rest from", last.Generation)
		d.cbt.changed = nil
		return nil, nil
	}
	marked := d.cbt.changed.Clone()
	mark := func(extent uint32) { marked.Mark(int64(extent)*manifest.ExtentSize, manifest.ExtentSize) }
	for extent, known := range d.known {
		if known == (manifest.Digest{}) {
			mark(uint32(extent))
		}
	}
	for record, err := range d.past.Records() {
		if err != nil {
			return nil, err
		}
		mark(record.Extent) // what is known of it is not the manifest's
	}
	encoded := marked.Append(nil)
	for unit := int64(manifest.ExtentSize); len(encoded) > control.MaxHint; unit *= 2 {
		marked = coarser(marked, unit)
		encoded = marked.Append(nil)
	}
	d.report.disk(d.plan.Disk, func(disk *report.Disk) { disk.Hinted = marked.Bytes() })
	return &control.Hint{Kind: control.HintChanged, Base: last.Generation, Map: encoded, Slice: last.Slice}, nil
}

// coarser marks whole units of so many bytes.
func coarser(m *blockio.AllocationMap, unit int64) *blockio.AllocationMap {
	marked := blockio.NewAllocationMap(m.Size())
	for off, length := range m.Ranges() {
		first, end := off/unit*unit, (off+length+unit-1)/unit*unit
		marked.Mark(first, end-first)
	}
	return marked
}

// noteHint notes what became of the hint in a transfer that has ended, well or badly.
func (t *transferRun) noteHint() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cbt.assumed = t.cbt.assumed || t.sender.status.Counters.Assumed > 0
	switch told := t.sender.status.Hint; {
	case told == nil:
	case told.Disabled != "":
		t.cbt.disabled, t.cbt.changed = told.Disabled, nil // another attempt has none
	default:
		t.cbt.slice = told.Slice
	}
}
