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

// A reverse makes the former source of a replica a replica of the VM that does the work now:
//
//	before:   source ══════════▶ replica          after:   former source ◀══════════ replica's VM, at work
//	          pool a             pool b                    halted, blocked           pool b
//
// Nothing of it moves data. The former source's disks become the disks of a pair of its own in the state database, of whose content
// nothing is known: the next run of that pair compares them, and sends what differs.

// ReverseRequest says which replica does the work now, and is to be replicated back.
type ReverseRequest struct {
	Replica        string         // id
	Source, Target *delegate.Pool // where the replica's source was, and where the replica is
	// SR is by what the pair is known, by name or uuid, in the source's pool. The former source's disks stay where they are. Empty: the
	// storage of the first of them.
	SR string
	// NoKeep does not keep what the former source holds in a snapshot first: what it holds beyond the failover is lost with the next run.
	NoKeep bool
	// Used takes a replica for failed over that somebody started, and that is halted again. One that runs is taken so anyhow.
	Used bool
}

// ReverseError says that a replica cannot be reversed, or failed back, as it is.
type ReverseError struct{ Replica, Cause, Mend string }

func (e *ReverseError) Error() string {
	return fmt.Sprintf("replica %s: %s; %s", e.Replica, e.Cause, e.Mend)
}

// Reverse makes the former source of a replica that has failed over a replica of the VM that does the work now. The former source must be
// halted; from then on it cannot be started by mistake, and what it holds is kept in a snapshot that no retention removes. Its name, its
// uuid and its interfaces' addresses stay; see state.FormerSource for what Failback gives back to it. Where the former source is gone the
// next run of the pair makes a new replica. A replica in standby that somebody started counts as one that has failed over, without a
// restore point to go back to.
//
// It may be repeated after it was cut short anywhere, and goes on.
//
// Errors: state.ErrNotFound, state.ErrBusy, *replica.FailoverError, *ReverseError, in which case nothing was changed, and those of the pools.
func (e *Engine) Reverse(ctx context.Context, request ReverseRequest) (report.Run, error) {
	source := *request.Source
	var err error
	if source.Inventory, err = inventory.Load(ctx, source.API); err != nil {
		return report.Run{}, fmt.Errorf("pool %s: %w", source.Name, err)
	}
	run, err := e.chore(ctx, request.Replica, request.Target, state.RunReverse, func(ctx context.Context, c *chore) error {
		return (&reversal{chore: c, request: request, from: &source}).reverse(ctx)
	}, &source)
	if err != nil {
		err = fmt.Errorf("reversing replica %s: %w", request.Replica, err)
	}
	return run, err
}

// reversal is a reverse under way.
type reversal struct {
	*chore
	request ReverseRequest
	from    *delegate.Pool // where the former source is, with its inventory
	sr      inventory.SR
	state   replica.Failover
	note    state.FailoverNote
	former  *chore // the pair in the other direction; its standby is the former source, nil when that is gone
}

func (r *reversal) refuse(mend, cause string, args ...any) error {
	return &ReverseError{Replica: r.record.ID, Cause: fmt.Sprintf(cause, args...), Mend: mend}
}

func (r *reversal) reverse(ctx context.Context) error {
	if err := r.check(ctx); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"record the pair", r.recordPair}, {"block the former source", r.blockFormer}, {"keep the former source", r.keepFormer},
		{"mark the former source", r.markFormer},
	} {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := r.step(s.name, func() error { return s.do(ctx) }); err != nil {
			return err
		}
	}
	r.events = append(r.events, r.former.events...)
	r.note.Blocked = false // it is blocked as a replica now, until it is none
	return r.set(ctx, replica.Reversed)
}

// check decides whether it can be done. It changes nothing.
func (r *reversal) check(ctx context.Context) error {
	r.state, r.note = replica.Failover(r.record.Failover.State), r.record.Failover.Note
	if r.from.Inventory.UUID != r.record.SourcePool {
		return r.refuse("detach the replica, and replicate its VM to that pool as to a new one", "its source was in pool %s, and %s is another one", r.record.SourcePool, r.from.Name)
	}
	if r.standby == nil {
		return r.refuse("detach it", "its VM is gone")
	}
	if err := r.checkState(); err != nil {
		return err
	}
	r.former = r.pair()
	if r.former.standby == nil {
		return r.findSR()
	}
	if err := r.checkFormer(); err != nil {
		return err
	}
	if err := r.findSR(); err != nil {
		return err
	}
	return r.checkRoom()
}

// checkState accepts a replica in standby that somebody started: he has failed it over by hand.
func (r *reversal) checkState() error {
	if r.state != replica.Standby {
		_, err := r.state.Begin(replica.VerbReverse)
		return err
	}
	decision := r.gatherer().judged()
	running := r.standby.vm.PowerState != xapi.Halted
	if !decision.Diverged || decision.Rung != replica.RungPower || !running && !r.request.Used {
		_, err := r.state.Begin(replica.VerbReverse)
		if decision.Diverged {
			return fmt.Errorf("%w; it was used (%s), and when it is what counts name its VM to have it reversed", err, decision.Cause)
		}
		return err
	}
	return nil
}

