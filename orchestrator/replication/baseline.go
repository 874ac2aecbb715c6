package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/transfer"
)

// markDirty makes 'dirty' with the run's generation durable in the state database and in the markers. Nothing may be written
// before it has returned. From here on the replica is kept, whatever becomes of the run.
func (r *run) markDirty(ctx context.Context) error {
	for _, d := range r.disks {
		if err := r.readable(ctx, d); err != nil {
			return err
		}
	}
	var kept []string
	for _, d := range r.disks {
		if d.plan.Baseline == BaselineManifest {
			kept = append(kept, d.plan.Disk)
		}
	}
	if err := r.store.SetDirty(ctx, r.record.ID, r.generation, kept...); err != nil {
		return err
	}
	dirty := manifest.State{Dirty: true, Generation: r.generation}
	if err := r.markReplica(ctx, dirty); err != nil {
		return err
	}
	if err := r.block(ctx, dirty); err != nil {
		return err
	}
	if err := r.saga.Keep(ctx, r.made...); err != nil {
		return err
	}
	for _, d := range r.disks {
		if err := d.open(ctx); err != nil {
			return fmt.Errorf("disk %s: %w", d.plan.Disk, err)
		}
	}
	return nil
}

// markReplica writes the markers of the replica's disks, then that of its VM.
func (r *run) markReplica(ctx context.Context, s manifest.State) error {
	for _, d := range r.disks {
		err := r.mark(ctx, r.target.API, classVDI, d.vdi, replica.Marker{
			Kind: replica.KindReplicaDisk, Self: d.uuid, Source: d.plan.SourceVDI, Disk: d.plan.Disk, State: s,
		})
		if err != nil {
			return err
		}
	}
	return r.mark(ctx, r.target.API, classVM, r.standbyRef, replica.Marker{
		Kind: replica.KindReplica, Self: r.standbyUUID, Source: r.vm.UUID, State: s,
	})
}

// block sets what nobody may do with the replica in this state, and leaves an administrator's own blocks.
func (r *run) block(ctx context.Context, s manifest.State) error {
	var current map[string]string
	if err := r.target.API.Call(ctx, "VM.get_blocked_operations", &current, r.standbyRef); err != nil {
		return err
	}
	return setField(ctx, r.target.API, classVM, r.standbyRef, "blocked_operations", replica.MergeBlocked(current, s))
}

// readable makes sure that what earlier runs journalled can be read. A damaged journal is forgotten together with the
// manifest that it continues: without it the manifest says nothing true of a dirty disk.
func (r *run) readable(ctx context.Context, d *diskRun) error {
	journal, err := r.store.ReadJournal(ctx, r.record.ID, d.plan.Disk)
	if err == nil {
		journal.Close()
		return nil
	}
	if !unusable(err) {
		return err
	}
	r.report.event("journal-lost", "disk %s: what earlier runs noted is lost, every digest is taken anew: %v", d.plan.Disk, err)
	if err := r.store.RemoveDisk(ctx, r.record.ID, d.plan.Disk); err != nil {
		return err
	}
	return r.store.PutDisk(ctx, r.record.ID, state.Disk{
		Disk: d.plan.Disk, SourceVDI: d.plan.SourceVDI, TargetVDI: d.uuid, LogicalSize: d.plan.Size,
	})
}

// open opens the cached manifest and the journal, and makes of both what the transfer reports against.
func (d *diskRun) open(ctx context.Context) (err error) {
	d.base, err = d.store.CurrentView(ctx, d.record.ID, d.plan.Disk)
	switch {
	case err == nil:
	case errors.Is(err, state.ErrNotFound):
		d.base = nil
	case unusable(err) && d.plan.Baseline != BaselineManifest:
		d.base = nil // the plan's notes tell
	default:
		return err
	}
	if d.past, err = d.store.ReadJournal(ctx, d.record.ID, d.plan.Disk); err != nil {
		return err
	}
	if d.known, err = d.knownExtents(); err != nil {
		return err
	}
	d.journal, err = d.store.OpenJournal(ctx, d.record.ID, d.plan.Disk)
	return err
}

// knownExtents are the extent digests that the state directory can give the block digests of: those of the cached manifest
// under what was journalled since, or those of zeroes on a fresh disk. nil when there are none. An extent that is not known has
// the zero Digest, which no content has: so do those that runs which ended badly wrote, or may have written, where the others are
// trusted. The replica's leaf holds them, and does not tell whether somebody else wrote there since.
func (d *diskRun) knownExtents() ([]manifest.Digest, error) {
	geometry := manifest.Geometry{Size: d.plan.Size}
	hasher := d.store.Installation().DigestKey.NewHasher()
	if d.plan.Baseline == BaselineZero {
		return transfer.ZeroBaseline(d.store.Installation().DigestKey, d.plan.Size).Extents(), nil
	}
	if d.base == nil {
		return nil, nil
	}
	known := make([]manifest.Digest, geometry.Extents())
	old, extents := d.base.Header().Geometry, d.base.Extents()
	for e := range min(old.Extents(), geometry.Extents()) {
		_, before := old.ExtentRange(e)
		if _, now := geometry.ExtentRange(e); now == before {
			known[e] = extents[e]
		}
	}
	if d.plan.Baseline == BaselineManifest {
		touched, err := touchedSince(d.past, d.generation, geometry.Extents())
		for _, s := range touched {
			clear(known[min(s.From, geometry.Extents()):min(s.To, geometry.Extents())])
		}
		return known, err
	}
	for record, err := range d.past.Records() {
		if err != nil {
			return nil, err
		}
		known[record.Extent] = hasher.Extent(record.Blocks)
	}
	return known, nil
}

// blocks are the block digests of an extent of known.
func (d *diskRun) blocks(extent uint32) ([]manifest.Digest, error) {
	record, ok, err := d.past.Record(extent)
	if ok || err != nil {
		return record.Blocks, err
	}
	blocks, err := d.base.BlockDigests(extent)
	if err != nil {
		return nil, fmt.Errorf("the cached manifest: %w", err)
	}
	return blocks, nil
}

// compose makes the manifest that the run leads to, durably, and checks that it is that of what was read.
func (d *diskRun) compose(ctx context.Context, root manifest.Digest) error {
	journal, err := d.store.ReadJournal(ctx, d.record.ID, d.plan.Disk)
	if err != nil {
		return err
	}
	defer journal.Close()
	c := state.Composition{
		Replica: d.record.ID, Disk: d.plan.Disk, Base: d.base, Changes: journal.Records(),
		Header: manifest.Header{Geometry: manifest.Geometry{Size: d.plan.Size}, Generation: d.generation, Assumed: d.cbt.assumed},
	}
	if d.plan.Baseline == BaselineZero {
		c.Missing = manifest.MissingIsZero
	}
	if d.manifest, err = d.store.ComposeManifest(ctx, c); err != nil {
		return err
	}
	if d.start > 0 && root == (manifest.Digest{}) {
		return nil // nobody has read the whole source in one piece; see transferRun.check
	}
	if d.manifest.Root != root {
		return fmt.Errorf("%w: the manifest composed of what was reported has root %s, the source was read with root %s", ErrMismatch, d.manifest.Root, root)
	}
	return nil
}
