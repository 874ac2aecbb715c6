package delegate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Info is one delegate as a pool shows it, for reports: nothing in it is proved.
type Info struct {
	Pool       string            `json:"pool"`
	Name       string            `json:"name"`
	UUID       string            `json:"uuid"`
	Host       string            `json:"host"`    // where it runs; empty when it does not
	Address    string            `json:"address"` // "ip/prefix"; of DHCP "ip", once the guest has told it
	PowerState xapi.VMPowerState `json:"power_state"`
	Created    time.Time         `json:"created,omitzero"` // by the pool's clock
	Run        string            `json:"run"`
	Ownership  replica.Ownership `json:"ownership"` // a stranger is a copy, or another installation's
}

// Age is how long ago the delegate was made; 0 when the pool does not tell, or its clock is ahead.
func (i Info) Age(now time.Time) time.Duration {
	if i.Created.IsZero() {
		return 0
	}
	return max(now.Sub(i.Created), 0)
}

// List finds every VM that bears a delegate's marker, by pool and name. Pools that do not answer are in the error; the others
// are listed nevertheless.
func List(ctx context.Context, pools ...*Pool) ([]Info, error) {
	var all []Info
	var errs []error
	for _, pool := range pools {
		found, err := list(ctx, pool)
		if err != nil {
			errs = append(errs, fmt.Errorf("listing the delegates of pool %s: %w", pool.Name, err))
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, func(a, b Info) int {
		return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID))
	})
	return all, errors.Join(errs...)
}

func list(ctx context.Context, pool *Pool) ([]Info, error) {
	vms, err := xapi.AllRecords[xapi.VM](ctx, pool.API, "VM")
	if err != nil {
		return nil, err
	}
	metrics, err := xapi.AllRecords[xapi.VMMetrics](ctx, pool.API, "VM_metrics")
	if err != nil {
		return nil, err
	}
	hosts, err := xapi.AllRecords[xapi.Host](ctx, pool.API, "host")
	if err != nil {
		return nil, err
	}
	guests, err := xapi.AllRecords[xapi.VMGuestMetrics](ctx, pool.API, "VM_guest_metrics")
	if err != nil {
		return nil, err
	}
	installation := pool.Store.Installation().UUID
	var found []Info
	for _, vm := range vms {
		marker, ownership, _ := replica.Read(installation, vm.UUID, vm.OtherConfig) // a malformed marker is shown as such
		if marker.Kind != replica.KindDelegate || vm.IsATemplate || vm.IsASnapshot {
			continue
		}
		address := vm.XenstoreData[control.InputPrefix+control.InputAddress]
		if told := toldAddress(guests[vm.GuestMetrics]); address == control.AddressDHCP || address == control.AddressDHCP6 {
			address = ""
			if told.IsValid() {
				address = told.String()
			}
		}
		found = append(found, Info{
			Pool: pool.Name, Name: vm.NameLabel, UUID: vm.UUID, Host: hosts[vm.ResidentOn].NameLabel,
			Address: address, PowerState: vm.PowerState,
			Created: metrics[vm.Metrics].InstallTime.Time, Run: marker.Run, Ownership: ownership,
		})
	}
	return found, nil
}
