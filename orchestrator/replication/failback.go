package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// A failback is a planned failover of the reverse pair, whose end is that there is no such pair any more:
//
//	a run of the pair while the replica's VM works ─▶ that VM is blocked and shut down ─▶ the last run
//	  ─▶ the last run is noted: from here on it goes forward only
//	  ─▶ the former source is started, is no replica any more and has again what it had; the pair is forgotten
//	  ─▶ the replica's VM is a standby copy again, of whose content nothing is known: the next run compares it
//
// Whatever fails before the former source was started leads back: the replica's VM is started again, if it was running, and the replica
// is reversed as before. A process that dies leaves the replica failing back, and Failback goes on. The VM that must not run is halted
// and blocked before the other one is started, each way.

const (
	// powerTimeout bounds a start, and a shutdown that nobody is asked for.
	powerTimeout = 10 * time.Minute
	// backTimeout bounds the way back from a failback that failed.
	backTimeout = powerTimeout + time.Minute
)

// FailbackRequest says which replica's former source takes the work over again.
type FailbackRequest struct {
	Replica        string         // id
	Source, Target *delegate.Pool // as in ReverseRequest
	// Run is how the reverse pair is replicated, but for pools, VM and SR, which the pair says.
	Run     Request
	Hard    bool // shut the replica's VM down without asking its guest
	NoStart bool // leave the former source halted
	// Forgotten is called once the reverse pair is forgotten, so that whoever else knows it may forget it, too; it may be called again.
	// May be nil.
	Forgotten func(ctx context.Context) error
}

// Failback has the former source of a replica that is reversed take the work over again, and the replica stand by as before. It may be
// repeated after it was cut short anywhere, and goes on.
//
// Errors: state.ErrNotFound, state.ErrBusy, *replica.FailoverError, *ReverseError, those of Replicate, and those of the pools. After an
// error the report's events say whether the replica's VM is at work again, or what is left to do.
func (e *Engine) Failback(ctx context.Context, request FailbackRequest) (report.Run, error) {
	source := *request.Source
	var err error
	if source.Inventory, err = inventory.Load(ctx, source.API); err != nil {
		return report.Run{}, fmt.Errorf("pool %s: %w", source.Name, err)
	}
	run, err := e.chore(ctx, request.Replica, request.Target, state.RunFailback, func(ctx context.Context, c *chore) error {
		return (&failback{reversal: reversal{chore: c, from: &source}, request: request}).failBack(ctx)
	}, &source)
	if err != nil {
		err = fmt.Errorf("failing replica %s back: %w", request.Replica, err)
	}
	return run, err
}

// failback is one under way.
type failback struct {
	reversal
	request FailbackRequest
	pair    state.Replica // its ID is empty once it is forgotten
}

func (f *failback) failBack(ctx context.Context) error {
	if err := f.check(ctx); err != nil {
		return err
	}
	if f.note.Final == "" {
		if err := f.handOver(ctx); err != nil {
			return f.back(ctx, err)
		}
	}
	if f.pair.ID != "" {
		if err := f.step("take over", func() error { return f.takeOver(ctx) }); err != nil {
			return f.back(ctx, err)
		}
	}
	return f.step("stand by", func() error { return f.standBy(ctx) })
}

// check decides whether it can be done. It changes nothing.
func (f *failback) check(ctx context.Context) error {
	f.state, f.note = replica.Failover(f.record.Failover.State), f.record.Failover.Note
	if _, err := f.state.Begin(replica.VerbFailback); err != nil {
		return err
	}
	if f.from.Inventory.UUID != f.record.SourcePool {
		return fmt.Errorf("replica %s has its source in pool %s, not in %s", f.record.ID, f.record.SourcePool, f.from.Name)
	}
	if f.standby == nil {
		return f.refuse("detach the replica: its former source is a replica of what is gone", "its VM is gone")
	}
	pair, err := f.store.Replica(ctx, f.note.Reverse)
	switch {
	case errors.Is(err, state.ErrNotFound) && f.note.Final != "":
		return nil
	case errors.Is(err, state.ErrNotFound):
		return f.refuse("detach this replica, too", "its reverse pair %s was detached", f.note.Reverse)
	case err != nil:
		return err
	}
	f.pair = pair
	if power := f.standby.vm.PowerState; power == xapi.Suspended || power == xapi.Paused {
		return f.refuse("resume it, or shut it down", "its VM %s, which does the work, is %s", f.standby.vm.NameLabel, power)
	}
	if f.note.Final == "" {
		return nil
	}
	if former := findStandby(f.from.Inventory, pair); former != nil && f.untouched(f.from.Inventory, former) {
		f.note.Final = "" // it may not be the last any more
		return nil
	}
	if f.standby.vm.PowerState != xapi.Halted {
		return f.refuse("shut down the one that does not count, and fail back again", "its VM was started after the last run, and its former source may have taken over")
	}
	return nil
}

