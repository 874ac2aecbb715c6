package replication

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// giveBack gives the former source what it had before it became a replica. What the pool refuses is an event.
func (f *failback) giveBack(ctx context.Context, c *chore) error {
	former := f.note.Former
	if former == nil || c.standby.vm.UUID != f.record.SourceVM {
		return nil // a run has made another one in its place
	}
	ref := c.standby.vm.Ref
	now, err := xapi.GetRecord[xapi.VM](ctx, c.api(), classVM, ref)
	if err != nil {
		return err
	}
	for _, one := range f.returned(ctx, c, now, former) {
		if !one.wanted {
			continue
		}
		err := one.set()
		if refused(err) {
			c.event("not-given-back", "the pool does not let VM %s have its %s again: %v", now.NameLabel, one.name, err)
		} else if err != nil {
			return fmt.Errorf("giving VM %s its %s back: %w", now.NameLabel, one.name, err)
		}
	}
	return nil
}

// property is something that the former source gets back.
type property struct {
	name   string
	wanted bool
	set    func() error
}

func (f *failback) returned(ctx context.Context, c *chore, now xapi.VM, former *state.FormerSource) []property {
	ref := c.standby.vm.Ref
	call := func(setter string, args ...any) func() error {
		return func() error { return settable{api: c.api(), ref: ref}.call(ctx, setter, args...) }
	}
	return []property{
		{"description", isOurDescription(now.NameDescription), call("set_name_description", former.Description)},
		{"tag " + replica.TagLeaveAlone, former.Tagged, call("add_tags", replica.TagLeaveAlone)},
		{"start order", former.Order != now.Order, call("set_order", former.Order)},
		{"vm-data", len(former.VMData) > 0 && len(now.XenstoreData) == 0, call("set_xenstore_data", former.VMData)},
		{"start with its host", former.AutoPowerOn != "", func() error {
			return xapi.SetOtherConfigKey(ctx, c.api(), classVM, ref, keyAutoPowerOn, former.AutoPowerOn)
		}},
		{"membership of a vApp", former.Appliance != "" && now.Appliance.IsNull(), func() error {
			appliance, err := xapi.GetByUUID(ctx, c.api(), "VM_appliance", former.Appliance)
			if err != nil {
				return err
			}
			return call("set_appliance", appliance)()
		}},
		{"HA restart priority", former.HARestartPriority != now.HARestartPriority, call("set_ha_restart_priority", former.HARestartPriority)},
	}
}

// standBy makes the replica's VM a standby copy again, of whose content nothing is known.
func (f *failback) standBy(ctx context.Context) error {
	if err := f.look(ctx, f.record.ID); err != nil {
		return err
	}
	if f.standby == nil {
		return f.refuse("detach the replica", "its VM is gone")
	}
	if err := f.standAgain(ctx); err != nil {
		return err
	}
	if err := f.store.AcceptDivergence(ctx, f.record.ID, f.gatherer().vm().StartTime); err != nil {
		return err
	}
	if f.request.Forgotten != nil {
		if err := f.request.Forgotten(ctx); err != nil {
			return err
		}
	}
	return f.set(ctx, replica.Standby)
}

// standAgain records the disks that the replica has now, marks them and protects it. A disk that was added while it did the work is one
// of its source's now.
func (f *failback) standAgain(ctx context.Context) error {
	pool, err := inventory.Load(ctx, f.from.API)
	if err != nil {
		return err
	}
	if source := findStandby(pool, state.Replica{TargetVM: f.record.SourceVM}); source != nil {
		for name, d := range f.standby.disks {
			if of, ok := source.disks[name]; ok && !d.VBDRef.IsNull() {
				disk := state.Disk{Disk: name, SourceVDI: of.VDI.UUID, TargetVDI: d.VDI.UUID, LogicalSize: of.VDI.VirtualSize}
				if err := f.store.PutDisk(ctx, f.record.ID, disk); err != nil {
					return err
				}
			}
		}
	}
	if f.record, err = f.store.Replica(ctx, f.record.ID); err != nil {
		return err
	}
	if err := f.markStandby(ctx); err != nil {
		return err
	}
	if err := f.look(ctx, f.record.ID); err != nil { // its marker says no state now
		return err
	}
	return f.protect(ctx)
}
