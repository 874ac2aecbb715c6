package replication

import (
	"context"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

// scan reads a disk and notes which extents differ from the manifest.
func (v *verification) scan(ctx context.Context, d *verifiedDisk) error {
	geometry := d.view.Header().Geometry
	d.result = VerifiedDisk{Disk: d.name, Size: geometry.Size, Want: d.view.Root().String()}
	client := v.delegate.Control()
	spec := control.TaskSpec{
		ID: v.id + "." + d.name, Kind: control.KindScan, Device: d.number, Size: geometry.Size,
		KeyID: v.store.Installation().DigestKey.ID(), Known: true, Records: true,
	}
	if _, err := client.StartTask(ctx, spec); err != nil {
		return err
	}
	if err := client.PutKnown(ctx, spec.ID, d.view.Extents()); err != nil {
		return err
	}
	started := time.Now()
	work, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := make(chan struct{})
	var helper sync.WaitGroup
	helper.Go(func() {
		err := drain(work, client, spec.ID, done, func(page control.JournalPage) error {
			for _, record := range page.Records {
				d.differs(geometry, record.Extent)
			}
			return nil
		}, once)
		if err != nil {
			stop(err)
		}
	})
	status, err := follow(work, client, spec.ID, func(s control.TaskStatus) {
		v.report.disk(d.name, func(disk *report.Disk) {
			disk.State, disk.Read, disk.Duration = report.DiskMoving, s.Counters.Read, time.Since(started)
		})
	})
	if err != nil {
		stop(err)
	}
	close(done)
	helper.Wait()
	if err := context.Cause(work); err != nil {
		return err
	}
	d.result.Got = status.Root.String()
	v.report.disk(d.name, func(disk *report.Disk) { disk.State, disk.Root = report.DiskFlushed, d.result.Got })
	return nil
}

// differs notes an extent, in ascending order, and joins it with its neighbour.
func (d *verifiedDisk) differs(g manifest.Geometry, extent uint32) {
	offset, length := g.ExtentRange(extent)
	if n := len(d.result.Differing); n > 0 && d.result.Differing[n-1].Offset+d.result.Differing[n-1].Length == offset {
		d.result.Differing[n-1].Length += int64(length)
		return
	}
	d.result.Differing = append(d.result.Differing, Range{Offset: offset, Length: int64(length)})
}
