package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// claim4 makes an IPv4 address the interface's, if nobody else has it, and announces it.
func (n *Network) claim4(ctx context.Context) error {
	socket, err := openARP(n.link.index)
	if err != nil {
		return err
	}
	defer socket.close()
	owner, taken, err := socket.probe(ctx, n.link.mac, n.address.Addr(), n.timing.probeInterval)
	if err != nil {
		return err
	}
	if taken {
		return fmt.Errorf("%w (%s has it)", ErrAddressTaken, owner)
	}
	if err := n.addAddress(); err != nil {
		return err
	}
	return socket.announce(n.link.mac, n.address.Addr())
}

// claim6 makes an IPv6 address the interface's and waits until the kernel has found out that nobody else has it, for which it takes
// one to two seconds (RFC 4862 §5.4).
func (n *Network) claim6(ctx context.Context) error {
	if err := n.addAddress(); err != nil {
		return err
	}
	_, err := n.awaitAddress6(ctx, func(a netip.Addr) bool { return a == n.address.Addr() })
	if errors.Is(err, ErrAddressTaken) {
		err = errors.Join(err, n.removeAddress())
	}
	return err
}

// awaitAddress6 waits until an address of the interface may be used. ErrAddressTaken: another machine has it.
func (n *Network) awaitAddress6(ctx context.Context, wanted func(netip.Addr) bool) (netip.Addr, error) {
	for {
		list, err := netlink.AddrList(n.handle(), netlink.FAMILY_V6)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue // something changed meanwhile
		}
		if err != nil {
			return netip.Addr{}, fmt.Errorf("list the addresses: %w", err)
		}
		for _, a := range list {
			address, ok := netip.AddrFromSlice(a.IP)
			switch {
			case !ok || !wanted(address):
			case a.Flags&unix.IFA_F_DADFAILED != 0:
				return address, ErrAddressTaken
			case a.Flags&unix.IFA_F_TENTATIVE == 0:
				return address, nil
			}
		}
		if err := sleep(ctx, n.timing.look/10); err != nil {
			return netip.Addr{}, fmt.Errorf("the kernel is still looking for another machine with the address: %w", err)
		}
	}
}

func (n *Network) addAddress() error {
	if err := netlink.AddrReplace(n.handle(), n.netlinkAddress()); err != nil {
		return fmt.Errorf("set: %w", err)
	}
	return nil
}

func (n *Network) removeAddress() error {
	if err := netlink.AddrDel(n.handle(), n.netlinkAddress()); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// handle names the interface to netlink, which wants its index alone.
func (n *Network) handle() netlink.Link {
	return &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: n.link.index, Name: n.link.name}}
}

func (n *Network) netlinkAddress() *netlink.Addr {
	address := n.address.Addr()
	return &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(n.address.Bits(), address.BitLen())}}
}
