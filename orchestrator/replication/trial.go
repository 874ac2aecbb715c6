package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
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

// bootDevice is the position of a delegate's own disk. It is read once, by the firmware: while a delegate runs it does not change.
const bootDevice = 0

// ErrCorrupt says that storage does not return what was written to it.
var ErrCorrupt = errors.New("the disk does not hold what was written to it")

// TrialRequest says where a delegate is to be tried out.
type TrialRequest struct {
	Pool *delegate.Pool // its inventory is read anew
	SR   string         // name or uuid, of the disk that is written; empty: that of the newest image
	Host string         // name or uuid; empty: any that sees the SR
	// Step is told what begins, one call at a time. May be nil.
	Step func(what string)
}

// Trial is what came of it.
type Trial struct {
	Pool    string      `json:"pool"`
	Host    string      `json:"host"`
	SR      string      `json:"sr"`
	Address string      `json:"address"`
	Version string      `json:"version"` // of the delegate's software, as it says itself
	Steps   []TrialStep `json:"steps"`   // the last one failed if there was an error
	Error   string      `json:"error,omitempty"`
}

// TrialStep is one thing that a delegate must be able to do.
type TrialStep struct {
	Step       string        `json:"step"`
	Duration   time.Duration `json:"duration_ns"`
	Bytes      int64         `json:"bytes,omitempty"`      // read or copied
	Throughput int64         `json:"throughput,omitempty"` // bytes a second
	Error      string        `json:"error,omitempty"`
}

// TryDelegate spawns a delegate, has it copy its own boot disk to a scratch disk and read both, compares what it read, and removes
// delegate and disk again. No other disk is touched.
//
// The Trial tells how far it came, also with an error: that of the step that failed, among them *placement.Infeasible, those of
// delegate.Spawner.Spawn and delegate.Delegate.Plug, and ErrCorrupt.
func (e *Engine) TryDelegate(ctx context.Context, request TrialRequest) (Trial, error) {
	pool := *request.Pool
	t := &trial{engine: e, request: request, pool: &pool, result: Trial{Pool: pool.Name, Steps: []TrialStep{}}}
	err := t.do(ctx)
	if err != nil {
		err = fmt.Errorf("testing a delegate in pool %s: %w", pool.Name, err)
		t.result.Error = err.Error()
	}
	return t.result, err
}

// trial is a TryDelegate under way.
type trial struct {
	engine  *Engine
	request TrialRequest
	pool    *delegate.Pool
	place   placement.Delegate
	sr      xapi.Ref
	size    int64 // of the delegate's boot disk, in bytes
	run     state.Run
	saga    *saga.Saga
	result  Trial

	generation manifest.Generation
	scratch    xapi.Ref
	delegate   *delegate.Delegate
	number     int // of the scratch disk in the delegate
}

// step does one step and notes how it went. what is said to people; bytes of 0 are not noted.
func (t *trial) step(ctx context.Context, what string, do func(context.Context) (bytes int64, err error)) error {
	if t.request.Step != nil {
		t.request.Step(what)
	}
	began := time.Now()
	bytes, err := do(ctx)
	step := TrialStep{Step: what, Duration: time.Since(began), Bytes: bytes}
	if err == nil && bytes > 0 {
		step.Throughput = int64(float64(bytes) / step.Duration.Seconds())
	}
	if err != nil {
		err = withCause(ctx, err)
		step.Error = err.Error()
		err = fmt.Errorf("%s: %w", what, err)
	}
	t.result.Steps = append(t.result.Steps, step)
	return err
}

func (t *trial) do(ctx context.Context) error {
	if err := t.step(ctx, "find a host and an image", t.find); err != nil {
		return err
	}
	begun, err := t.engine.Store.BeginRun(ctx, "", state.RunTest, report.Run{VM: report.VM{Pool: t.pool.Name, PoolUUID: t.pool.Inventory.UUID}})
	if err != nil {
		return err
	}
	t.run = begun
	ctx, stop := t.engine.Store.Keep(ctx, begun.Report.ID)
	defer stop()
	t.saga = saga.New(t.engine.Store, begun.Report.ID, Undoers(t.engine.Store, t.pool))
	failure := t.use(ctx)

	ctx, cancelled := context.WithoutCancel(ctx), ctx.Err() != nil
	// Newest first: the delegate goes before the disk that it may still hold.
	if err := t.step(ctx, "remove the scratch disk and what else is left", func(ctx context.Context) (int64, error) { return 0, t.saga.Unwind(ctx) }); err != nil {
		failure = errors.Join(failure, fmt.Errorf("%w; 'understudy gc' tries it again", err))
	}
	last := begun.Report
	last.State, last.Finished = report.StateCommitted, time.Now().UTC()
	switch {
	case failure != nil && cancelled:
		last.State, last.Error = report.StateCancelled, failure.Error()
	case failure != nil:
		last.State, last.Error = report.StateFailed, failure.Error()
	}
	return errors.Join(failure, t.engine.Store.SaveReport(ctx, last))
}

