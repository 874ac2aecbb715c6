package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/saga"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// VerifyRequest says which replica is to be read and compared.
type VerifyRequest struct {
	Replica string         // id, as Replicas lists it
	Target  *delegate.Pool // where the replica is
}

// Verification is what came of it.
type Verification struct {
	Run        report.Run          `json:"run"`
	Generation manifest.Generation `json:"generation,omitzero"` // of the restore point that was read
	Disks      []VerifiedDisk      `json:"disks"`
}

// VerifiedDisk compares one disk of the restore point with its manifest.
type VerifiedDisk struct {
	Disk      string  `json:"disk"`
	Size      int64   `json:"size"`      // logical size in bytes
	Want      string  `json:"want"`      // root of the manifest, hexadecimal
	Got       string  `json:"got"`       // root of what was read
	Differing []Range `json:"differing"` // in extents
}

// Range is a part of a disk, in bytes.
type Range struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// Equal reports whether every disk holds what its manifest says.
func (v Verification) Equal() bool {
	return !slices.ContainsFunc(v.Disks, func(d VerifiedDisk) bool { return d.Want != d.Got })
}

// Verify has a delegate in the target pool read every disk of the replica's newest restore point and compares it with the
// manifest of its generation. Clones are read; nothing is written to the replica or its restore points. What differs is a
// result, not an error: see Verification.Equal.
//
// Errors: state.ErrNotFound for the replica, *SuspendedError, ErrNoRestorePoint, *placement.Infeasible, state.ErrBusy.
func (e *Engine) Verify(ctx context.Context, request VerifyRequest) (Verification, error) {
	record, err := e.Store.Replica(ctx, request.Replica)
	if err != nil {
		return Verification{}, err
	}
	if now := replica.Failover(record.Failover.State); now != replica.Standby {
		return Verification{}, &SuspendedError{Replica: record.ID, State: now}
	}
	target := *request.Target
	if target.Inventory, err = inventory.Load(ctx, target.API); err != nil {
		return Verification{}, fmt.Errorf("pool %s: %w", target.Name, err)
	}
	v := &verification{started: time.Now(), engine: e, store: e.Store, record: record, target: &target}
	defer v.close()
	if err := v.find(ctx); err != nil {
		return Verification{}, err
	}
	if err := v.begin(ctx); err != nil {
		return Verification{}, err
	}
	ctx, stop := v.store.Keep(ctx, v.id)
	defer stop()
	return v.finish(ctx, v.execute(ctx))
}

// verification is a Verify under way.
type verification struct {
	started  time.Time
	engine   *Engine
	store    *state.Store
	log      *slog.Logger
	report   *recorder
	saga     *saga.Saga
	record   state.Replica
	target   *delegate.Pool
	standby  *standby
	point    restorePoint
	place    placement.Delegate
	disks    []*verifiedDisk
	delegate *delegate.Delegate
	id       string
}

type verifiedDisk struct {
	name   string
	from   inventory.Disk // of the restore point
	view   *state.View
	number int
	result VerifiedDisk
}

func (v *verification) close() {
	for _, d := range v.disks {
		d.view.Close()
	}
}

// find finds the newest restore point that there are manifests of, and places the delegate.
func (v *verification) find(ctx context.Context) error {
	v.standby = findStandby(v.target.Inventory, v.record)
	if v.standby == nil {
		return fmt.Errorf("replica %s has no VM in pool %s: %w", v.record.ID, v.target.Name, ErrNoRestorePoint)
	}
	for _, point := range restorePointsOf(v.store.Installation().UUID, v.target.Inventory.VMs, v.standby.vm.Ref) {
		err := v.open(ctx, point)
		if err == nil {
			v.point = point
			return v.choose()
		}
		if !errors.Is(err, state.ErrNotFound) {
			return err
		}
	}
	return fmt.Errorf("replica %s: %w", v.record.ID, ErrNoRestorePoint)
}

// open opens the manifests of a restore point's disks; state.ErrNotFound when one has been pruned.
func (v *verification) open(ctx context.Context, point restorePoint) error {
	disks, err := v.target.Inventory.DisksOf(point.ref)
	if err != nil {
		return err
	}
	g := gatherer{installation: v.store.Installation().UUID}
	for _, d := range disks {
		if !g.is(d.VDI.UUID, d.VDI.OtherConfig, replica.KindRestorePointDisk) {
			continue // of a disk that somebody attached to the replica
		}
		view, err := v.store.ViewAt(ctx, v.record.ID, diskName(d.Number), point.marker.State.Generation)
		if err != nil {
			v.close()
			v.disks = nil
			return err
		}
		v.disks = append(v.disks, &verifiedDisk{name: diskName(d.Number), from: d, view: view})
	}
	if len(v.disks) == 0 {
		return fmt.Errorf("restore point %s has no disk of ours: %w", point.vm.UUID, state.ErrNotFound)
	}
	return nil
}