// untouched reports whether the former source is as the runs of the pair left it: a replica that nobody has started.
func (f *failback) untouched(pool *inventory.Pool, former *standby) bool {
	g := gatherer{pool: pool, installation: f.store.Installation().UUID, record: f.pair, standby: former}
	if _, unused := replica.Unused(g.vm()); !unused || !g.is(former.vm.UUID, former.vm.OtherConfig, replica.KindReplica) {
		return false
	}
	for _, d := range g.recorded() {
		if !g.is(d.VDI.UUID, d.VDI.OtherConfig, replica.KindReplicaDisk) {
			return false
		}
	}
	return true
}

// handOver brings the former source up to date and shuts the VM down that does the work now.
func (f *failback) handOver(ctx context.Context) error {
	running := f.standby.vm.PowerState == xapi.Running
	if running {
		if err := f.step("run while it works", func() error { return f.replicate(ctx) }); err != nil {
			return err
		}
	}
	f.note.Halted = f.note.Halted || running
	if err := f.set(ctx, replica.FailingBack); err != nil {
		return err
	}
	if err := f.step("shut down", func() error { return f.shutDown(ctx) }); err != nil {
		return err
	}
	if err := f.step("last run", func() error { return f.replicate(ctx) }); err != nil {
		return err
	}
	return f.set(ctx, f.state)
}

// replicate runs the reverse pair.
func (f *failback) replicate(ctx context.Context) error {
	request := f.request.Run
	request.Source, request.Target, request.VM, request.SR = f.request.Target, f.request.Source, f.pair.SourceVM, f.pair.TargetSR
	request.OverwriteTarget = true
	run, err := f.engine.Replicate(ctx, request)
	if err != nil {
		return err
	}
	f.note.Final = ""
	if f.state == replica.FailingBack {
		f.note.Final = run.ID
	}
	f.pair, err = f.store.Replica(ctx, f.pair.ID) // which may have another VM than before
	return err
}

// shutDown halts the VM that does the work now. It is blocked before, so that it stays halted.
func (f *failback) shutDown(ctx context.Context) error {
	if err := f.block(ctx, f.standby.vm.Ref, standingBy); err != nil {
		return err
	}
	return haltVM(ctx, f.api(), f.standby.vm, f.request.Hard)
}

// standingBy are the blocks of a replica whose disks are what they should be.
func standingBy(now map[string]string) map[string]string {
	return replica.MergeBlocked(now, manifest.State{Generation: manifest.NewGeneration()})
}