// pair is a chore on the pair in the other direction, under the record of this one.
func (r *reversal) pair() *chore {
	record := state.Replica{
		ID: r.note.Reverse, SourcePool: r.record.TargetPool, SourceVM: r.standby.vm.UUID, TargetPool: r.record.SourcePool, TargetVM: r.record.SourceVM,
	}
	pair := *r.chore
	pair.target, pair.events = r.from, nil
	pair.standby = findStandby(r.from.Inventory, record)
	if pair.standby == nil {
		record.TargetVM = ""
	} else {
		record.AcceptedStart = r.from.Inventory.VMMetrics[pair.standby.vm.Metrics].StartTime.Time
		record.Disks = r.pairDisks(pair.standby)
	}
	pair.record = record
	return &pair
}

// pairDisks are the disks of the former source that stand where the VM has one that does the work now. What else the former source has is
// left alone.
func (r *reversal) pairDisks(former *standby) (disks []state.Disk) {
	for _, name := range sortedDisks(former.disks) {
		d, ours := former.disks[name], r.standby.disks[name]
		if ours.VBDRef.IsNull() || d.VBD.Mode != xapi.ModeRW {
			continue
		}
		disks = append(disks, state.Disk{Disk: name, SourceVDI: ours.VDI.UUID, TargetVDI: d.VDI.UUID, LogicalSize: d.VDI.VirtualSize})
	}
	return disks
}

// checkFormer makes sure that nothing works with the former source, or could.
func (r *reversal) checkFormer() error {
	vm := r.former.standby.vm
	if vm.PowerState != xapi.Halted {
		return r.refuse("shut down the one that does not count",
			"its former source, VM %s (%s), is %s: two VMs would be at work, and what one of them writes would be lost", vm.NameLabel, vm.UUID, vm.PowerState)
	}
	marker, owner, _ := replica.Read(r.store.Installation().UUID, vm.UUID, vm.OtherConfig) // one that was not finished is finished
	if owner == replica.Ours && marker.Kind == replica.KindReplica && marker.Source != r.standby.vm.UUID {
		return r.refuse("detach that replica first", "its former source, VM %s (%s), is a replica of VM %s", vm.NameLabel, vm.UUID, marker.Source)
	}
	for _, d := range r.former.record.Disks {
		for _, holder := range r.former.gatherer().foreignVBDs(r.former.standby.disks[d.Disk].VDIRef) {
			if holder.Writable {
				return r.refuse("detach it there", "disk %s of its former source is held by VM %s, too, which may write to it", d.Disk, holder.VM)
			}
		}
	}
	return nil
}

// findSR finds the storage by which the pair is known.
func (r *reversal) findSR() (err error) {
	wanted := r.request.SR
	if wanted == "" && len(r.former.record.Disks) > 0 {
		first := r.former.standby.disks[r.former.record.Disks[0].Disk]
		wanted = r.from.Inventory.SRs[first.VDI.SR].UUID
	}
	if wanted == "" {
		return r.refuse("name a storage for them", "its former source has no disk any more, so that it is not known where new ones are to lie")
	}
	if r.sr, err = r.from.Inventory.FindSR(wanted); err == nil {
		r.former.record.TargetSR = r.sr.UUID
	}
	return err
}

// checkRoom makes sure that a snapshot of the former source can be made, or that none is wanted.
func (r *reversal) checkRoom() error {
	if r.request.NoKeep || r.note.Kept != "" {
		return nil
	}
	disks, err := r.from.Inventory.DisksOf(r.former.standby.vm.Ref)
	if err != nil {
		return err
	}
	var volumes []volume
	for _, d := range disks {
		volumes = append(volumes, volume{d.VDI, d.VDI.SR, d.VDI.VirtualSize})
	}
	if o := obstacle(r.from.Inventory, volumes, nil); o != nil {
		return r.refuse(o.Mend+", or go on without it (--no-keep): what the former source holds is lost with the next run then",
			"what its former source holds cannot be kept in a snapshot: %s", o.Cause)
	}
	return nil
}

// recordPair makes it durable that the replica is being reversed, what its former source is to have again, and the pair. Nothing was
// changed before.
func (r *reversal) recordPair(ctx context.Context) error {
	if r.state == replica.Standby {
		r.event("failed-over", "somebody started the replica's VM, which counts as failed over: there is no restore point to go back to")
		if err := r.set(ctx, replica.FailedOver); err != nil {
			return err
		}
	}
	if r.state != replica.Reversing {
		if r.former.standby != nil {
			var err error
			if r.note.Former, err = r.formerSource(ctx); err != nil {
				return err
			}
		}
		if err := r.set(ctx, replica.Reversing); err != nil {
			return err
		}
	}
	// Whoever started the replica by hand may have left blocks of ours in the way of the next snapshot.
	if err := r.block(ctx, r.standby.vm.Ref, replica.OthersBlocked); err != nil {
		return err
	}
	if r.former.standby == nil {
		r.event("source-gone", "the former source, VM %s, is gone: the next run makes a new one, and sends everything", r.record.SourceVM)
	}
	if r.note.Reverse != "" {
		return r.findPair(ctx)
	}
	pair, note, err := r.store.CreateReverse(ctx, r.record.ID, string(r.state), r.note, r.former.record)
	if errors.Is(err, state.ErrExists) {
		return r.refuse("detach that one first: 'understudy replica list' shows it", "VM %s has a replica in storage %s already: %v", r.standby.vm.NameLabel, r.sr.NameLabel, err)
	}
	r.former.record, r.note = pair, note
	return err
}

