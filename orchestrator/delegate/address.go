package delegate

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// addressPause is the time between looks for a delegate's address: its guest's metrics may lag behind its identity.
const addressPause = 100 * time.Millisecond

// firstVIF begins the keys of VM_guest_metrics.networks that are about a delegate's only interface (xapi-facts §7.4).
const firstVIF = "0/"

func hostPort(address netip.Addr) string {
	return net.JoinHostPort(address.String(), strconv.Itoa(control.Port))
}

// awaitAddress waits until the guest tells the address that a DHCP server gave it, as "ip:port". It is the guest's word: whoever
// answers there proves by its key that it is the delegate.
func (d *Delegate) awaitAddress(ctx context.Context) (string, error) {
	for {
		vm, err := xapi.GetRecord[xapi.VM](ctx, d.pool.API, "VM", d.Ref)
		if err == nil && !vm.GuestMetrics.IsNull() {
			var metrics xapi.VMGuestMetrics
			metrics, err = xapi.GetRecord[xapi.VMGuestMetrics](ctx, d.pool.API, "VM_guest_metrics", vm.GuestMetrics)
			if address := toldAddress(metrics); err == nil && address.IsValid() {
				return hostPort(address), nil
			}
		}
		if err != nil && ctx.Err() == nil && !xapi.IsCode(err, codeHandleInvalid) {
			return "", err // metrics are replaced while a VM boots
		}
		if late := pause(ctx, addressPause); late != nil {
			return "", fmt.Errorf("%w: %s says that it is up, and the pool knows no address of it: see whether the guest's metrics come to the pool", late, d.Name())
		}
	}
}

// toldAddress is the first address that a guest tells of and that can be dialled from elsewhere; invalid: none.
func toldAddress(metrics xapi.VMGuestMetrics) netip.Addr {
	for _, key := range slices.Sorted(maps.Keys(metrics.Networks)) {
		address, err := netip.ParseAddr(metrics.Networks[key])
		if strings.HasPrefix(key, firstVIF) && err == nil && address.Zone() == "" && !address.IsLinkLocalUnicast() {
			return address
		}
	}
	return netip.Addr{}
}
