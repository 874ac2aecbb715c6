package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// setting is a field of the replica VM that follows its source's at every run, or several that only go together.
//
// What an administrator set on the replica on purpose is none of these and is left alone: its name, a description that does not
// begin as ours do, tags of his own, keys of other_config but for those that describe the guest, affinity, start and shutdown
// delays, blocked operations of his own, the generation id and the BIOS strings, which belong to a VM for its life, a virtual TPM,
// interfaces at positions whose network in the target pool is not known, and disks that are not ours.
type setting struct {
	name string
	of   func(vm xapi.VM) any
	set  func(ctx context.Context, s settable, from xapi.VM) error
}

// settable is the replica VM of a run, as it was before.
type settable struct {
	api xapi.API
	ref xapi.Ref
	now xapi.VM
}

func (s settable) call(ctx context.Context, setter string, args ...any) error {
	return s.api.Call(ctx, classVM+"."+setter, nil, slices.Concat([]any{s.ref}, args)...)
}

// plain is a setting with a setter of its own. of gives what the setter takes.
func plain(name, field string, of func(vm xapi.VM) any) setting {
	return setting{name, of, func(ctx context.Context, s settable, from xapi.VM) error { return s.call(ctx, "set_"+field, of(from)) }}
}

// settings are in the order in which they are set: the domain type before what depends on it.
var settings = []setting{
	{"domain type", domainType, setDomainType},
	plain("boot order and firmware", "HVM_boot_params", func(vm xapi.VM) any { return filled(vm.HVMBootParams) }),
	plain("NVRAM", "NVRAM", func(vm xapi.VM) any { return filled(vm.NVRAM) }),
	plain("platform", "platform", func(vm xapi.VM) any { return filled(vm.Platform) }),
	{"memory (static and dynamic minimum, dynamic and static maximum)", memory, setMemory},
	{"VCPUs (at startup, at most)", vcpus, setVCPUs},
	plain("VCPU parameters", "VCPUs_params", func(vm xapi.VM) any { return filled(vm.VCPUsParams) }),
	plain("shadow multiplier", "HVM_shadow_multiplier", shadowMultiplier),
	plain("device of the Windows drivers", "has_vendor_device", func(vm xapi.VM) any { return vm.HasVendorDevice }),
	plain("version of the virtual hardware", "hardware_platform_version", func(vm xapi.VM) any { return vm.HardwarePlatformVersion }),
	plain("user version", "user_version", func(vm xapi.VM) any { return vm.UserVersion }),
	plain("recommendations", "recommendations", func(vm xapi.VM) any { return vm.Recommendations }),
	plain("action after shutdown", "actions_after_shutdown", func(vm xapi.VM) any { return vm.ActionsAfterShutdown }),
	plain("action after reboot", "actions_after_reboot", func(vm xapi.VM) any { return vm.ActionsAfterReboot }),
	plain("action after a crash", "actions_after_crash", func(vm xapi.VM) any { return vm.ActionsAfterCrash }),
	plain("PV boot loader", "PV_bootloader", func(vm xapi.VM) any { return vm.PVBootloader }),
	plain("arguments of the PV boot loader", "PV_bootloader_args", func(vm xapi.VM) any { return vm.PVBootloaderArgs }),
	plain("PV kernel", "PV_kernel", func(vm xapi.VM) any { return vm.PVKernel }),
	plain("PV ramdisk", "PV_ramdisk", func(vm xapi.VM) any { return vm.PVRamdisk }),
	plain("PV arguments", "PV_args", func(vm xapi.VM) any { return vm.PVArgs }),
	plain("legacy PV arguments", "PV_legacy_args", func(vm xapi.VM) any { return vm.PVLegacyArgs }),
}

// domainType of a VM; hosts before 7.5 tell it by the boot policy alone.
func domainType(vm xapi.VM) any {
	switch {
	case vm.DomainType != "":
		return vm.DomainType
	case vm.HVMBootPolicy == "":
		return xapi.DomainType("pv")
	}
	return xapi.DomainType("hvm")
}

func setDomainType(ctx context.Context, s settable, from xapi.VM) error {
	if s.now.DomainType == "" {
		return s.call(ctx, "set_HVM_boot_policy", from.HVMBootPolicy)
	}
	return s.call(ctx, "set_domain_type", domainType(from))
}

