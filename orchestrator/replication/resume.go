package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// saveEvery is the time between two stored reports of a transfer: from the last one a successor takes the counters, and how long
	// the run has stood still.
	saveEvery = 10 * time.Second
	// The pause between attempts to replace lost delegates doubles from the one to the other.
	minReplacePause = time.Second
	maxReplacePause = time.Minute
	// maxIdleLosses is how often delegates are replaced without the run's coming further: something ends them that will end others.
	maxIdleLosses = 10
)

// transfer moves all disks.
func (r *run) transfer(ctx context.Context) error { return r.persevere(ctx, r.moveDisks) }

// persevere does work for which delegates are needed. When delegates are lost it replaces them and has the work go on, until the
// resume window has passed without the run's coming further.
func (r *run) persevere(ctx context.Context, work func(context.Context) error) error {
	stop := r.saveOften(ctx)
	defer stop()
	since, reached, idle := time.Now(), uint64(0), 0
	for {
		err := work(ctx)
		var lost *lostError
		if err == nil || ctx.Err() != nil || !errors.As(err, &lost) || r.engine.resumeWindow() == 0 {
			return err
		}
		if idle++; idle > maxIdleLosses {
			return fmt.Errorf("%d delegates were lost one after the other at the same place; look at their consoles: %w", idle, err)
		}
		r.report.event("delegate-lost", "%v; another one takes its place and goes on from what is durable", lost)
		if failure := r.replace(ctx, since.Add(r.engine.resumeWindow())); failure != nil {
			return errors.Join(err, failure)
		}
		now := r.reached()
		if now > reached {
			since, idle = time.Now(), 0
		}
		reached = now
	}
}