// haltVM shuts a VM down; hard: without asking its guest.
func haltVM(ctx context.Context, api xapi.API, vm inventory.VM, hard bool) error {
	halted := xapi.Record(api, classVM, vm.Ref, func(now xapi.VM) bool { return now.PowerState == xapi.Halted })
	if is, err := halted(ctx); is || err != nil {
		return err
	}
	method, bound := "VM.clean_shutdown", defaultShutdown
	if hard {
		method, bound = "VM.hard_shutdown", powerTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	err := xapi.Ensure(ctx, api, method, halted, vm.Ref)
	if err != nil && !hard {
		return fmt.Errorf("shutting VM %s down: %w; shut it down yourself, or have it done without its guest (--hard)", vm.NameLabel, err)
	}
	return err
}

// takeOver starts the former source and makes it a VM of its own again. The reverse pair is this chore's all the while, so that no run
// writes to what is being started.
func (f *failback) takeOver(ctx context.Context) error {
	_, err := f.engine.chore(ctx, f.pair.ID, f.request.Source, state.RunFailback, func(ctx context.Context, c *chore) error {
		defer func() { f.events = append(f.events, c.events...) }()
		if c.standby == nil {
			return f.refuse("fail back again: a run makes a new one", "its former source, VM %s, is gone", c.record.TargetVM)
		}
		if err := f.ready(ctx, c); err != nil {
			return err
		}
		if !f.request.NoStart {
			if err := f.startFormer(ctx, c); err != nil {
				return err
			}
		}
		if err := c.release(ctx, true); err != nil {
			return err
		}
		if err := f.giveBack(ctx, c); err != nil {
			return err
		}
		if err := c.dropLease(ctx); err != nil {
			return err
		}
		if source := c.standby.vm.UUID; source != f.record.SourceVM {
			f.event("source-replaced", "VM %s stands in for VM %s, which is gone: a job that names the old one by its uuid needs the new one", source, f.record.SourceVM)
			if err := f.store.SetSource(ctx, f.record.ID, source); err != nil {
				return err
			}
		}
		return c.forget(ctx, f.request.Target)
	})
	if err == nil {
		f.pair.ID = ""
	}
	return err
}

// ready makes sure once more that the other VM does not run, and that nobody else could write to the former source's disks.
func (f *failback) ready(ctx context.Context, c *chore) error {
	var power xapi.VMPowerState
	if err := f.api().Call(ctx, "VM.get_power_state", &power, f.standby.vm.Ref); err != nil {
		return err
	}
	if power != xapi.Halted {
		return f.refuse("shut it down and fail back again", "its VM %s was started meanwhile", f.standby.vm.NameLabel)
	}
	if !f.untouched(c.target.Inventory, c.standby) {
		return nil // it goes on
	}
	if d := c.gatherer().judged(); !d.Writable || slices.ContainsFunc(c.record.Disks, func(d state.Disk) bool { return !d.State.Valid() || d.State.Dirty }) {
		return fmt.Errorf("VM %s is not what the last run left (%s): %w", c.standby.vm.NameLabel, d.Cause, ErrChanged)
	}
	return nil
}

// start starts a VM where its pool wants it.
func start(ctx context.Context, c *chore, vm xapi.Ref) error {
	ctx, cancel := context.WithTimeout(ctx, powerTimeout)
	defer cancel()
	return c.start(ctx, c.api(), vm, xapi.NullRef)
}

// startFormer starts the former source, and blocks it again when that fails.
func (f *failback) startFormer(ctx context.Context, c *chore) error {
	vm := c.standby.vm
	if err := c.block(ctx, vm.Ref, replica.OthersBlocked); err != nil {
		return err
	}
	return start(ctx, c, vm.Ref)
}

// back undoes what was done before the former source was started, whatever became of ctx.
func (f *failback) back(ctx context.Context, failure error) error {
	if f.state != replica.FailingBack {
		return failure // nothing was done
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backTimeout)
	defer cancel()
	err := f.step("back to reversed", func() error { return f.wayBack(ctx) })
	if errors.Is(err, errNoWayBack) {
		return fmt.Errorf("%w; fail back again, it goes on from there: %w", failure, err)
	}
	if err != nil {
		return fmt.Errorf("%w; and the way back failed, fail back again: %w", failure, err)
	}
	f.event("back", "the failback was given up, and VM %s does the work as before", f.standby.vm.NameLabel)
	return failure
}

// errNoWayBack says that the former source was started, or is a VM of its own already.
var errNoWayBack = errors.New("its former source has taken over, or may have")

func (f *failback) wayBack(ctx context.Context) error {
	if err := f.holdFormer(ctx); err != nil {
		return err
	}
	if err := f.block(ctx, f.standby.vm.Ref, replica.OthersBlocked); err != nil {
		return err
	}
	if f.note.Halted {
		if err := start(ctx, f.chore, f.standby.vm.Ref); err != nil {
			return err
		}
	}
	f.note.Halted, f.note.Final = false, ""
	return f.set(ctx, replica.Reversed)
}

// holdFormer makes sure that the former source has not been started, and cannot be.
func (f *failback) holdFormer(ctx context.Context) error {
	c := *f.chore
	c.target = f.from
	pool, err := inventory.Load(ctx, c.api())
	if err != nil {
		return err
	}
	former := findStandby(pool, f.pair)
	if former == nil {
		return nil // no run has made it yet
	}
	if f.pair.ID == "" || !f.untouched(pool, former) {
		return errNoWayBack
	}
	if err := c.block(ctx, former.vm.Ref, standingBy); err != nil {
		return err
	}
	halted := xapi.Record(c.api(), classVM, former.vm.Ref, func(vm xapi.VM) bool { return vm.PowerState == xapi.Halted })
	if is, err := halted(ctx); err != nil || is {
		return err
	}
	return errNoWayBack
}