// findPair reads what an earlier attempt has recorded. The former source's disks are those of then; it may have run since.
func (r *reversal) findPair(ctx context.Context) error {
	start := r.former.record.AcceptedStart
	pair, err := r.store.Replica(ctx, r.note.Reverse)
	if err != nil {
		return err
	}
	r.former.record = pair
	if !start.After(pair.AcceptedStart) {
		return nil
	}
	_, err = r.engine.part(ctx, pair.ID, r.from, state.RunReverse, "accept its use", func(ctx context.Context, c *chore) error {
		return c.store.AcceptDivergence(ctx, pair.ID, start)
	})
	return err
}

// set stores the next state, or what is new in the note.
func (r *reversal) set(ctx context.Context, to replica.Failover) error {
	note := r.note
	if to != r.state {
		note.Since = time.Time{} // it begins now
	}
	err := r.turn(ctx, "record "+to.String(), to, note)
	if err == nil {
		r.state, r.note = to, r.record.Failover.Note
	}
	return err
}

// formerSource notes what protections, and the runs, take from the former source.
func (r *reversal) formerSource(ctx context.Context) (*state.FormerSource, error) {
	vm := r.former.standby.vm
	former := &state.FormerSource{
		Description: vm.NameDescription, Tagged: slices.Contains(vm.Tags, replica.TagLeaveAlone), HARestartPriority: vm.HARestartPriority,
		Order: vm.Order, AutoPowerOn: vm.OtherConfig[keyAutoPowerOn], VMData: vm.XenstoreData,
	}
	if vm.Appliance.IsNull() {
		return former, nil
	}
	return former, r.former.api().Call(ctx, "VM_appliance.get_uuid", &former.Appliance, vm.Appliance)
}

// blockFormer keeps the former source from being started. Somebody may have done it before.
func (r *reversal) blockFormer(ctx context.Context) error {
	if r.former.standby == nil {
		return nil
	}
	ref := r.former.standby.vm.Ref
	err := r.former.block(ctx, ref, func(now map[string]string) map[string]string { return replica.MergeBlocked(now, manifest.State{}) })
	if err != nil {
		return err
	}
	now, err := xapi.GetRecord[xapi.VM](ctx, r.former.api(), classVM, ref)
	if err != nil {
		return err
	}
	if now.PowerState != xapi.Halted {
		return r.refuse("shut down the one that does not count, and reverse again", "its former source, VM %s, was started meanwhile", now.NameLabel)
	}
	return protect(ctx, r.former.api(), ref, r.former.event)
}

// keepFormer keeps what the former source holds.
func (r *reversal) keepFormer(ctx context.Context) error {
	if r.former.standby == nil || r.request.NoKeep || r.note.Kept != "" {
		return nil
	}
	kept, err := r.former.keepAside(ctx, manifest.State{}, "before its reverse")
	if xapi.IsCode(err, noRoom...) {
		return r.refuse("free space on its storage, or go on without it (--no-keep): what the former source holds is lost with the next run then",
			"its storage had no room for a snapshot of its former source: %v", err)
	} else if err != nil {
		return fmt.Errorf("keeping what the former source holds: %w", err)
	}
	r.note.Kept = kept
	return r.set(ctx, r.state)
}

// markFormer makes the former source a replica that the next run finds.
func (r *reversal) markFormer(ctx context.Context) error {
	if r.former.standby == nil {
		return nil
	}
	return r.former.markStandby(ctx)
}

// markStandby marks the VM and the recorded disks of a replica of whose content nothing is known.
func (c *chore) markStandby(ctx context.Context) error {
	marker := replica.Marker{Installation: c.store.Installation().UUID, Run: c.id}
	for _, d := range c.record.Disks {
		held := c.standby.disks[d.Disk]
		if held.VDI.UUID != d.TargetVDI {
			return fmt.Errorf("disk %s of VM %s is VDI %s now, it was %s: %w", d.Disk, c.standby.vm.NameLabel, held.VDI.UUID, d.TargetVDI, ErrChanged)
		}
		marker.Kind, marker.Self, marker.Source, marker.Disk = replica.KindReplicaDisk, d.TargetVDI, d.SourceVDI, d.Disk
		if err := replica.Apply(ctx, c.api(), classVDI, held.VDIRef, marker); err != nil {
			return err
		}
	}
	marker.Kind, marker.Self, marker.Source, marker.Disk = replica.KindReplica, c.standby.vm.UUID, c.record.SourceVM, ""
	return replica.Apply(ctx, c.api(), classVM, c.standby.vm.Ref, marker)
}