// choose places one delegate that sees the disks: as if the restore point were copied onto itself.
func (v *verification) choose() error {
	existing := map[int]xapi.Ref{}
	for _, d := range v.disks {
		existing[d.from.Number] = d.from.VDIRef
	}
	plan, err := placement.MakePlan(placement.Request{
		Source: v.target.Inventory, SourceVM: v.point.ref, Target: v.target.Inventory, TargetSR: v.disks[0].from.VDI.SR,
		Direction: placement.Push, Existing: existing,
	})
	if err != nil {
		return err
	}
	v.place = plan.Delegates[0]
	return nil
}

func (v *verification) begin(ctx context.Context) error {
	vm := report.VM{UUID: v.standby.vm.UUID, Name: v.standby.vm.NameLabel, Pool: v.target.Name, PoolUUID: v.target.Inventory.UUID}
	first := report.Run{
		Direction: report.Push, Trust: report.TrustVerify, Replica: vm,
		VM: report.VM{UUID: v.record.SourceVM, PoolUUID: v.record.SourcePool},
	}
	for _, d := range v.disks {
		first.Disks = append(first.Disks, report.Disk{
			Disk: d.name, LogicalSize: d.view.Header().Geometry.Size, State: report.DiskPending, Mode: report.Untrusted,
		})
	}
	begun, err := v.store.BeginRun(ctx, v.record.ID, state.RunVerify, first)
	if err != nil {
		return err
	}
	v.id, v.report = begun.Report.ID, newRecorder(begun.Report, v.started, v.engine.Observe)
	v.log = v.engine.log().With("run", v.id, "replica", v.standby.vm.NameLabel)
	v.saga = saga.New(v.store, v.id, Undoers(v.store, v.target))
	return nil
}

func (v *verification) execute(ctx context.Context) error {
	v.report.phase(report.PhaseSpawn)
	spawner, err := v.engine.spawner(v.id, v.saga, v.log)
	if err != nil {
		return err
	}
	clones := make([]xapi.Ref, len(v.disks))
	for i, d := range v.disks {
		if clones[i], err = v.clone(ctx, d); err != nil {
			return err
		}
	}
	v.delegate, err = spawner.Spawn(ctx, delegate.Spec{
		Pool: v.target, Host: v.place.HostRef, Template: v.place.TemplateRef, Side: string(placement.SideTarget),
	})
	if err != nil {
		return err
	}
	v.report.phase(report.PhaseTransfer)
	for i, d := range v.disks {
		if d.number, err = v.delegate.Plug(ctx, clones[i], d.view.Header().Geometry.Size); err != nil {
			return err
		}
		if err := v.scan(ctx, d); err != nil {
			return fmt.Errorf("disk %s: %w", d.name, err)
		}
		if err := v.delegate.Unplug(ctx, d.number); err != nil {
			return err
		}
	}
	return nil
}

// clone clones a disk of the restore point.
func (v *verification) clone(ctx context.Context, d *verifiedDisk) (xapi.Ref, error) {
	api := v.target.API
	ref, object, err := create(ctx, v.saga, creation{
		pool: v.target, class: classVDI, kind: replica.KindClone, origin: d.from.VDI.UUID, except: d.from.VDIRef,
		call: func(ctx context.Context, name string, creating maker) (xapi.Ref, error) {
			return cloneNamed(ctx, api, d.from.VDIRef, d.from.VDI.NameLabel, name, creating)
		},
	})
	if err != nil {
		return "", err
	}
	return ref, replica.Apply(ctx, api, classVDI, ref, replica.Marker{
		Installation: v.store.Installation().UUID, Run: v.id, Kind: replica.KindClone,
		Self: object.UUID, Source: d.from.VDI.UUID, Disk: d.name,
	})
}

// finish removes what the verification made and stores its end.
func (v *verification) finish(ctx context.Context, failure error) (Verification, error) {
	cancelled := ctx.Err() != nil
	failure = withCause(ctx, failure)
	ctx = context.WithoutCancel(ctx)
	v.report.phase(report.PhaseCleanup)
	var left error
	if v.delegate != nil {
		v.report.change(func(run *report.Run) { run.ControlBytes = v.delegate.ControlBytes() })
		left = v.delegate.Retire(ctx)
	}
	if err := errors.Join(left, v.saga.Unwind(ctx)); err != nil {
		v.report.event("left-behind", "not everything that the run made could be removed, recovery tries it again: %v", err)
	}
	result := Verification{Generation: v.point.marker.State.Generation}
	for _, d := range v.disks {
		result.Disks = append(result.Disks, d.result)
	}
	final, cause := report.StateCommitted, failure
	switch {
	case failure != nil && cancelled:
		final = report.StateCancelled
	case failure != nil:
		final = report.StateFailed
	case !result.Equal():
		final, cause = report.StateFailed, errors.New("the restore point does not hold what its manifest says")
	}
	v.report.end(final, cause)
	result.Run = v.report.copy()
	if failure != nil {
		failure = fmt.Errorf("verifying replica %s: %w", v.record.ID, failure)
	}
	return result, errors.Join(failure, v.store.SaveReport(ctx, result.Run))
}
