package replication

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// makeClone clones the restore point and makes the clone ours, its disks first: a clone that bears its own marker has disks that bear
// theirs. Until then it is a template, which nobody can start, and bears the markers of its original, which name that.
func (r *rehearsal) makeClone(ctx context.Context) (err error) {
	api := r.target.API
	r.ref, r.clone, err = create(ctx, r.saga, creation{
		pool: r.target, class: classVM, kind: replica.KindRehearsal, origin: r.point.vm.UUID, within: rehearsalTimeout,
		call: func(ctx context.Context, name string, _ maker) (xapi.Ref, error) {
			return xapi.CopyVM(ctx, api, "VM.clone", r.point.ref, name)
		},
	})
	if err != nil {
		return err
	}
	vm, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, r.ref)
	if err != nil {
		return err
	}
	held, err := disksOf(ctx, api, vm)
	if err != nil {
		return err
	}
	for _, d := range held {
		if err := r.mark(ctx, classVDI, d.ref, replica.Marker{Kind: replica.KindRehearsalDisk, Self: d.vdi.UUID, Disk: d.number}); err != nil {
			return err
		}
	}
	if err := r.mark(ctx, classVM, r.ref, replica.Marker{Kind: replica.KindRehearsal, Self: r.clone.UUID, Source: r.point.vm.UUID}); err != nil {
		return err
	}
	// The VM leads to them; their own records are for the time when somebody has removed the VM alone.
	for _, d := range held {
		_, object, err := create(ctx, r.saga, creation{
			pool: r.target, class: classVDI, kind: replica.KindRehearsalDisk, origin: r.clone.UUID,
			call: func(context.Context, string, maker) (xapi.Ref, error) { return d.ref, nil },
		})
		if err != nil {
			return err
		}
		r.disks = append(r.disks, object)
	}
	return nil
}

// mark applies our marker, and takes off what an original's says beyond it.
func (r *rehearsal) mark(ctx context.Context, class string, ref xapi.Ref, m replica.Marker) error {
	m.Installation, m.Run = r.store.Installation().UUID, r.id
	if err := replica.Apply(ctx, r.target.API, class, ref, m); err != nil {
		return err
	}
	for _, key := range []string{replica.KeyVerdict, replica.KeyCarriedTags} {
		if err := r.target.API.Call(ctx, class+".remove_from_other_config", nil, ref, key); err != nil {
			return err
		}
	}
	return nil
}

// isolate makes the clone a VM that can be started and that nothing in the world takes for the real one. Its interfaces are destroyed,
// not unplugged: a start plugs whatever is there, and to lock them needs a licence (xapi-facts §6.3, §6.5). Those that it gets instead
// have the addresses that the pool draws for the clone. Only then it ceases to be a template.
func (r *rehearsal) isolate(ctx context.Context) error {
	api := r.target.API
	vm, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, r.ref)
	if err != nil {
		return err
	}
	for _, ref := range vm.VIFs {
		vif, err := xapi.GetRecord[xapi.VIF](ctx, api, "VIF", ref)
		if err != nil {
			return err
		}
		if err := xapi.Destroy(ctx, api, "VIF", ref); err != nil {
			return fmt.Errorf("interface %s: %w", vif.Device, err)
		}
		if r.network.IsNull() {
			continue
		}
		_, err = xapi.MakeVIF(ctx, api, map[string]any{
			"device": vif.Device, "network": r.network, "VM": r.ref, "MAC": "", "MTU": vif.MTU, "other_config": map[string]string{},
			"qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
		})
		if err != nil {
			return fmt.Errorf("interface %s on network %s: %w", vif.Device, r.request.Network, err)
		}
	}
	if len(vm.VIFs) == 0 && !r.network.IsNull() {
		r.report.event("no-interface", "the restore point has no interface: the clone has none on network %s either", r.request.Network)
	}
	s := settable{api: api, ref: r.ref, now: vm}
	for _, p := range protections { // none may fail: HA, for one, would start the clone anew wherever it likes
		if p.absent(vm) {
			if err := s.call(ctx, p.set, p.args...); err != nil {
				return fmt.Errorf("turning off the clone's %s: %w", p.name, err)
			}
		}
	}
	if r.request.Auto { // else a crash looks like a restart
		if err := setField(ctx, api, classVM, r.ref, "actions_after_crash", "destroy"); err != nil {
			return err
		}
	}
	r.name = fmt.Sprintf("%s test %s", r.standby.vm.NameLabel, r.started.UTC().Format("2006-01-02 15:04:05Z"))
	if err := setField(ctx, api, classVM, r.ref, "name_label", r.name); err != nil {
		return err
	}
	if err := setField(ctx, api, classVM, r.ref, "name_description", r.description()); err != nil {
		return err
	}
	// Not VM.set_is_a_template, for which some pools want a licence (xapi-facts §6.3).
	ours := xapi.Record(api, classVM, r.ref, func(vm xapi.VM) bool { return !vm.IsATemplate })
	return xapi.Ensure(ctx, api, "VM.provision", ours, r.ref)
}

func (r *rehearsal) description() string {
	return fmt.Sprintf("A clone of restore point %s, to see whether it boots. 'understudy replica test %s --end' removes it.", r.point.vm.NameLabel, r.record.ID)
}

// start starts the clone on its host.
func (r *rehearsal) start(ctx context.Context) error {
	api := r.target.API
	if err := api.Call(ctx, "VM.get_guest_metrics", &r.stale, r.ref); err != nil {
		return err
	}
	running := xapi.Record(api, classVM, r.ref, func(vm xapi.VM) bool { return vm.PowerState == xapi.Running })
	if err := xapi.Ensure(ctx, api, "VM.start_on", running, r.ref, r.host.Ref, false, false); err != nil {
		return fmt.Errorf("starting the clone on host %s: %w", r.host.NameLabel, err)
	}
	r.begun = time.Now()
	return nil
}

// note keeps the verdict on the restore point.
func (r *rehearsal) note(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx) // it has been found
	api := r.target.API
	now, err := poolTime(ctx, r.target)
	if err != nil {
		return err
	}
	r.result.Time = now
	r.report.event(string(r.result.Outcome), "restore point %s (%s): %s", r.point.vm.NameLabel, r.point.vm.UUID, r.result.Cause)
	vm, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, r.point.ref)
	if err == nil {
		marker, owner, _ := replica.Read(r.store.Installation().UUID, vm.UUID, vm.OtherConfig)
		if owner != replica.Ours || marker.Kind != replica.KindRestorePoint {
			err = ErrStranger
		} else {
			err = xapi.SetOtherConfigKey(ctx, api, classVM, r.point.ref, replica.KeyVerdict, r.result.String())
		}
	}
	if err != nil {
		r.report.event("verdict-not-kept", "the verdict stands in this report alone, it could not be kept on the restore point: %v", err)
	}
	return nil
}
