package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// takeOver makes a run of its own of one whose process died while it moved disks: the source's snapshot and its clones are still
// there, and the journal says what is durable. It returns nil, and why, when that run cannot go on; it is then untouched. The
// subject is a new look at what that run was about.
func (e *Engine) takeOver(ctx context.Context, s *subject, id string) (r *run, why string, err error) {
	dead, err := e.Store.Run(ctx, id)
	if err != nil {
		return nil, "", err
	}
	if dead.Owner == e.Store.Owner() {
		return nil, "it is at work in this very process", nil
	}
	generation, why := e.canGoOn(s, dead)
	if why != "" {
		return nil, why, nil
	}
	objects, err := e.Store.Objects(ctx, id)
	if err != nil {
		return nil, "", err
	}
	dead.Report.JobRun, dead.Report.Direction = s.request.JobRun, s.request.Direction
	r = &run{
		subject: s, engine: e, store: e.Store, id: id, generation: generation, resumed: true,
		report: &recorder{run: dead.Report, observe: e.Observe},
		saga:   saga.New(e.Store, id, Undoers(e.Store, s.source, s.target)), retired: dead.Report.ControlBytes,
		standbyRef: s.standby.vm.Ref, standbyUUID: s.standby.vm.UUID,
	}
	r.log = e.log().With("run", r.id, "vm", s.vm.NameLabel)
	for i := range s.plan.Disks {
		r.disks = append(r.disks, r.diskOf(&s.plan.Disks[i], dead.Report.Disks[i]))
	}
	if why, err = r.findMade(ctx, objects); why != "" || err != nil {
		return nil, why, err
	}
	// The process may live elsewhere, with a state folder that this one is a copy of: then nothing of the run is touched.
	if _, err := e.place(s.target, s.standby.vm.Ref).Await(ctx, e.over); err != nil {
		return nil, "", leaseError(s.record.ID, err)
	}
	if _, err := e.Store.TakeOver(ctx, id); errors.Is(err, state.ErrBusy) {
		return nil, "its process lives, or may", nil // who begins a run in its place finds out
	} else if err != nil {
		return nil, "", err
	}
	return r, "", nil
}

// canGoOn compares what a run was about with what there is now. It returns the run's generation, or why it cannot go on.
func (e *Engine) canGoOn(s *subject, dead state.Run) (generation manifest.Generation, why string) {
	was := dead.Report
	last := was.Updated
	var phase report.Phase
	if n := len(was.Phases); n > 0 {
		phase = was.Phases[n-1].Phase
		if started := was.Phases[n-1].Started; started.After(last) {
			last = started
		}
	}
	generation, err := manifest.ParseGeneration(was.Generation)
	switch {
	case dead.CancelRequested:
		return generation, "it was to be cancelled"
	case dead.Kind != state.RunReplicate || phase != report.PhaseTransfer && phase != report.PhaseVerify:
		return generation, "it was not moving disks"
	case time.Since(last) > e.resumeWindow():
		return generation, fmt.Sprintf("the resume window of %v has passed", e.resumeWindow())
	case was.Method == report.Standard || s.plan.Method == report.Standard:
		return generation, "a copy by the standard method does not go on"
	case s.dialling() != "" && was.Direction != s.plan.Direction || was.Trust != s.plan.Trust || cmp.Or(was.Consistency, report.ConsistencyDisk) != s.plan.Consistency:
		return generation, "it was to go another way"
	case err != nil || s.standby == nil || len(s.plan.Removed) > 0 || len(was.Disks) != len(s.plan.Disks):
		return generation, "the VM or its replica changed"
	}
	dirty := manifest.State{Dirty: true, Generation: generation}
	for i, plan := range s.plan.Disks {
		_, exists := s.standbyDisks[plan.Disk]
		at := slices.IndexFunc(s.record.Disks, func(d state.Disk) bool { return d.Disk == plan.Disk })
		switch {
		case was.Disks[i].Disk != plan.Disk || was.Disks[i].LogicalSize != plan.Size || !exists:
			return generation, fmt.Sprintf("disk %s changed", plan.Disk)
		case at < 0 || s.record.Disks[at].State != dirty:
			return generation, "it had not begun to write"
		}
	}
	return generation, ""
}

