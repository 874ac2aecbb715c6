package delegate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// mends say what to do about the causes for which a host cannot run a delegate (xapi-facts §6.3).
var mends = map[string]string{
	"HOST_NOT_ENOUGH_FREE_MEMORY": "free memory on the host",
	"HOST_NOT_LIVE":               "bring the host back",
	"HOST_DISABLED":               "take the host out of maintenance",
	"VM_REQUIRES_SR":              "plug the SR's PBD on the host, or deploy the image to an SR that the host sees",
	"SR_NO_PBDS":                  "plug the SR's PBD on the host, or deploy the image to an SR that the host sees",
	"VM_REQUIRES_NETWORK":         "connect the image's network on the host, or deploy the image to a network that the host has",
	"VM_HVM_REQUIRED":             "switch hardware virtualisation on in the host's firmware",
	"LICENCE_RESTRICTION":         "look at the pool's licence",
}

const codeNoHostsAvailable = "NO_HOSTS_AVAILABLE"

// start boots the VM on its host. Nothing published before the end of this call counts.
func (d *Delegate) start(ctx context.Context, host xapi.Ref) error {
	running := xapi.Record(d.pool.API, "VM", d.Ref, func(vm xapi.VM) bool { return vm.PowerState == xapi.Running && vm.ResidentOn == host })
	err := xapi.Ensure(ctx, d.pool.API, "VM.start_on", running, d.Ref, host, false, false)
	var refused *xapi.Error
	if err == nil || ctx.Err() != nil || !errors.As(err, &refused) {
		return err
	}
	name := hostName(d.pool, host)
	if refused.Code != codeNoHostsAvailable {
		return fmt.Errorf("starting %s on host %s: %w; %s", d.Name(), name, err, mendOf(refused.Code))
	}
	return fmt.Errorf("starting %s on host %s: %w: %s", d.Name(), name, err, strings.Join(d.reasons(ctx), "; "))
}

func mendOf(code string) string { return cmp.Or(mends[code], "see the host's log") }

// reasons asks of every host why it cannot run the VM, because NO_HOSTS_AVAILABLE tells none (xapi-facts §6.3).
func (d *Delegate) reasons(ctx context.Context) []string {
	var texts []string
	for ref, host := range d.pool.Inventory.Hosts {
		err := d.pool.API.Call(ctx, "VM.assert_can_boot_here", nil, d.Ref, ref)
		var refused *xapi.Error
		switch {
		case err == nil:
			texts = append(texts, fmt.Sprintf("host %s would do: try again", host.NameLabel))
		case errors.As(err, &refused):
			texts = append(texts, fmt.Sprintf("host %s: %s (%s)", host.NameLabel, d.explain(refused), mendOf(refused.Code)))
		default:
			texts = append(texts, fmt.Sprintf("host %s: %v", host.NameLabel, err))
		}
	}
	slices.Sort(texts)
	return texts
}

// explain writes an error of the API with names in place of references.
func (d *Delegate) explain(refused *xapi.Error) string {
	params := make([]string, len(refused.Params))
	for i, param := range refused.Params {
		ref := xapi.Ref(param)
		params[i] = cmp.Or(d.pool.Inventory.SRs[ref].NameLabel, d.pool.Inventory.Networks[ref].NameLabel, d.pool.Inventory.Hosts[ref].NameLabel, param)
		if ref == d.Ref {
			params[i] = d.Name()
		}
	}
	return strings.Join(append([]string{refused.Code}, params...), " ")
}
