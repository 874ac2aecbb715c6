package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/understudy-dr/understudy/netproto/line"
)

// Network brings the machine's network up and watches over it. Its one implementation for real machines is in package network. Run
// calls Up once, then Watch.
type Network interface {
	// Up configures the first interface and returns the address that is in use, with the length of its network's prefix. Errors name
	// cause and mend: no interface, no link, a taken address, no lease.
	Up(ctx context.Context, spec NetworkSpec) (netip.Prefix, error)

	// Watch reports what happens afterwards – a silent gateway, link down and up, a duplicate address, a lost lease – one event at a
	// time, until ctx ends; it then returns nil. An error is one of the network's machinery.
	Watch(ctx context.Context, report func(NetworkEvent)) error
}

// NetworkSpec is how the network is to be.
type NetworkSpec struct {
	Address netip.Prefix // the delegate's own; invalid: by DHCP
	DHCP6   bool         // by DHCPv6 instead of DHCPv4, when Address is invalid
	Gateway netip.Addr   // of the default route; invalid: none, or that of the lease
	MTU     int          // in bytes; 0: as the interface has it, or that of the lease
	Line    line.Spec    // to imitate, on what is sent; zero: none
}

// NetworkEvent is something that an administrator should know about the network.
type NetworkEvent struct {
	Level slog.Level
	Text  string
	Err   error // not nil: the delegate cannot go on, and this is the cause
}

// Bounds of an MTU in bytes: what every IPv4 host must take (RFC 791), what IPv6 needs (RFC 8200 §5), and the largest jumbo frames
// of common switches.
const minMTU, minMTU6, maxMTU = 576, 1280, 9216

// maxLine is how many bytes the kernel may hold for a line: as many as one of its sockets.
const maxLine = 16 << 20

// check refuses what no network could be.
func (s NetworkSpec) check() error {
	is6 := s.DHCP6
	if s.Address.IsValid() {
		is6 = s.Address.Addr().Is6()
		if err := checkHost(s.Address); err != nil {
			return err
		}
	}
	least := minMTU
	if is6 {
		least = minMTU6
	}
	if s.MTU != 0 && (s.MTU < least || s.MTU > maxMTU) {
		return fmt.Errorf("MTU %d: it is between %d and %d bytes", s.MTU, least, maxMTU)
	}
	if held := s.Line.Capacity(); s.Line != (line.Spec{}) && held > maxLine {
		return fmt.Errorf("line %s holds %d bytes; at most %d can be imitated: choose a thinner or shorter one", s.Line, held, maxLine)
	}
	if !s.Gateway.IsValid() {
		return nil
	}
	switch gateway := s.Gateway; {
	case !s.Address.IsValid():
		return fmt.Errorf("gateway %s: with DHCP it comes with the lease or the router's advertisement, leave it out", gateway)
	case gateway.Is6() != is6:
		return fmt.Errorf("gateway %s is of another IP version than the address %s", gateway, s.Address)
	case gateway == s.Address.Addr():
		return fmt.Errorf("gateway %s is the delegate's own address", gateway)
	case !s.Address.Contains(gateway) && !(is6 && gateway.IsLinkLocalUnicast()):
		return fmt.Errorf("gateway %s lies outside the network %s: it must be reached without a gateway", gateway, s.Address.Masked())
	}
	return nil
}

// checkHost refuses addresses that no host can have.
func checkHost(p netip.Prefix) error {
	address := p.Addr()
	switch {
	case address.IsUnspecified(), address.IsMulticast(), address.Is4In6():
		return fmt.Errorf("%s is no host's address", address)
	case address.Is6() && address.IsLinkLocalUnicast():
		return fmt.Errorf("%s is link-local and cannot be dialled from elsewhere: give a global or unique local address", address)
	case address.Is4() && p.Bits() < 31 && (address == p.Masked().Addr() || address == broadcast(p)):
		return fmt.Errorf("%s is the address of the network %s itself or its broadcast address", address, p.Masked())
	}
	return nil
}

// broadcast is the last address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := range 32 - p.Bits() {
		b[3-i/8] |= 1 << (i % 8)
	}
	return netip.AddrFrom4(b)
}

// errNoNetwork is a configuration that asks for what a local process cannot do.
var errNoNetwork = errors.New("the network of this machine is not the delegate's to set up: give an address that it has already")

// bringUp makes the configured address the machine's and notes it.
func (r *runner) bringUp(ctx context.Context) error {
	spec := r.configuration.network
	if r.options.Network == nil {
		if !spec.Address.IsValid() {
			return fmt.Errorf("%w: address by DHCP: %w", ErrConfiguration, errNoNetwork)
		}
		r.address = spec.Address.Addr()
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.options.NetworkTimeout,
		fmt.Errorf("the network was not up within %v", r.options.NetworkTimeout))
	defer cancel()
	prefix, err := r.options.Network.Up(ctx, spec)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	r.log.Info("network is up", "address", prefix)
	r.address = prefix.Addr()
	return nil
}

// watchNetwork logs what happens to the network, and ends the delegate when it cannot go on.
func (r *runner) watchNetwork(ctx context.Context) error {
	return r.options.Network.Watch(ctx, func(e NetworkEvent) {
		if e.Err == nil {
			r.log.Log(ctx, e.Level, e.Text)
			return
		}
		r.log.Error(e.Text, "cause", e.Err)
		r.stop(fmt.Errorf("network: %w", e.Err))
	})
}
