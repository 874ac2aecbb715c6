package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// raise takes the loopback and the first Ethernet interface up. The MTU comes last: a Xen front end takes large ones only when its
// back end has said that it does.
func (n *Network) raise(ctx context.Context, mtu int) error {
	loopback, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(loopback)
	}
	if err != nil {
		return fmt.Errorf("loopback interface: %w", err)
	}
	wait, cancel := context.WithTimeoutCause(ctx, n.timing.interfaceWait, fmt.Errorf("%w (none within %v)", ErrNoInterface, n.timing.interfaceWait))
	defer cancel()
	found, err := n.awaitInterface(wait)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(found); err != nil {
		return fmt.Errorf("interface %s: set up: %w", n.link.name, err)
	}
	wait, cancel = context.WithTimeoutCause(ctx, n.timing.interfaceWait, fmt.Errorf("%w (none within %v)", ErrNoLink, n.timing.interfaceWait))
	defer cancel()
	for {
		up, err := n.carrier()
		if err != nil {
			return err
		}
		if up {
			break
		}
		if err := sleep(wait, n.timing.look/10); err != nil {
			return fmt.Errorf("interface %s: %w", n.link.name, err)
		}
	}
	if mtu != 0 {
		return n.setMTU(mtu)
	}
	return nil
}

// awaitInterface finds the Ethernet interface of the lowest index: VIFs are numbered in the order of their devices. The kernel may
// still be finding it.
func (n *Network) awaitInterface(ctx context.Context) (netlink.Link, error) {
	for {
		links, err := netlink.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue // something changed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list the network interfaces: %w", err)
		}
		var first netlink.Link
		for _, l := range links {
			a := l.Attrs()
			if a.EncapType != "ether" || len(a.HardwareAddr) != len(mac{}) || first != nil && first.Attrs().Index < a.Index {
				continue
			}
			first = l
		}
		if first != nil {
			n.link = link{index: first.Attrs().Index, name: first.Attrs().Name, mac: mac(first.Attrs().HardwareAddr)}
			return first, nil
		}
		if err := sleep(ctx, n.timing.look/10); err != nil {
			return nil, err
		}
	}
}

// carrier tells whether the interface has a link.
func (n *Network) carrier() (bool, error) {
	l, err := netlink.LinkByIndex(n.link.index)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return false, fmt.Errorf("interface %s is gone: %w", n.link.name, ErrNoInterface)
	}
	if err != nil {
		return false, fmt.Errorf("look at interface %s: %w", n.link.name, err)
	}
	return l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0, nil
}

func (n *Network) setMTU(mtu int) error {
	l, err := netlink.LinkByIndex(n.link.index)
	if err == nil {
		err = netlink.LinkSetMTU(l, mtu)
	}
	if err != nil {
		return fmt.Errorf("interface %s: set the MTU to %d: %w; the VIF or its network may allow less", n.link.name, mtu, err)
	}
	return nil
}
