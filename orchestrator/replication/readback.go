package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/transfer"
)

// ReadBack says how much of a replica a run reads back, before its commit, to prove that the storage returns what was written.
type ReadBack string

// The choices. A sample is a 32nd of each disk's extents, another one each run, so that 32 runs read all.
const (
	ReadBackNone   ReadBack = "none"
	ReadBackSample ReadBack = "sample"
	ReadBackFull   ReadBack = "full"
)

// Valid reports whether b is one of the choices, or empty: a sample.
func (b ReadBack) Valid() bool {
	return b == "" || b == ReadBackNone || b == ReadBackSample || b == ReadBackFull
}

// sampleEvery is into how many samples a disk is divided.
const sampleEvery = 32

// DamagedError says that the target's storage does not return what was written to it. The replica stays dirty, so that the next run
// scans it.
type DamagedError struct {
	Disk  string
	Count int     // of extents
	First []Range // the first of them
}

func (e *DamagedError) Error() string {
	var places []string
	for _, r := range e.First[:min(len(e.First), 8)] {
		places = append(places, fmt.Sprintf("%d+%d", r.Offset, r.Length))
	}
	return fmt.Sprintf("disk %s: %d extents read back are not what was written, the first at %s: check the storage of the target, then run again",
		e.Disk, e.Count, strings.Join(places, ", "))
}

// readBack reads what the request wants of the replica's disks, and compares it with the manifests that the run leads to.
func (r *run) readBack(ctx context.Context) error {
	sample := transfer.Sample{}
	switch r.request.ReadBack {
	case ReadBackNone:
		return nil
	case ReadBackFull:
	default:
		sample = transfer.Sample{Every: sampleEvery, First: uint32(r.record.Samples % sampleEvery)}
		r.samples = 1
	}
	return r.persevere(ctx, func(ctx context.Context) error {
		if err := r.moveDisks(ctx); err != nil { // again, if a host was rebooted since
			return err
		}
		return r.readBackDisks(ctx, sample)
	})
}

// readBackDisks reads back the disks that have not been read back.
func (r *run) readBackDisks(ctx context.Context, sample transfer.Sample) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallelDisks)
	for _, d := range r.disks {
		if d.readBackDone {
			continue
		}
		group.Go(func() error {
			if err := d.readBack(groupCtx, sample); err != nil {
				r.report.disk(d.plan.Disk, func(disk *report.Disk) { disk.State = report.DiskFailed })
				return err
			}
			d.readBackDone = true
			return nil
		})
	}
	err := group.Wait()
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}

func (d *diskRun) readBack(ctx context.Context, sample transfer.Sample) error {
	geometry := manifest.Geometry{Size: d.plan.Size}
	if sample.Count(geometry) == 0 {
		return nil // the disk has fewer extents than there are samples
	}
	view, err := d.store.ViewComposed(ctx, d.record.ID, d.manifest)
	if err != nil {
		return err
	}
	defer view.Close()
	spec := control.TaskSpec{
		ID: d.id + "." + d.plan.Disk + ".read-back", Kind: control.KindVerify, Device: d.targetNumber, Size: d.plan.Size,
		KeyID: d.store.Installation().DigestKey.ID(), Known: true, Sample: sample,
	}
	spec.Tuning.Parallel = min(len(d.disks), parallelDisks)
	status, err := d.verifyTask(ctx, spec, sample.Of(view.Extents()))
	if err != nil {
		return fmt.Errorf("disk %s: read back: %w", d.plan.Disk, err)
	}
	d.report.disk(d.plan.Disk, func(disk *report.Disk) { disk.Verified = status.Verified.Bytes })
	if status.Verified.Count == 0 {
		return nil
	}
	damaged := &DamagedError{Disk: d.plan.Disk, Count: status.Verified.Count}
	for _, extent := range status.Verified.Differing {
		if extent >= geometry.Extents() {
			return fmt.Errorf("disk %s: the delegate names extent %d of %d", d.plan.Disk, extent, geometry.Extents())
		}
		offset, length := geometry.ExtentRange(extent)
		damaged.First = append(damaged.First, Range{Offset: offset, Length: int64(length)})
	}
	return damaged
}

// verifyTask runs a task of kind verify to its end. It is a *lostError when its delegate is gone.
func (d *diskRun) verifyTask(ctx context.Context, spec control.TaskSpec, want []manifest.Digest) (status control.TaskStatus, err error) {
	target := d.delegates.target
	client := target.Control()
	ask := func(call func() error) error { return d.ask(ctx, target, call) }
	err = ask(func() error {
		_, err := client.StartTask(ctx, spec)
		return err
	})
	if err == nil {
		err = ask(func() error { return client.PutKnown(ctx, spec.ID, want) })
	}
	if err == nil {
		status, err = followBy(ctx, client, spec.ID, func(control.TaskStatus) {}, ask)
	}
	if errors.Is(err, errEndedElsewhere) {
		err = &lostError{delegate: target.Name(), cause: err}
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
		defer cancel()
		if _, failed := client.CancelTask(ctx, spec.ID); failed != nil {
			d.log.Info("a task could not be cancelled", "disk", d.plan.Disk, "cause", failed)
		}
		return status, err
	}
	if status.Verified == nil {
		return status, errors.New("the delegate does not tell what it found: deploy its image anew")
	}
	return status, nil
}
