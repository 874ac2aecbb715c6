package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/vhd"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// leafTimeout bounds the test of all leaves of a run. A pool answers within seconds; one that does not has the run scan.
	leafTimeout = 90 * time.Second
	// growth is what the pool's word about a disk's space may change by without a write: its numbers lag, and drivers round.
	growth = 1 << 20
	// sizeSlack is what a driver may round a disk's size up by.
	sizeSlack = 4 << 20
)

// errWholeDisk is an export that leaves the base aside: older pools, and other formats, may.
var errWholeDisk = errors.New("the pool sent the whole disk in place of a difference")

// errCoarse is an export whose blocks are larger than what a journal tells of: one that a run of ours wrote may hide another's writes.
var errCoarse = errors.New("the pool lists the differences too coarsely to tell them from what an unfinished run wrote")

// testLeaves finds out what the disks of the replica hold over its last restore point, at the same time: nothing, unless the last
// run did not commit, and then only what its journal accounts for. Data elsewhere was written by somebody else, which neither
// markers nor VBDs show any more. The look costs a few KiB a disk, and four bytes for each 2 MiB of it; it is taken once a run,
// where all else that is noted of the replica agrees, trusted or not: what somebody wrote is not overwritten by a scan either.
//
// What is found is kept, so that the replica stays held until an administrator has decided.
func (r *run) testLeaves(ctx context.Context) error {
	if r.standby == nil || r.resumed || r.looked || !replica.Consistent(r.evidence) {
		return nil
	}
	r.looked = true
	limited, cancel := context.WithTimeoutCause(ctx, leafTimeout, fmt.Errorf("the pool did not answer within %v", leafTimeout))
	defer cancel()
	r.leaves = make([]replica.LeafEvidence, len(r.evidence.Disks))
	group, groupCtx := errgroup.WithContext(limited)
	for i, d := range r.evidence.Disks {
		group.Go(func() (err error) {
			r.leaves[i], err = r.testLeaf(groupCtx, d)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	found := map[string]string{}
	for _, l := range r.leaves {
		if l.Foreign != "" {
			found[l.Disk] = l.Foreign
		}
	}
	if len(found) == 0 {
		return nil
	}
	return r.store.NoteForeignWrites(ctx, r.record.ID, found)
}

// testLeaf looks at one disk. An error is one of the state; what the pool refuses speaks against the test.
func (r *run) testLeaf(ctx context.Context, e replica.DiskEvidence) (replica.LeafEvidence, error) {
	leaf := replica.LeafEvidence{Disk: e.Disk}
	disk := r.standbyDisks[e.Disk]
	committed := e.RecordedState.Generation
	if e.RecordedState.Dirty {
		manifests, err := r.store.Manifests(ctx, r.record.ID, e.Disk)
		if err != nil {
			return leaf, err
		}
		if n := len(manifests); n > 0 {
			committed = manifests[n-1].Generation
		}
	}
	base := gatherer{pool: r.target.Inventory, installation: r.store.Installation().UUID}.restorePointDisk(disk.VDIRef, committed)
	switch {
	case base.IsNull():
		leaf.Against = "there is no restore point of the last commit to compare it with"
	case disk.VDI.VirtualSize > vhd.MaxSize:
		leaf.Against = fmt.Sprintf("the pool exports differences of disks up to %d bytes", int64(vhd.MaxSize))
	default:
		accounted, err := r.accountedFor(ctx, e)
		if err != nil {
			return leaf, err
		}
		leaf.Foreign, err = foreignBlock(ctx, r.target.API, disk, base, r.largest(disk), accounted)
		if err != nil {
			leaf.Against = err.Error()
		} else if leaf.Foreign == "" {
			leaf.Against = r.grown(e, disk)
		}
	}
	if !r.restsOnManifest(e.Disk) {
		leaf.Against = "" // it is scanned anyway, and must not have the others scanned
	}
	return leaf, nil
}

// restorePointDisk is the disk of our restore point of a generation that is a snapshot of this one; null when there is none.
func (g gatherer) restorePointDisk(disk xapi.Ref, generation manifest.Generation) xapi.Ref {
	clean := manifest.State{Generation: generation}
	for ref, vdi := range g.pool.VDIs {
		marker, owner, _ := replica.Read(g.installation, vdi.UUID, vdi.OtherConfig)
		if vdi.IsASnapshot && !vdi.Missing && vdi.SnapshotOf == disk &&
			owner == replica.Ours && marker.Kind == replica.KindRestorePointDisk && marker.State == clean {
			return ref
		}
	}
	return xapi.NullRef
}

// restsOnManifest reports whether the plan takes a disk for what its manifest says.
func (r *run) restsOnManifest(disk string) bool {
	return slices.ContainsFunc(r.disks, func(d *diskRun) bool { return d.plan.Disk == disk && d.plan.Baseline == BaselineManifest })
}

// accountedFor are the extents that runs of ours may have written since the last commit: those of the journal, and those in doubt.
func (r *run) accountedFor(ctx context.Context, e replica.DiskEvidence) (map[uint32]bool, error) {
	if !e.RecordedState.Dirty {
		return nil, nil
	}
	touched, err := touchedOf(ctx, r.store, r.record.ID, e.Disk, e.RecordedSize)
	if err != nil {
		return nil, err
	}
	extents := map[uint32]bool{}
	for _, span := range touched {
		for extent := span.From; extent < span.To; extent++ {
			extents[extent] = true
		}
	}
	return extents, nil
}

// foreignBlock has the pool list the blocks in which a disk differs from its restore point, and describes the first one that is not
// accounted for. largest is the size that the disk may have by now, in bytes.
func foreignBlock(ctx context.Context, api xapi.API, disk inventory.Disk, base xapi.Ref, largest int64, accounted map[uint32]bool) (found string, err error) {
	export := xapi.DiskExport{VDI: disk.VDIRef, SR: disk.VDI.SR, Base: base, Format: "vhd"}
	err = api.ExportDisk(ctx, export, func(stream io.Reader) error {
		image, err := vhd.NewReader(stream, largest)
		if err != nil {
			return err
		}
		if !image.Differencing {
			return errWholeDisk
		}
		if image.BlockSize > manifest.ExtentSize && len(accounted) > 0 {
			return errCoarse
		}
		for {
			block, err := image.Next()
			if errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			offset := block * image.BlockSize
			first, last := offset/manifest.ExtentSize, (offset+image.BlockSize-1)/manifest.ExtentSize
			ours := false
			for extent := first; extent <= last; extent++ {
				ours = ours || accounted[uint32(extent)]
			}
			if !ours {
				found = fmt.Sprintf("it differs from its last restore point in the %d bytes at offset %d", image.BlockSize, offset)
				return nil
			}
		}
	})
	if found != "" {
		return found, nil // whatever else is wrong with the stream
	}
	return "", err
}

// largest is the size that a disk of the replica may have grown to in this run.
func (r *run) largest(disk inventory.Disk) int64 {
	largest := disk.VDI.VirtualSize
	for _, d := range r.disks {
		if d.plan.Disk == strconv.Itoa(disk.Number) {
			largest = max(largest, d.plan.Size+sizeSlack)
		}
	}
	return largest
}

// leavesNow are the leaves as they were tested, with what the pool says of the disks now that they are plugged. Between the test and the plug
// somebody could write, and let go of the disk again: where the pool has noticed that it takes more than before, it is scanned.
func (r *run) leavesNow(evidence []replica.DiskEvidence, disks map[string]inventory.Disk) []replica.LeafEvidence {
	leaves := slices.Clone(r.leaves)
	for i, leaf := range leaves {
		at := slices.IndexFunc(evidence, func(e replica.DiskEvidence) bool { return e.Disk == leaf.Disk })
		if at >= 0 && leaf.Foreign == "" && leaf.Against == "" && r.restsOnManifest(leaf.Disk) {
			leaves[i].Against = r.grown(evidence[at], disks[leaf.Disk])
		}
	}
	return leaves
}

// grown compares what a thin SR says a disk takes with what it said after the last commit. It lags too often to speak for a disk,
// or for somebody's writes; where it speaks against it, the disk is scanned.
func (r *run) grown(e replica.DiskEvidence, disk inventory.Disk) string {
	i := slices.IndexFunc(r.record.Disks, func(d state.Disk) bool { return d.Disk == e.Disk })
	if i < 0 || e.RecordedState.Dirty || !inventory.Thin(r.target.Inventory.SRs[disk.VDI.SR]) {
		return ""
	}
	noted, now := r.record.Disks[i].Utilisation, disk.VDI.PhysicalUtilisation
	if noted <= 0 || now <= noted+growth {
		return ""
	}
	return fmt.Sprintf("the pool says that it takes %d bytes, after the last commit it took %d", now, noted)
}

// noteUtilisation notes what the replica's disks take now that the run is committed, for the next one. It is only a hint.
func (r *run) noteUtilisation(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leafTimeout)
	defer cancel()
	bytes := map[string]int64{}
	for _, d := range r.disks {
		var n int64
		if err := r.target.API.Call(ctx, "VDI.get_physical_utilisation", &n, d.vdi); err != nil {
			r.log.Debug("what a disk takes is not noted", "disk", d.plan.Disk, "cause", err)
			return
		}
		bytes[d.plan.Disk] = n
	}
	if err := r.store.NoteUtilisation(ctx, r.record.ID, bytes); err != nil {
		r.log.Debug("what the disks take is not noted", "cause", err)
	}
}
