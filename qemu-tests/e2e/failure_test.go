//go:build e2e

package e2e_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/qemu"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// A delegate that cannot work says so on its console and to its pool, and powers off.
func TestDelegatesThatCannotWork(t *testing.T) {
	const address = "10.77.0.30/24"
	for name, c := range map[string]struct {
		address string
		mute    bool
		change  func(*xapisim.Machine)
		cause   string // in what is published; on the console alone when the machine is mute
	}{
		"no platform": {address, true, nil, "neither a Xen guest"},
		"no address": {
			address, false, func(m *xapisim.Machine) { delete(m.Data, control.InputPrefix+control.InputAddress) }, "understudy/in/address is missing",
		},
		"broken configuration": {
			address, false, func(m *xapisim.Machine) { m.Data[control.InputPrefix+control.InputNonce] = "no hexadecimal" }, "understudy/in/nonce is \"no hex",
		},
		"gateway elsewhere": {
			address, false, func(m *xapisim.Machine) { m.Data[control.InputPrefix+control.InputGateway] = "10.78.0.1" }, "10.78.0.1 lies outside",
		},
		"MTU too large":  {address, false, func(m *xapisim.Machine) { m.Data[control.InputPrefix+control.InputMTU] = "9000" }, "set the MTU to 9000"},
		"taken address":  {"10.77.0.1/24", false, nil, "in use by another machine"}, // the network's gateway has it
		"no DHCPv6":      {control.AddressDHCP6, false, nil, "no DHCP lease: check the network's DHCP server"},
		"no interface":   {address, false, func(m *xapisim.Machine) { m.VIFs = nil }, "give the VM a VIF"},
		"too little RAM": {address, false, func(m *xapisim.Machine) { m.Memory = 144 << 20 }, "give its VM 256 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := boot(t, qemu.Options{Network: network(t).Socket(), Direct: direct(t), Mute: c.mute}, c.address, c.change)
			a.awaitEnd(bootTime)
			a.says(c.cause)
			if c.mute {
				return
			}
			if cause := a.await(control.CauseKey, time.Second); !strings.Contains(cause, c.cause) {
				t.Errorf("the published cause is %q, not %q", cause, c.cause)
			}
			if tree, err := a.Tree(); err != nil || tree[control.IdentityKey] != "" {
				t.Errorf("it has published an identity: %v, %v", tree, err)
			}
		})
	}
}

// A kernel that panics says so on its console and ends the machine a few seconds later. It can publish nothing: the pool sees the
// identity that the delegate has published, no cause, and a machine that is gone.
func TestKernelPanic(t *testing.T) {
	t.Parallel()
	l := network(t)
	kernel := direct(t)
	kernel.CommandLine += " unknown_nmi_panic"
	a := boot(t, qemu.Options{Network: l.Socket(), Direct: kernel}, "10.77.0.31/24", nil)
	a.meet(l)
	processors, ok := a.Guest.(interface{ Interrupt(context.Context) error })
	if !ok {
		t.Fatal("the machine takes no interrupt")
	}
	if err := processors.Interrupt(limit(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	a.says("Kernel panic - not syncing: NMI")
	a.awaitEnd(time.Minute)
	tree, err := a.Tree()
	if err != nil || tree[control.CauseKey] != "" || tree[control.IdentityKey] == "" {
		t.Errorf("the pool sees %v, %v", tree, err)
	}
}