// find reads the pool and places the delegate.
func (t *trial) find(ctx context.Context) (_ int64, err error) {
	if t.pool.Inventory, err = inventory.Load(ctx, t.pool.API); err != nil {
		return 0, err
	}
	var host xapi.Ref
	if t.request.Host != "" {
		if host, err = t.pool.Inventory.FindHost(t.request.Host); err != nil {
			return 0, err
		}
	}
	var srs []xapi.Ref
	if t.request.SR != "" {
		sr, err := t.pool.Inventory.FindSR(t.request.SR)
		if err != nil {
			return 0, err
		}
		srs = append(srs, sr.Ref)
	}
	if t.place, err = placement.PlaceOne(t.pool.Inventory, host, srs...); err != nil {
		return 0, err
	}
	disks, err := t.pool.Inventory.DisksOf(t.place.TemplateRef)
	if err != nil {
		return 0, err
	}
	if len(disks) == 0 || disks[0].Number != bootDevice {
		return 0, fmt.Errorf("%w: it has no disk at position %d; deploy it anew", delegate.ErrImage, bootDevice)
	}
	t.sr, t.size = disks[0].VDI.SR, disks[0].VDI.VirtualSize
	if len(srs) > 0 {
		t.sr = srs[0]
	}
	t.result.Host, t.result.SR = t.place.HostName, t.pool.Inventory.SRs[t.sr].NameLabel
	return 0, nil
}

// use makes the scratch disk and the delegate, and has it work.
func (t *trial) use(ctx context.Context) error {
	var written, read manifest.Digest
	for _, one := range []struct {
		what string
		do   func(context.Context) (int64, error)
	}{
		{"create a scratch disk", t.createScratch},
		{"start a delegate and prove its identity", t.spawn},
		{"plug the scratch disk", t.plug},
		{"copy the delegate's boot disk to the scratch disk", t.copy},
		{"read the boot disk", t.scan(bootDevice, &written)},
		{"read the scratch disk", func(ctx context.Context) (int64, error) { return t.scan(t.number, &read)(ctx) }},
		{"compare the two", func(context.Context) (int64, error) { return 0, t.compare(written, read) }},
		{"unplug the scratch disk", func(ctx context.Context) (int64, error) { return 0, t.delegate.Unplug(ctx, t.number) }},
	} {
		if err := t.step(ctx, one.what, one.do); err != nil {
			return errors.Join(err, t.retire(ctx))
		}
	}
	return t.retire(ctx)
}

// retire powers the delegate off, if there is one.
func (t *trial) retire(ctx context.Context) error {
	if t.delegate == nil {
		return nil
	}
	return t.step(context.WithoutCancel(ctx), "power the delegate off and remove it", func(ctx context.Context) (int64, error) {
		return 0, t.delegate.Retire(ctx)
	})
}

// createScratch makes the disk before the delegate, so that recovery removes it after the delegate that may hold it.
func (t *trial) createScratch(ctx context.Context) (int64, error) {
	t.generation = manifest.NewGeneration()
	marker := replica.Marker{
		Installation: t.engine.Store.Installation().UUID, Run: t.run.Report.ID, Kind: replica.KindScratch,
		State: manifest.State{Dirty: true, Generation: t.generation},
	}
	ref, object, err := create(ctx, t.saga, creation{
		pool: t.pool, class: classVDI, kind: replica.KindScratch,
		call: func(ctx context.Context, name string, creating maker) (xapi.Ref, error) {
			return createDisk(ctx, creating, t.sr, name, t.size, marker)
		},
	})
	if err != nil {
		return 0, err
	}
	t.scratch, marker.Self = ref, object.UUID
	return 0, replica.Apply(ctx, t.pool.API, classVDI, ref, marker)
}

func (t *trial) spawn(ctx context.Context) (_ int64, err error) {
	spawner, err := t.engine.spawner(t.run.Report.ID, t.saga, t.engine.log().With("run", t.run.Report.ID))
	if err != nil {
		return 0, err
	}
	t.delegate, err = spawner.Spawn(ctx, delegate.Spec{
		Pool: t.pool, Host: t.place.HostRef, Template: t.place.TemplateRef, Side: string(placement.SideBoth),
	})
	if err != nil {
		return 0, err
	}
	t.result.Address, t.result.Version = t.delegate.Address, t.delegate.Version
	return 0, nil
}

func (t *trial) plug(ctx context.Context) (_ int64, err error) {
	t.number, err = t.delegate.Plug(ctx, t.scratch, t.size)
	return 0, err
}

// copy writes the whole scratch disk, by the same path as a replication inside one delegate.
func (t *trial) copy(ctx context.Context) (int64, error) {
	_, err := t.task(ctx, control.TaskSpec{
		ID: "trial.copy", Kind: control.KindCopy, Device: bootDevice, Target: t.number, Generation: t.generation,
	})
	return t.size, err
}

// scan reads a disk and stores its root.
func (t *trial) scan(number int, root *manifest.Digest) func(context.Context) (int64, error) {
	return func(ctx context.Context) (int64, error) {
		status, err := t.task(ctx, control.TaskSpec{ID: fmt.Sprintf("trial.scan.%d", number), Kind: control.KindScan, Device: number})
		*root = status.Root
		return t.size, err
	}
}

func (t *trial) task(ctx context.Context, spec control.TaskSpec) (control.TaskStatus, error) {
	spec.Size, spec.KeyID = t.size, t.engine.Store.Installation().DigestKey.ID()
	client := t.delegate.Control()
	if _, err := client.StartTask(ctx, spec); err != nil {
		return control.TaskStatus{}, err
	}
	return follow(ctx, client, spec.ID, func(control.TaskStatus) {})
}

func (t *trial) compare(written, read manifest.Digest) error {
	if written != read {
		return fmt.Errorf("%w: its root is %s, that of what was copied to it %s; check the storage of SR %s before anything is replicated to it",
			ErrCorrupt, read, written, t.result.SR)
	}
	return nil
}
