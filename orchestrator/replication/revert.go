package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// A revert is one call of the pool, VM.revert, which cannot be broken off, and what is put right around it:
//
//	dirty in the state database and the markers ─▶ VM.revert: new VDIs, the VM's fields of then, no marker that counts
//	  ─▶ markers of the new VDIs, blocks, protections, all with the restore point's generation
//	  ─▶ the manifest of that generation becomes the newest, and the state database says clean: one transaction
//
// The record of an interrupted one is the replica itself: dirty by a run of kind 'revert', whose report names the restore point.
// Whoever finds that does it all again, which VM.revert allows; there is no way back once it has begun.

// Newest names the newest restore point in a RevertRequest.
const Newest = "newest"

// revertTimeout bounds VM.revert, which copies every disk on a thick SR.
const revertTimeout = time.Hour

// RevertRequest says what is to be taken back to what.
type RevertRequest struct {
	Replica string         // id, as Replicas lists it
	Target  *delegate.Pool // where the replica is
	Point   string         // the restore point: its uuid, its name, the beginning of its generation, or Newest
	// failover is the state of the replica in which the revert is a part of a failover; every other revert waits for Standby.
	failover replica.Failover
}

// RevertError says that a replica cannot be reverted as it is. Nothing was touched.
type RevertError struct{ Replica, Cause, Mend string }

func (e *RevertError) Error() string {
	return fmt.Sprintf("replica %s cannot be reverted: %s; %s", e.Replica, e.Cause, e.Mend)
}

// UnfinishedRevertError says that a revert of the replica was interrupted. Replicate and Recover finish it.
type UnfinishedRevertError struct {
	Replica string // id
	Point   string // uuid of the restore point
	run     string // id of the run that began it
}

func (e *UnfinishedRevertError) Error() string {
	return fmt.Sprintf("a revert of replica %s to restore point %s was interrupted: the next run finishes it first, or revert again", e.Replica, e.Point)
}

// Revert takes a replica back to one of its restore points, as if nothing had been committed since; later restore points stay. The
// next run compares the source with the restore point's manifest, and trusts it as it would have then. A run that fails in the
// middle leaves the replica dirty; the next revert, run or recovery finishes what it began.
//
// Errors: state.ErrNotFound for the replica, *SuspendedError, ErrNoRestorePoint, *RevertError, *HeldError, state.ErrBusy.
func (e *Engine) Revert(ctx context.Context, request RevertRequest) (report.Run, error) {
	v, err := e.findReversion(ctx, request)
	if err != nil {
		return report.Run{}, err
	}
	err = v.begin(ctx)
	if busy := (*state.BusyError)(nil); errors.As(err, &busy) {
		// Its process may have died; what recovery removes was part of the view.
		all, failure := saga.RecoverRun(ctx, e.Store, e.recovering(v.target), busy.Run)
		if failure = errors.Join(failure, failures(all)); failure != nil {
			e.log().Warn("an earlier run could not be recovered", "run", busy.Run, "cause", failure)
		}
		if v, err = e.findReversion(ctx, request); err == nil {
			err = v.begin(ctx)
		}
	}
	if err != nil {
		return report.Run{}, err
	}
	ctx, v.tenure = e.keep(ctx, v.id)
	defer v.tenure.close()
	return v.finish(ctx, v.execute(ctx))
}

// reversion is a Revert under way.
type reversion struct {
	engine     *Engine
	store      *state.Store
	report     *recorder
	target     *delegate.Pool
	record     state.Replica
	standby    *standby
	point      restorePoint
	disks      []inventory.Disk // of the restore point, those that are ours
	tenure     *tenure
	again      bool   // a revert was interrupted before
	begunBy    string // id of the run that did
	id         string
	generation manifest.Generation // of the run; what the replica is dirty by
	started    time.Time
}

