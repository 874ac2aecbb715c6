package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/netproto/line"
)

// Errors a caller may decide on; all name their mend.
var (
	// ErrNoInterface: the machine has no Ethernet interface.
	ErrNoInterface = errors.New("no Ethernet interface: give the VM a VIF")
	// ErrNoLink: the interface has no carrier.
	ErrNoLink = errors.New("no link: connect the VM's VIF to a network")
	// ErrAddressTaken: another machine has the address.
	ErrAddressTaken = errors.New("the address is in use by another machine: choose a free one")
	// ErrNoLease: no DHCP server gave or prolonged a lease.
	ErrNoLease = errors.New("no DHCP lease: check the network's DHCP server, or give an address")
)

// timing is how patient everything is.
type timing struct {
	interfaceWait time.Duration // for the interface and for its link, each
	probeInterval time.Duration // between the probes for another owner of an IPv4 address, and after the last
	defend        time.Duration // between two reports, and defences, of a conflict (RFC 5227: 10 s)
	dhcpTry       time.Duration // for an answer to the first transmission to DHCP servers; each further one has twice as long
	dhcpTries     int
	leasePause    time.Duration // between two attempts to renew a lease, at least (RFC 2131 §4.4.5: a minute)
	declinePause  time.Duration // between a lease that was declined and the next (RFC 2131 §3.1: 10 s)
	routerWait    time.Duration // for the advertisement of an IPv6 router
	look          time.Duration // between two looks at link, address and neighbour
}

var standardTiming = timing{
	interfaceWait: 10 * time.Second, probeInterval: 150 * time.Millisecond, defend: 10 * time.Second,
	dhcpTry: 1500 * time.Millisecond, dhcpTries: 4, leasePause: 10 * time.Second, declinePause: 10 * time.Second, routerWait: 10 * time.Second,
	look: 250 * time.Millisecond,
}

// Network is an appliance.Network. Up and Watch are called one after the other.
type Network struct {
	timing     timing
	loadModule func(name string) error
	link       link
	// What is in use once Up has returned.
	address netip.Prefix
	gateway netip.Addr // invalid: none, or the kernel's own
	lease   *lease     // nil: a static address
	// declined are the addresses that a DHCP server gave and other machines had.
	declined []netip.Addr
}

// link is the one interface.
type link struct {
	index int
	name  string
	mac   mac
}

// mac is an Ethernet address.
type mac [6]byte

func (m mac) String() string { return net.HardwareAddr(m[:]).String() }

// New returns the network of this machine, or of the network namespace that the process is in. loadModule loads a module of the
// kernel by its name, when it is needed; nil: what is needed is there.
func New(loadModule func(name string) error) *Network {
	return &Network{timing: standardTiming, loadModule: loadModule}
}

// Up implements appliance.Network.
func (n *Network) Up(ctx context.Context, spec appliance.NetworkSpec) (netip.Prefix, error) {
	if err := n.raise(ctx, spec.MTU); err != nil {
		return netip.Prefix{}, err
	}
	if err := n.settle(ctx, spec); err != nil {
		return netip.Prefix{}, fmt.Errorf("interface %s: %w", n.link.name, err)
	}
	if n.gateway.IsValid() {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: n.link.index, Gw: n.gateway.AsSlice()}); err != nil {
			return netip.Prefix{}, fmt.Errorf("default route by gateway %s: %w; it must lie in the network %s", n.gateway, err, n.address.Masked())
		}
	}
	if spec.Line != (line.Spec{}) {
		if err := n.imitate(spec.Line); err != nil {
			return netip.Prefix{}, fmt.Errorf("interface %s: imitate the line %s: %w", n.link.name, spec.Line, err)
		}
	}
	return n.address, nil
}

// leases is how many addresses are taken from a DHCP server at most, when other machines have those that it gives.
const leases = 3

// settle makes an address the interface's: the configured one, or a lease's. An address that another machine has goes back to the
// server as declined, so that it gives it to nobody, and another one is asked for (RFC 2131 §3.1).
func (n *Network) settle(ctx context.Context, spec appliance.NetworkSpec) error {
	n.address, n.gateway = spec.Address, spec.Gateway
	if spec.Address.IsValid() {
		return n.claim(ctx)
	}
	for tries := 1; ; tries++ {
		if err := n.obtain(ctx, spec); err != nil {
			return err
		}
		err := n.claim(ctx)
		if !errors.Is(err, ErrAddressTaken) || n.lease.decline == nil {
			return err
		}
		if failure := n.lease.decline(); failure != nil {
			return errors.Join(err, fmt.Errorf("declining it: %w", failure))
		}
		n.declined = append(n.declined, n.address.Addr())
		if tries == leases {
			return fmt.Errorf("the DHCP server gave %v, which are all in use: %w", n.declined, err)
		}
		if failure := sleep(ctx, n.timing.declinePause); failure != nil {
			return errors.Join(err, failure)
		}
	}
}

// claim makes the address the interface's, if no other machine has it.
func (n *Network) claim(ctx context.Context) error {
	claim := n.claim4
	if n.address.Addr().Is6() {
		claim = n.claim6
	}
	if err := claim(ctx); err != nil {
		return fmt.Errorf("address %s: %w", n.address, err)
	}
	return nil
}

// obtain takes a lease: its address, gateway and MTU. A configured MTU outranks the lease's.
func (n *Network) obtain(ctx context.Context, spec appliance.NetworkSpec) (err error) {
	if spec.DHCP6 {
		n.lease, err = n.obtain6(ctx)
	} else {
		n.lease, err = n.obtain4(ctx)
	}
	if err != nil {
		return err
	}
	n.address, n.gateway = n.lease.prefix, n.lease.gateway
	if spec.MTU == 0 && n.lease.mtu != 0 {
		return n.setMTU(n.lease.mtu)
	}
	return nil
}