// saveOften stores the report now and then; the function that it returns ends that.
func (r *run) saveOften(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-time.After(saveEvery):
			case <-ctx.Done():
				return
			}
			r.report.change(func(run *report.Run) { run.Updated = time.Now().UTC() })
			if err := r.store.SaveReport(ctx, r.report.copy()); err != nil && ctx.Err() == nil {
				r.log.Warn("the report could not be stored", "cause", err)
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// reached adds up the watermarks, and the disks that were read back.
func (r *run) reached() (extents uint64) {
	for _, d := range r.disks {
		if d.moved {
			d.start = manifest.Geometry{Size: d.plan.Size}.Extents()
		}
		extents += uint64(d.start)
		if d.readBackDone {
			extents++
		}
	}
	return extents
}

// replace removes the delegates and puts others in their place, and does so again until they run or the deadline has passed.
func (r *run) replace(ctx context.Context, deadline time.Time) error {
	last := ""
	for pause := minReplacePause; ; pause = min(2*pause, maxReplacePause) {
		err := r.replaceOnce(ctx)
		if err == nil || ctx.Err() != nil || errors.As(err, new(*HeldError)) || errors.Is(err, ErrChanged) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("lost delegates could not be replaced within the resume window of %v: %w", r.engine.resumeWindow(), err)
		}
		if text := err.Error(); text != last {
			r.report.event("delegates-not-replaced", "lost delegates cannot be replaced yet, it is tried again until %s: %v",
				deadline.UTC().Format(time.RFC3339), err)
			last = text
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *run) replaceOnce(ctx context.Context) error {
	if err := r.retire(ctx); err != nil {
		return err
	}
	r.countControl()
	r.retired, r.delegates = r.report.copy().ControlBytes, delegates{}
	if err := r.store.ReleaseRun(ctx, r.id); err != nil {
		return err
	}
	if err := r.placeAgain(ctx); err != nil {
		return err
	}
	if err := r.spawn(ctx); err != nil {
		return err
	}
	r.resumed = true
	if err := r.checkAgain(ctx); err != nil {
		return err
	}
	return r.rewind(ctx)
}

// placeAgain looks at both pools anew: a host may be gone. The replica's disks are where they were.
func (r *run) placeAgain(ctx context.Context) error {
	fresh := &subject{request: r.request}
	if err := fresh.look(ctx); err != nil {
		return err
	}
	wanted := r.placing()
	wanted.Source, wanted.Target = fresh.source.Inventory, fresh.target.Inventory
	for _, d := range r.disks {
		wanted.Existing[numberOf(d.plan.Disk)] = d.vdi
	}
	plan, err := placement.MakePlan(wanted)
	if err != nil {
		return err
	}
	if len(plan.Delegates) != len(r.plan.Placement.Delegates) {
		return fmt.Errorf("%d delegates are needed now, it were %d: %w", len(plan.Delegates), len(r.plan.Placement.Delegates), ErrChanged)
	}
	r.source, r.target, r.plan.Placement = fresh.source, r.tenure.guard(fresh.target), plan
	return nil
}

// rewind has every disk that was not moved go on from its watermark. A watermark counts for as long as none of the target's hosts
// has rebooted since: what a host has flushed reached the storage behind it, not always the platter. When it counts no more, all
// disks are read and compared from the beginning, under a new generation.
func (r *run) rewind(ctx context.Context) error {
	cause, err := rebooted(ctx, r.target, r.report.copy().TargetHosts)
	if err != nil {
		return err
	}
	if cause != "" {
		r.report.change(func(run *report.Run) { run.TargetHosts = nil }) // nothing rests on them any more
	}
	if err := r.noteHost(ctx); err != nil {
		return err
	}
	if err := r.store.SaveReport(ctx, r.report.copy()); err != nil {
		return err
	}
	if cause != "" {
		return r.startOver(ctx, cause)
	}
	for _, d := range r.disks {
		if d.moved {
			continue
		}
		if err := d.rewind(ctx); err != nil {
			return fmt.Errorf("disk %s: %w", d.plan.Disk, err)
		}
		r.report.event("resumed", "disk %s goes on from extent %d of %d", d.plan.Disk, d.start, manifest.Geometry{Size: d.plan.Size}.Extents())
	}
	return nil
}

// rewind opens what the disk needs anew, and finds the watermark.
func (d *diskRun) rewind(ctx context.Context) error {
	if err := d.close(); err != nil {
		return err
	}
	if err := d.open(ctx); err != nil {
		return err
	}
	view, err := d.store.ReadJournal(ctx, d.record.ID, d.plan.Disk)
	if err != nil {
		return err
	}
	defer view.Close()
	d.start, d.resumed = 0, true
	for _, segment := range view.Segments {
		if segment.Generation == d.generation {
			d.start = segment.Watermark
		}
	}
	for _, disk := range d.report.copy().Disks {
		if disk.Disk == d.plan.Disk {
			d.before = disk
		}
	}
	return nil
}

// startOver voids the watermarks.
func (r *run) startOver(ctx context.Context, cause string) error {
	r.report.event("watermark-void", "%s: what was durable may not be, so that all disks are read and compared from the beginning", cause)
	r.generation = manifest.NewGeneration()
	r.report.change(func(run *report.Run) { run.Generation = r.generation.String() })
	if err := r.store.SaveReport(ctx, r.report.copy()); err != nil {
		return err
	}
	for _, d := range r.disks {
		if err := d.close(); err != nil {
			return err
		}
		d.moved, d.readBackDone, d.plan.Baseline, d.plan.Cause, d.plan.Untested = false, false, BaselineScan, cause, ""
		d.report.disk(d.plan.Disk, func(disk *report.Disk) {
			disk.State, disk.Mode, disk.Cause, disk.Untested, disk.Root = report.DiskPending, d.run.plan.mode(d.plan), cause, "", ""
			d.before = *disk
			d.before.Busy = maps.Clone(disk.Busy)
		})
	}
	if err := r.markDirty(ctx); err != nil {
		return err
	}
	for _, d := range r.disks {
		d.start, d.resumed, d.reach = 0, true, 0
	}
	return nil
}

// noteHost notes the host that the target's delegate runs on.
func (r *run) noteHost(ctx context.Context) error {
	placed := r.plan.Placement.Delegates
	now, err := bootOf(ctx, r.target.API, placed[len(placed)-1].HostRef)
	if err != nil {
		return err
	}
	r.report.change(func(run *report.Run) {
		for _, known := range run.TargetHosts {
			if known == now {
				return
			}
		}
		run.TargetHosts = append(run.TargetHosts, now)
	})
	return nil
}

// rebooted tells why what was durable on these hosts of a pool may be so no more; empty when it is.
func rebooted(ctx context.Context, pool *delegate.Pool, known []report.Host) (cause string, err error) {
	if len(known) == 0 {
		return "it is not known on which host the target's delegate ran", nil
	}
	for _, host := range known {
		ref, err := xapi.GetByUUID(ctx, pool.API, "host", host.UUID)
		if xapi.IsCode(err, codeUUIDInvalid) {
			return fmt.Sprintf("host %s, which wrote to the target, left its pool", host.Name), nil
		} else if err != nil {
			return "", err
		}
		now, err := bootOf(ctx, pool.API, ref)
		switch {
		case err != nil:
			return "", err
		case host.Boot == "" || now.Boot == "":
			return fmt.Sprintf("pool %s does not tell when host %s booted", pool.Name, host.Name), nil
		case host.Boot != now.Boot:
			return fmt.Sprintf("host %s, which wrote to the target, was rebooted", host.Name), nil
		}
	}
	return "", nil
}

// bootOf names a host and its boot: xapi notes the time in other_config when it starts on a host, and the control domain's start
// stands for it where it does not.
func bootOf(ctx context.Context, api xapi.API, ref xapi.Ref) (report.Host, error) {
	host, err := xapi.GetRecord[xapi.Host](ctx, api, "host", ref)
	if err != nil {
		return report.Host{}, err
	}
	found := report.Host{UUID: host.UUID, Name: host.NameLabel, Boot: host.OtherConfig["boot_time"]}
	if found.Boot != "" || host.ControlDomain.IsNull() {
		return found, nil
	}
	domain, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, host.ControlDomain)
	if err != nil || domain.Metrics.IsNull() {
		return found, err
	}
	metrics, err := xapi.GetRecord[xapi.VMMetrics](ctx, api, "VM_metrics", domain.Metrics)
	if err == nil && !metrics.StartTime.IsZero() {
		found.Boot = metrics.StartTime.UTC().Format(time.RFC3339)
	}
	return found, err
}