// findReversion takes one look and decides everything on it. Nothing is changed.
func (e *Engine) findReversion(ctx context.Context, request RevertRequest) (*reversion, error) {
	v := &reversion{engine: e, store: e.Store, started: time.Now(), generation: manifest.NewGeneration()}
	var err error
	if v.record, err = e.Store.Replica(ctx, request.Replica); err != nil {
		return nil, err
	}
	if now := replica.Failover(v.record.Failover.State); now != replica.Standby && now != request.failover {
		return nil, &SuspendedError{Replica: v.record.ID, State: now}
	}
	target := *request.Target
	interrupted, err := unfinishedRevert(ctx, e.Store, v.record)
	if err == nil && interrupted != nil {
		v.again, v.begunBy = true, interrupted.run
		_, err = xapi.AwaitTasks(ctx, target.API, "Async.VM.revert") // the pool may still be at it
	}
	if err != nil {
		return nil, err
	}
	if target.Inventory, err = inventory.Load(ctx, target.API); err != nil {
		return nil, fmt.Errorf("pool %s: %w", target.Name, err)
	}
	v.target = &target
	if v.standby = findStandby(target.Inventory, v.record); v.standby == nil {
		return nil, fmt.Errorf("replica %s has no VM in pool %s: %w", v.record.ID, target.Name, ErrNoRestorePoint)
	}
	for _, check := range []func() error{func() error { return v.choose(request.Point) }, v.openPoint, v.checkHeld, v.checkAllowed, v.checkRoom} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// unfinishedRevert finds a revert that left the replica dirty; nil when there is none.
func unfinishedRevert(ctx context.Context, store *state.Store, record state.Replica) (*UnfinishedRevertError, error) {
	if len(record.Disks) == 0 || !record.Disks[0].State.Dirty {
		return nil, nil
	}
	run, err := store.RunOf(ctx, record.ID, record.Disks[0].State.Generation)
	if errors.Is(err, state.ErrNotFound) || err == nil && run.Kind != state.RunRevert {
		return nil, nil
	}
	return &UnfinishedRevertError{Replica: record.ID, Point: run.Report.RestorePoint, run: run.Report.ID}, err
}

func (v *reversion) refuse(mend, cause string, args ...any) error {
	return &RevertError{Replica: v.record.ID, Cause: fmt.Sprintf(cause, args...), Mend: mend}
}

// choose finds the restore point that is meant.
func (v *reversion) choose(wanted string) error {
	points := restorePointsOf(v.store.Installation().UUID, v.target.Inventory.VMs, v.standby.vm.Ref)
	if len(points) == 0 {
		return fmt.Errorf("replica %s: %w", v.record.ID, ErrNoRestorePoint)
	}
	point, cause := choosePoint(points, wanted)
	if cause != "" {
		return v.refuse(mendPoint, "%s", cause)
	}
	v.point = point
	return nil
}

const mendPoint = "'understudy replica points' lists them; name one by its uuid"

// choosePoint finds the restore point that is meant; cause says why there is none.
func choosePoint(points []restorePoint, wanted string) (point restorePoint, cause string) {
	found := named(points, wanted)
	if len(found) != 1 {
		return point, fmt.Sprintf("%d of its %d restore points are meant by %q", len(found), len(points), wanted)
	}
	if s := found[0].marker.State; s.Dirty || !s.Valid() {
		return point, fmt.Sprintf("restore point %s was not finished", found[0].vm.UUID)
	}
	return found[0], ""
}

// named are those of some restore points, the newest first, that a request means.
func named(points []restorePoint, wanted string) []restorePoint {
	const shortest = 8 // of the beginning of a generation
	var found []restorePoint
	for i, p := range points {
		generation := p.marker.State.Generation.String()
		if wanted == p.vm.UUID || wanted == p.vm.NameLabel || wanted == Newest && i == 0 || len(wanted) >= shortest && strings.HasPrefix(generation, wanted) {
			found = append(found, p)
		}
	}
	return found
}

// openPoint finds the restore point's disks, which must all be there and of its generation.
func (v *reversion) openPoint() error {
	all, err := v.target.Inventory.DisksOf(v.point.ref)
	if err != nil {
		return err
	}
	for _, d := range all {
		marker, owner, _ := replica.Read(v.store.Installation().UUID, d.VDI.UUID, d.VDI.OtherConfig) // a malformed one is not ours
		if owner == replica.Ours && marker.Kind == replica.KindRestorePointDisk {
			if marker.State != v.point.marker.State {
				return v.refuse("choose another restore point", "disk %d of restore point %s is %s, not %s", d.Number, v.point.vm.UUID, marker.State, v.point.marker.State)
			}
			v.disks = append(v.disks, d)
		}
	}
	if len(v.disks) == 0 {
		return v.refuse("choose another restore point", "restore point %s has no disk of ours", v.point.vm.UUID)
	}
	return nil
}

// checkHeld makes sure that the replica may be written, and that it holds nothing but what is ours: VM.revert destroys every disk
// of the VM. Where a revert was interrupted its disks may be clones of a restore point's, with the markers of those.
func (v *reversion) checkHeld() error {
	installation := v.store.Installation().UUID
	g := gatherer{pool: v.target.Inventory, installation: installation, record: v.record, standby: v.standby}
	ours := map[string]inventory.Disk{}
	for name, d := range v.standby.disks {
		if d.VBDRef.IsNull() {
			continue // the VM does not hold it, and it stays as it is
		}
		marker, owner, _ := replica.Read(installation, d.VDI.UUID, d.VDI.OtherConfig)
		// It may bear half a marker; the id of the run comes before what tells the two kinds apart.
		cloned := v.again && marker.Installation == installation &&
			(owner == replica.Stranger && marker.Kind == replica.KindRestorePointDisk || owner != replica.None && marker.Run == v.begunBy)
		if !cloned && (owner != replica.Ours || marker.Kind != replica.KindReplicaDisk) {
			return v.refuse("detach it from the replica VM", "its VM holds disk %s (VDI %s), which is not ours and would be destroyed", name, d.VDI.UUID)
		}
		if !v.again {
			ours[name] = d
		}
		for _, holder := range g.foreignVBDs(d.VDIRef) {
			if holder.Writable {
				return v.refuse("detach it from that VM", "VM %s holds disk %s (VDI %s), too, which would be destroyed", holder.VM, name, d.VDI.UUID)
			}
		}
	}
	if decision := replica.Trust(g.evidence(ours)); !decision.Writable {
		return &HeldError{Replica: v.record.ID, VM: v.standby.vm.UUID, Rung: string(decision.Rung), Cause: decision.Cause, Diverged: decision.Diverged}
	}
	return nil
}

// checkAllowed finds an administrator's own block.
func (v *reversion) checkAllowed() error {
	dirty := replica.BlockedOperations(manifest.State{})
	if reason := replica.MergeBlocked(v.blocked(), manifest.State{})[operationRevert]; reason != dirty[operationRevert] {
		return v.refuse("lift the block", "reverting its VM is blocked: %s", reason)
	}
	return nil
}

const operationRevert = "revert"

// checkRoom: the new disks are made before the old ones go.
func (v *reversion) checkRoom() error {
	var size int64
	for _, d := range v.disks {
		size += d.VDI.VirtualSize
	}
	sr := v.target.Inventory.SRs[v.disks[0].VDI.SR]
	if free, known := inventory.FreeSpace(sr); known && !inventory.Thin(sr) && free < size {
		return v.refuse("free space on it", "new disks of %d MiB are made in SR %s before the old ones go, and %d MiB are free", toMiB(size), sr.NameLabel, free>>20)
	}
	return nil
}

func (v *reversion) begin(ctx context.Context) error {
	vm := report.VM{UUID: v.standby.vm.UUID, Name: v.standby.vm.NameLabel, Pool: v.target.Name, PoolUUID: v.target.Inventory.UUID}
	first := report.Run{
		Direction: report.Push, Trust: report.TrustVerify, Replica: vm, Generation: v.generation.String(), RestorePoint: v.point.vm.UUID,
		VM: report.VM{UUID: v.record.SourceVM, PoolUUID: v.record.SourcePool},
	}
	for _, d := range v.disks {
		first.Disks = append(first.Disks, report.Disk{Disk: diskName(d.Number), LogicalSize: d.VDI.VirtualSize, State: report.DiskPending, Mode: report.Trusted})
	}
	begun, err := v.store.BeginRun(ctx, v.record.ID, state.RunRevert, first)
	if err != nil {
		return err
	}
	v.id, v.report = begun.Report.ID, newRecorder(begun.Report, v.started, v.engine.Observe)
	return nil
}

func (v *reversion) finish(ctx context.Context, failure error) (report.Run, error) {
	cancelled := ctx.Err() != nil && !lostLease(ctx)
	failure = withCause(ctx, failure)
	v.tenure.release(ctx)
	final := report.StateCommitted
	switch {
	case failure != nil && cancelled:
		final = report.StateCancelled
	case failure != nil:
		final = report.StateFailed
	}
	if failure != nil {
		failure = fmt.Errorf("reverting replica %s to restore point %s: %w", v.record.ID, v.point.vm.UUID, failure)
	}
	v.report.end(final, failure)
	run := v.report.copy()
	return run, errors.Join(failure, v.store.SaveReport(context.WithoutCancel(ctx), run))
}

// finishReverts finishes the reverts of replicas in these pools that were interrupted. One that another process is at work on is left alone.
func (e *Engine) finishReverts(ctx context.Context, pools []*delegate.Pool) error {
	records, err := e.Store.Replicas(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, record := range records {
		for _, pool := range pools {
			if pool.Inventory.UUID != record.TargetPool {
				continue
			}
			interrupted, err := unfinishedRevert(ctx, e.Store, record)
			if err == nil && interrupted != nil {
				_, err = e.Revert(ctx, RevertRequest{
					Replica: record.ID, Target: pool, Point: interrupted.Point, failover: replica.Failover(record.Failover.State),
				})
			}
			if err != nil && !errors.Is(err, state.ErrBusy) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