func memory(vm xapi.VM) any {
	return [4]int64{vm.MemoryStaticMin, vm.MemoryDynamicMin, vm.MemoryDynamicMax, vm.MemoryStaticMax}
}

func setMemory(ctx context.Context, s settable, from xapi.VM) error {
	return s.call(ctx, "set_memory_limits", from.MemoryStaticMin, from.MemoryStaticMax, from.MemoryDynamicMin, from.MemoryDynamicMax)
}

func vcpus(vm xapi.VM) any { return [2]int64{vm.VCPUsAtStartup, vm.VCPUsMax} }

// setVCPUs keeps the number at startup at or below the maximum all the time.
func setVCPUs(ctx context.Context, s settable, from xapi.VM) error {
	setters := []func() error{
		func() error { return s.call(ctx, "set_VCPUs_max", from.VCPUsMax) },
		func() error { return s.call(ctx, "set_VCPUs_at_startup", from.VCPUsAtStartup) },
	}
	if from.VCPUsMax < s.now.VCPUsAtStartup {
		slices.Reverse(setters)
	}
	for _, set := range setters {
		if err := set(); err != nil {
			return err
		}
	}
	return nil
}

func shadowMultiplier(vm xapi.VM) any {
	if vm.HVMShadowMultiplier == 0 {
		return xapi.Float(1)
	}
	return xapi.Float(vm.HVMShadowMultiplier)
}

// protection is what keeps a replica from being started by itself, and from taking itself for its source. It holds whatever the
// source has, and is put back at every run.
type protection struct {
	name   string
	absent func(vm xapi.VM) bool
	set    string
	args   []any
}

var protections = []protection{
	{"HA restart priority", func(vm xapi.VM) bool { return vm.HARestartPriority != "" }, "set_ha_restart_priority", []any{""}},
	{"membership of a vApp", func(vm xapi.VM) bool { return !vm.Appliance.IsNull() }, "set_appliance", []any{xapi.NullRef}},
	{"start order", func(vm xapi.VM) bool { return vm.Order > 0 }, "set_order", []any{int64(0)}},
	{"start with the host", func(vm xapi.VM) bool { return vm.OtherConfig[keyAutoPowerOn] != "" }, "remove_from_other_config", []any{keyAutoPowerOn}},
	{"vm-data", func(vm xapi.VM) bool { return len(vm.XenstoreData) > 0 }, "set_xenstore_data", []any{map[string]string{}}},
	{"visibility to other backup tools", func(vm xapi.VM) bool { return !slices.Contains(vm.Tags, replica.TagLeaveAlone) }, "add_tags", []any{replica.TagLeaveAlone}},
}

const keyAutoPowerOn = "auto_poweron"

// teller takes the events of changes.
type teller func(cause, format string, args ...any)

// protect puts the protections back that somebody took away.
func protect(ctx context.Context, api xapi.API, ref xapi.Ref, tell teller) error {
	vm, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, ref)
	if err != nil {
		return err
	}
	s := settable{api: api, ref: ref, now: vm}
	for _, p := range protections {
		if !p.absent(vm) {
			continue
		}
		err := s.call(ctx, p.set, p.args...)
		if refused(err) {
			tell("not-protected", "the pool does not let the replica's %s be turned off: %v", p.name, err)
			continue
		} else if err != nil {
			return fmt.Errorf("protecting the replica, %s: %w", p.name, err)
		}
		tell("protected", "the replica's %s was turned off: it is a standby copy", p.name)
	}
	return nil
}

// refused reports whether a pool answered that it will not do something.
func refused(err error) bool {
	var failure *xapi.Error
	return errors.As(err, &failure) && !xapi.IsTemporary(err)
}

