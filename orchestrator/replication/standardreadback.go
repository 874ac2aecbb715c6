package replication

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// errEnough ends an export of which no more is wanted.
var errEnough = errors.New("enough was read back")

// maxDamage is how many places a DamagedError names.
const maxDamage = 8

// readBackCopies has the target pool export the replica's disks, and compares them with the manifests that the run leads to. An export
// cannot begin in the middle of a disk, so that a sample is the first 32nd of it: that proves that the content arrived at its place, and
// says nothing of the rest, which only ReadBackFull reads.
func (r *run) readBackCopies(ctx context.Context) error {
	if r.request.ReadBack == ReadBackNone {
		return nil
	}
	for _, d := range r.disks {
		if err := d.readBackCopy(ctx, r.request.ReadBack == ReadBackFull); err != nil {
			r.report.disk(d.plan.Disk, func(disk *report.Disk) { disk.State = report.DiskFailed })
			return fmt.Errorf("disk %s: read back: %w", d.plan.Disk, err)
		}
	}
	return nil
}

func (d *diskRun) readBackCopy(ctx context.Context, all bool) error {
	view, err := d.store.ViewComposed(ctx, d.record.ID, d.manifest)
	if err != nil {
		return err
	}
	defer view.Close()
	vdi, err := xapi.GetRecord[xapi.VDI](ctx, d.target.API, classVDI, d.vdi)
	if err != nil {
		return err
	}
	geometry := manifest.Geometry{Size: d.plan.Size}
	extents := geometry.Extents()
	if !all {
		extents = (extents + sampleEvery - 1) / sampleEvery
	}
	damaged := &DamagedError{Disk: d.plan.Disk}
	verified := int64(0)
	hasher := d.store.Installation().DigestKey.NewHasher()
	err = d.readDisk(ctx, d.target, d.vdi, vdi.SR, vdi.VirtualSize, func(content content) error {
		buffer := make([]byte, min(manifest.ExtentSize, d.plan.Size))
		for e := range extents {
			offset, length := geometry.ExtentRange(e)
			extent := buffer[:length]
			if n, err := content.Read(extent); err != nil || n != length {
				return fmt.Errorf("reading %d bytes at %d: %w", length, offset, errors.Join(err, ctx.Err()))
			}
			if verified += int64(length); hasher.Extent(blockDigests(hasher, geometry, e, extent, false)) == view.Extents()[e] {
				continue
			}
			damaged.Count++
			if len(damaged.First) < maxDamage {
				damaged.First = append(damaged.First, Range{Offset: offset, Length: int64(length)})
			}
		}
		if !all || damaged.Count > 0 {
			return errEnough
		}
		_, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{content}, buffer[:min(len(buffer), 1<<20)])
		return err
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	d.report.disk(d.plan.Disk, func(disk *report.Disk) { disk.Verified = verified })
	if damaged.Count > 0 {
		return damaged
	}
	return nil
}
