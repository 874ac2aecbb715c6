package replication

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// StartError says that a VM could not be started. The failover stays where it is.
type StartError struct {
	VM      string   // uuid
	Reasons []string // why single hosts cannot start it, where the pool told
	Err     error
}

func (e *StartError) Error() string {
	text := fmt.Sprintf("VM %s could not be started: %v", e.VM, e.Err)
	if len(e.Reasons) > 0 {
		text += " (" + strings.Join(e.Reasons, "; ") + ")"
	}
	return text + "; mend that and do it again, or undo the failover"
}

func (e *StartError) Unwrap() error { return e.Err }

// release takes off what kept the replica from being started and from being backed up. Its markers stay: it is still ours.
func (f *failover) release(ctx context.Context, c *chore) error {
	if err := c.block(ctx, c.standby.vm.Ref, replica.OthersBlocked); err != nil {
		return err
	}
	return c.api().Call(ctx, "VM.remove_tags", nil, c.standby.vm.Ref, replica.TagLeaveAlone)
}

// start starts the replica, unless somebody has.
func (f *failover) start(ctx context.Context, c *chore) error {
	host := xapi.NullRef
	if f.request.Host != "" {
		var err error
		if host, err = c.target.Inventory.FindHost(f.request.Host); err != nil {
			return err
		}
	}
	return c.start(ctx, c.api(), c.standby.vm.Ref, host)
}

// start starts a VM, on a host or wherever its pool likes; that it runs already is as well.
func (c *chore) start(ctx context.Context, api xapi.API, ref, host xapi.Ref) error {
	vm, err := xapi.GetRecord[xapi.VM](ctx, api, classVM, ref)
	if err != nil || vm.PowerState == xapi.Running || vm.PowerState == xapi.Paused {
		return err
	}
	running := xapi.Record(api, classVM, ref, func(vm xapi.VM) bool { return vm.PowerState == xapi.Running })
	switch {
	case vm.PowerState == xapi.Suspended:
		err = xapi.Ensure(ctx, api, "VM.resume", running, ref, false, false)
	case host.IsNull():
		err = xapi.Ensure(ctx, api, "VM.start", running, ref, false, false)
	default:
		err = xapi.Ensure(ctx, api, "VM.start_on", running, ref, host, false, false)
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	return &StartError{VM: vm.UUID, Reasons: hostsAgainst(ctx, api, ref), Err: err}
}

// hostsAgainst asks why no host starts a VM: the error of VM.start does not tell (xapi-facts §14.23).
func hostsAgainst(ctx context.Context, api xapi.API, vm xapi.Ref) []string {
	hosts, err := xapi.AllRecords[xapi.Host](ctx, api, "host")
	if err != nil {
		return nil // the error of the start stands for itself
	}
	refusals := map[string]error{}
	for ref, host := range hosts {
		if err := api.Call(ctx, "VM.assert_can_boot_here", nil, vm, ref); err != nil {
			refusals[host.NameLabel] = err
		}
	}
	return reasons(refusals)
}

// reasons tells the refusals of hosts, by their names.
func reasons(refusals map[string]error) (all []string) {
	for _, host := range slices.Sorted(maps.Keys(refusals)) {
		all = append(all, fmt.Sprintf("host %s: %v", host, refusals[host]))
	}
	return all
}
