package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// A failover is a row of runs, each recorded for itself; what holds them together is the replica's state, which is durable before
// anything is done in it, and suspends every other run. Its note says how far the failover came, so that the verb goes on where it was
// cut short, and undo knows what is to be taken back:
//
//	choose a restore point, pin it ─▶ revert to it, unless the replica holds it ─▶ lift the blocks ─▶ start
//	   failing-over, Point               (a run of its own)                         Released          failed-over

// keepFailover is why retention does not remove the restore point that a failover can be undone to.
const keepFailover = "failover"

// FailoverRequest says which replica is to do the work of its source, and from which restore point on.
type FailoverRequest struct {
	Replica string         // id
	Target  *delegate.Pool // where the replica is
	// Source is the pool of the source VM; nil: it cannot be reached, and nothing is asked of it. Of one that does not answer an event
	// tells.
	Source *delegate.Pool
	// Point is the restore point, as in a RevertRequest. Empty or Newest: what the replica holds when that is as a run committed it, else
	// its newest restore point.
	Point string
	// Force has the replica started although the source VM runs: two machines with the same addresses.
	Force bool
	// NoUndo allows a failover that cannot be undone, since the replica has no restore point to go back to; else that is ErrNoWayBack.
	NoUndo bool
	// NoStart leaves the replica halted, for the administrator to start.
	NoStart bool
	Host    string // name or uuid of the host to start it on; empty: the pool chooses

	// Planned loses nothing: the source VM, which must be reachable, is shut down, and the replica is brought up to date after that. What
	// fails until then is taken back, and the source started again.
	Planned bool
	// Sync says how the two runs of a planned failover are done: as those of the replica's job.
	// The replica is overwritten, and a restore point required, whatever it says.
	Sync Request
	// Hard has the source VM switched off when it does not shut down.
	Hard bool
	// ShutdownTimeout is how long it may take to shut down; 0: 21 minutes.
	ShutdownTimeout time.Duration
}

func (r FailoverRequest) validate() error {
	switch {
	case !r.Planned:
		return nil
	case r.Source == nil:
		return errors.New("a planned failover needs its source's pool")
	case r.Point != "" && r.Point != Newest:
		return errors.New("a planned failover goes on with what its source holds last, and not with a restore point")
	case r.Force:
		return errors.New("a planned failover shuts its source down: there is nothing to force")
	}
	return r.Sync.validate()
}

// Failover has a replica do the work of its source, which may be lost: the replica is taken to the restore point that is wanted unless it
// holds that, what kept it from being started goes, and it is started. From then on the state of the replica suspends its runs. The
// restore point is kept, so that UndoFailover gives up what the replica did since.
//
// It may be repeated after it was cut short or failed, and goes on then; where the replica cannot be started it stays as it is, on the way.
//
// Errors, before anything was touched: state.ErrNotFound, state.ErrBusy, *replica.FailoverError, *HeldError of a replica that has diverged
// or is not known to be ours, ErrNoRestorePoint, ErrNoWayBack, *RevertError, *SourceRunsError;
// of a planned one *SourceStateError, *StartError when no host can start it, and those of Plan. Later: *StartError, *ShutdownError, those
// of Replicate, and those of the pools.
func (e *Engine) Failover(ctx context.Context, request FailoverRequest) (report.Run, error) {
	f := &failover{engine: e, request: request, sides: sides{replica: request.Replica, target: request.Target, source: request.Source}}
	if err := request.validate(); err != nil {
		return report.Run{}, err
	}
	work := f.run
	if request.Planned {
		work = f.runPlanned
	}
	run, err := work(ctx)
	if err != nil {
		err = fmt.Errorf("failing over to replica %s: %w", request.Replica, err)
	}
	return run, err
}

// failover is a Failover under way.
type failover struct {
	sides
	engine  *Engine
	request FailoverRequest
	begun   bool   // a planned one has begun to change the source
	revert  string // uuid of the restore point to revert to; empty: it needs no revert
}

func (f *failover) run(ctx context.Context) (report.Run, error) {
	run, err := f.chore(ctx, f.engine, state.RunFailover, "begin the failover", f.prepare)
	if err == nil && f.revert != "" {
		run, err = f.revertTo(ctx, f.engine, f.revert, replica.FailingOver)
	}
	if err == nil {
		run, err = f.chore(ctx, f.engine, state.RunFailover, "take over", f.takeOver)
	}
	return run, err
}

// sides are the replica of a verb and its two pools, and what the verb has told so far.
type sides struct {
	replica        string // id
	target, source *delegate.Pool
	events         []report.Event
}

// chore does one part of a verb as a run. Its report repeats the events of the parts before it.
func (s *sides) chore(ctx context.Context, e *Engine, kind state.RunKind, name string, do func(context.Context, *chore) error) (report.Run, error) {
	run, err := e.part(ctx, s.replica, s.target, kind, name, func(ctx context.Context, c *chore) error {
		c.events = slices.Concat(s.events, c.events)
		return do(ctx, c)
	})
	return s.hear(run), err
}