// keepUp has the replica VM follow its source, as this run found it. It comes after the disks are there and before the restore
// point is made, so that every restore point has the machine that its disks belong to. What the pool refuses stays as it was,
// and is an event: a run that could not be committed for that would be worse.
func (r *run) keepUp(ctx context.Context) error {
	api := r.target.API
	now, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, r.standbyRef)
	if err != nil {
		return err
	}
	s := settable{api: api, ref: r.standbyRef, now: now}
	for _, one := range slices.Concat(settings, r.ownSettings()) {
		before, after := fmt.Sprint(one.of(now)), fmt.Sprint(one.of(r.vm.VM))
		if before == after {
			continue
		}
		if err := r.followed(one.set(ctx, s, r.vm.VM), one.name, "%s", transition(before, after)); err != nil {
			return err
		}
	}
	for _, follow := range []func(context.Context, settable) error{r.keepTags, r.keepVIFs, r.keepDrives} {
		if err := follow(ctx, s); err != nil {
			return err
		}
	}
	return protect(ctx, api, r.standbyRef, r.report.event)
}

// followed makes an event of a change, or of its refusal. Of a replica that this run has made, what it has from its source is none.
func (r *run) followed(err error, what, format string, args ...any) error {
	switch {
	case refused(err):
		r.report.event("not-followed", "the replica does not follow its source in its %s, the pool refuses that: %v", what, err)
	case err != nil:
		return fmt.Errorf("having the replica follow its source, %s: %w", what, err)
	case r.standby != nil:
		r.report.event("followed", "the replica follows its source: %s %s", what, fmt.Sprintf(format, args...))
	}
	return nil
}

// transition tells what changed where that can be read.
func transition(before, after string) string {
	const readable = 120
	if len(before) > readable || len(after) > readable {
		return "changed"
	}
	return fmt.Sprintf("was %s, is %s", before, after)
}

// ownSettings are settings that need the run: what the replica has of other_config, and its description.
func (r *run) ownSettings() []setting {
	own := []setting{{"description", r.describes, func(ctx context.Context, s settable, _ xapi.VM) error {
		return s.call(ctx, "set_name_description", r.description())
	}}}
	for _, key := range carriedOver {
		own = append(own, setting{"other_config:" + key, func(vm xapi.VM) any { return vm.OtherConfig[key] }, func(ctx context.Context, s settable, from xapi.VM) error {
			if value := from.OtherConfig[key]; value != "" {
				return xapi.SetOtherConfigKey(ctx, s.api, classVM, s.ref, key, value)
			}
			return s.call(ctx, "remove_from_other_config", key)
		}})
	}
	return own
}

// ourDescription is how descriptions of ours begin.
const ourDescription = "Standby copy of VM "

func isOurDescription(text string) bool { return strings.HasPrefix(text, ourDescription) }

// describes gives the description that counts as the VM's: the source's is what ours would be, and so is that of a replica
// which somebody gave another one.
func (r *run) describes(vm xapi.VM) any {
	if vm.UUID != r.vm.UUID && (vm.NameDescription == "" || isOurDescription(vm.NameDescription)) {
		return vm.NameDescription
	}
	return r.description()
}

// description is what the replica bears: what it is, then what its source is said to be.
func (r *run) description() string {
	text := fmt.Sprintf(ourDescription+"%s (%s) of pool %s, kept by Understudy", r.vm.NameLabel, r.vm.UUID, r.source.Name)
	if r.vm.NameDescription != "" {
		text += ". " + r.vm.NameDescription
	}
	return text
}

// keepTags adds the source's tags and removes those that it has no more.
func (r *run) keepTags(ctx context.Context, s settable) error {
	wanted := replica.Tags(r.vm.Tags)
	carried := replica.CarriedTags(wanted)
	add, remove := replica.TagChanges(s.now.Tags, wanted, s.now.OtherConfig[replica.KeyCarriedTags])
	for _, tag := range add {
		if err := r.followed(s.call(ctx, "add_tags", tag), "tags", "have %q now", tag); err != nil {
			return err
		}
	}
	for _, tag := range remove {
		if err := r.followed(s.call(ctx, "remove_tags", tag), "tags", "have %q no more", tag); err != nil {
			return err
		}
	}
	if s.now.OtherConfig[replica.KeyCarriedTags] == carried {
		return nil
	}
	// Comes last: cut short before, what was added is still the source's, and what was removed is gone.
	return xapi.SetOtherConfigKey(ctx, s.api, classVM, s.ref, replica.KeyCarriedTags, carried)
}