// diskOf has a disk taken for what the dead run took it for.
func (r *run) diskOf(plan *DiskPlan, was report.Disk) *diskRun {
	plan.Rung, plan.Cause, plan.Untested = was.Rung, was.Cause, was.Untested
	switch {
	case was.Mode != report.Trusted:
		plan.Baseline = BaselineScan
	case was.Rung == rungFresh:
		plan.Baseline = BaselineZero
	default:
		plan.Baseline = BaselineManifest
	}
	standby := r.standbyDisks[plan.Disk]
	return &diskRun{run: r, plan: *plan, vdi: standby.VDIRef, uuid: standby.VDI.UUID, reach: math.MaxUint32} // nobody knows how far it came
}

// findMade finds the clones that the dead run made of its snapshot, and what it had not yet recorded as kept.
func (r *run) findMade(ctx context.Context, objects []state.Object) (why string, err error) {
	snapshot := false
	for _, o := range objects {
		if o.Status != state.ObjectCreated {
			continue
		}
		switch replica.Kind(o.Kind) {
		case replica.KindSnapshot:
			snapshot = true
			if r.snapshotVM, err = xapi.GetByUUID(ctx, r.source.API, classVM, o.UUID); err != nil && !xapi.IsCode(err, codeUUIDInvalid) {
				return "", err
			}
		case replica.KindReplica, replica.KindReplicaDisk:
			r.made = append(r.made, o)
		case replica.KindClone:
			if err := r.findClone(ctx, o); err != nil {
				return "", err
			}
		}
	}
	missing := slices.ContainsFunc(r.disks, func(d *diskRun) bool { return d.clone == "" })
	if !snapshot || missing {
		return "its snapshot of the source is gone", nil
	}
	return "", nil
}

func (r *run) findClone(ctx context.Context, o state.Object) error {
	ref, err := xapi.GetByUUID(ctx, r.source.API, classVDI, o.UUID)
	if xapi.IsCode(err, codeUUIDInvalid) {
		return nil
	} else if err != nil {
		return err
	}
	vdi, err := xapi.GetRecord[xapi.VDI](ctx, r.source.API, classVDI, ref)
	if err != nil {
		return err
	}
	marker, owner, _ := replica.Read(r.store.Installation().UUID, vdi.UUID, vdi.OtherConfig) // a malformed marker is one that was not finished
	for _, d := range r.disks {
		if owner == replica.Ours && marker.Run == r.id && marker.Disk == d.plan.Disk {
			d.clone, d.snapshot.vdi.UUID = ref, marker.Source
		}
	}
	return nil
}

// takeUpTracking finds what change tracking was about in the dead run, and asks again.
func (r *run) takeUpTracking(ctx context.Context) error {
	for _, d := range r.disks {
		var err error
		if d.snapshot.ref, err = xapi.GetByUUID(ctx, r.source.API, classVDI, d.snapshot.vdi.UUID); err != nil {
			return fmt.Errorf("disk %s of the source's snapshot: %w", d.plan.Disk, err)
		}
	}
	if err := r.readBases(ctx); err != nil {
		return err
	}
	return r.askChanged(ctx)
}

// goOn carries a run that was taken over to its commit. Delegates of the dead process are replaced: what they have done since is
// on the disks, and is found there.
func (r *run) goOn(ctx context.Context) error {
	r.report.event("taken-over", "the process of the run had died; it goes on with the snapshot of %s", r.report.copy().Started.Format(time.RFC3339))
	if err := r.engine.step("take the lease", func() error { return r.takeLease(ctx) }); err != nil {
		return err
	}
	r.report.phase(report.PhaseSpawn)
	if err := r.takeUpTracking(ctx); err != nil {
		return err
	}
	objects, err := r.store.Objects(ctx, r.id)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if o.Pending() && o.Kind == string(replica.KindDelegate) {
			if err := r.saga.Undo(ctx, o); err != nil {
				return err
			}
		}
	}
	if err := r.store.ReleaseRun(ctx, r.id); err != nil {
		return err
	}
	if err := r.spawn(ctx); err != nil {
		return err
	}
	if err := r.checkAgain(ctx); err != nil {
		return err
	}
	r.report.phase(report.PhaseTransfer)
	if err := r.markDirty(ctx); err != nil {
		return err
	}
	if err := r.rewind(ctx); err != nil {
		return err
	}
	if err := r.transfer(ctx); err != nil {
		return err
	}
	return r.carryOut(ctx, lastSteps)
}