func (s *sides) revertTo(ctx context.Context, e *Engine, point string, now replica.Failover) (report.Run, error) {
	before := s.events
	run, err := e.Revert(ctx, RevertRequest{Replica: s.replica, Target: s.target, Point: point, failover: now})
	run.Events = slices.Concat(before, run.Events)
	return s.hear(run), err
}

func (s *sides) hear(run report.Run) report.Run {
	if run.ID != "" {
		s.events = run.Events
	}
	return run
}

// turn makes it durable which state the replica is in; what is done in that state follows.
func (c *chore) turn(ctx context.Context, name string, to replica.Failover, note state.FailoverNote) error {
	from := c.record.Failover.State
	if string(to) != from || note.Since.IsZero() {
		note.Since = time.Now().UTC()
	}
	next := state.Failover{State: string(to)}
	if to != replica.Standby {
		next.Note = note
	}
	err := c.step(name, func() error { return c.store.SetFailover(ctx, c.record.ID, from, next) })
	if err == nil {
		c.record.Failover = next
	}
	return err
}

// prepare decides everything, and records it; nothing is touched before that.
func (f *failover) prepare(ctx context.Context, c *chore) error {
	now := replica.Failover(c.record.Failover.State)
	through, err := now.Begin(replica.VerbFailover)
	if err != nil {
		return err
	}
	note := c.record.Failover.Note
	c.point = note.Point
	if c.standby == nil {
		return fmt.Errorf("its VM is gone from pool %s: %w", c.target.Name, ErrNoRestorePoint)
	}
	if err := f.findHost(c); err != nil {
		return err
	}
	if !note.Released {
		if err := f.choose(ctx, c, &note); err != nil {
			return err
		}
	} else if f.request.Point != "" && f.request.Point != Newest && f.request.Point != note.Point {
		return fmt.Errorf("it is on the way with restore point %s, and may have been started: undo that first", note.Point)
	}
	source, err := f.lookAtSource(ctx, c)
	if err != nil {
		return err
	}
	if err := source.refuseRunning(c, f.request.Force); err != nil {
		return err
	}
	note.Blocked = note.Blocked || source != nil
	if err := c.turn(ctx, "record the failover", through, note); err != nil {
		return err
	}
	if err := c.step("pin the restore point", func() error { return c.pin(ctx, note.Point) }); err != nil {
		return err
	}
	return c.step("block the source", func() error { return source.block(ctx, c) })
}

// findHost makes sure that there is the host that was asked for.
func (f *failover) findHost(c *chore) error {
	if f.request.Host == "" {
		return nil
	}
	_, err := c.target.Inventory.FindHost(f.request.Host)
	return err
}

// pin has retention keep one restore point, by its uuid, and let go of those that were pinned before.
func (c *chore) pin(ctx context.Context, uuid string) error {
	for _, p := range restorePointsOf(c.store.Installation().UUID, c.target.Inventory.VMs, c.standby.vm.Ref) {
		var err error
		switch {
		case p.vm.UUID == uuid && p.marker.Keep == "": // another reason does as well
			err = replica.SetKeep(ctx, c.api(), p.ref, keepFailover)
		case p.vm.UUID != uuid && p.marker.Keep == keepFailover:
			err = replica.SetKeep(ctx, c.api(), p.ref, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// takeOver lets the replica be started, and starts it.
func (f *failover) takeOver(ctx context.Context, c *chore) error {
	now, note := replica.Failover(c.record.Failover.State), c.record.Failover.Note
	to, err := now.End(replica.VerbFailover)
	if err != nil {
		return err
	}
	c.point = note.Point
	if c.standby == nil {
		return fmt.Errorf("its VM is gone from pool %s: %w", c.target.Name, ErrNoRestorePoint)
	}
	if !note.Released {
		if err := f.checkReady(ctx, c); err != nil {
			return err
		}
		note.Released = true
		if err := c.turn(ctx, "record the release", now, note); err != nil {
			return err
		}
	}
	if err := c.step("release", func() error { return f.release(ctx, c) }); err != nil {
		return err
	}
	if f.request.NoStart {
		c.event("not-started", "the replica can be started and was not, as was asked for")
	} else if err := c.step("start", func() error { return f.start(ctx, c) }); err != nil {
		return err
	}
	return c.turn(ctx, "record the start", to, note)
}

// checkReady makes sure that nothing came in between the choice and now.
func (f *failover) checkReady(ctx context.Context, c *chore) error {
	decision := c.gatherer().judged()
	switch {
	case !decision.Writable:
		return c.held(decision)
	case !committed(decision):
		return fmt.Errorf("%s: %w", decision.Cause, ErrChanged)
	case !c.record.Failover.Note.Planned || !f.request.Planned:
		return nil
	}
	source, err := f.demandSource(ctx, c)
	if err == nil && source.vm.PowerState != xapi.Halted {
		err = &SourceRunsError{VM: source.vm.UUID, Name: source.vm.NameLabel, Pool: source.pool.Name}
	}
	return err
}

// ErrNoWayBack says that a failover could not be undone.
var ErrNoWayBack = errors.New("it has no restore point, so that the failover could not be undone: after an undo the next run would scan and " +
	"overwrite the replica, which is of no use until then; allow that (--no-undo), or choose another replica")
