package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance"
)

// Watch implements appliance.Network. A lease that is lost, and an interface that is gone, are events with Err; after the latter it
// returns.
func (n *Network) Watch(ctx context.Context, report func(appliance.NetworkEvent)) error {
	var mu sync.Mutex // one event at a time
	say := func(e appliance.NetworkEvent) {
		mu.Lock()
		defer mu.Unlock()
		report(e)
	}
	for _, address := range n.declined {
		say(appliance.NetworkEvent{Level: slog.LevelWarn, Text: fmt.Sprintf("the DHCP server gave %s, which another machine has: it was declined", address)})
	}
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return n.watchLink(inner, say) })
	if n.gateway.IsValid() {
		group.Go(func() error { return n.checkGateway(inner, say) })
	}
	if n.address.Addr().Is4() {
		group.Go(func() error { return n.watchConflicts(inner, say) })
	}
	if n.lease != nil && n.address.Addr().Is6() {
		group.Go(func() error { return n.checkRouter(inner, say) })
	}
	if n.lease != nil {
		group.Go(func() error {
			if err := n.keepLease(inner, say); err != nil {
				say(appliance.NetworkEvent{Level: slog.LevelError, Text: "the DHCP lease is lost", Err: err})
			}
			return nil
		})
	}
	err := group.Wait()
	// Any of them may be the first to stumble over an interface that is gone, each with words of its own.
	if _, lost := n.carrier(); err != nil && errors.Is(lost, ErrNoInterface) {
		report(appliance.NetworkEvent{Level: slog.LevelError, Text: "the network interface is lost", Err: lost})
		return nil
	}
	return err
}

// watchLink reports when the link goes and comes. An address is announced again with a link that came: switches may have forgotten.
func (n *Network) watchLink(ctx context.Context, report func(appliance.NetworkEvent)) error {
	was := true
	for sleep(ctx, n.timing.look) == nil {
		up, err := n.carrier()
		if err != nil {
			return err
		}
		switch {
		case was && !up:
			report(appliance.NetworkEvent{Level: slog.LevelWarn, Text: fmt.Sprintf("the link of %s is down: is the VM's network connected?", n.link.name)})
		case up && !was:
			report(appliance.NetworkEvent{Level: slog.LevelInfo, Text: fmt.Sprintf("the link of %s is up again", n.link.name)})
			if err := n.announce(); err != nil {
				report(appliance.NetworkEvent{Level: slog.LevelWarn, Text: err.Error()})
			}
		}
		was = up
	}
	return nil
}

func (n *Network) announce() error {
	if !n.address.Addr().Is4() {
		return nil // the kernel's neighbour discovery does it
	}
	socket, err := openARP(n.link.index)
	if err != nil {
		return err
	}
	defer socket.close()
	return socket.announce(n.link.mac, n.address.Addr())
}

// checkGateway has the kernel find the gateway's Ethernet address, for which it takes three seconds at most.
func (n *Network) checkGateway(ctx context.Context, report func(appliance.NetworkEvent)) error {
	family := netlink.FAMILY_V4
	if n.gateway.Is6() {
		family = netlink.FAMILY_V6
	}
	gateway := netlink.Neigh{LinkIndex: n.link.index, Family: family, Flags: netlink.NTF_USE, IP: n.gateway.AsSlice()}
	if err := netlink.NeighSet(&gateway); err != nil {
		return fmt.Errorf("look for gateway %s: %w", n.gateway, err)
	}
	for sleep(ctx, n.timing.look) == nil {
		neighbours, err := netlink.NeighList(n.link.index, family)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look for gateway %s: %w", n.gateway, err)
		}
		state := netlink.NUD_FAILED
		for _, neighbour := range neighbours {
			if neighbour.IP.Equal(gateway.IP) {
				state = neighbour.State
			}
		}
		switch state {
		case netlink.NUD_FAILED:
			report(appliance.NetworkEvent{
				Level: slog.LevelWarn,
				Text:  fmt.Sprintf("gateway %s does not answer: only machines in %s can be reached; check the gateway, and the VM's network", n.gateway, n.address.Masked()),
			})
			return nil
		case netlink.NUD_NONE, netlink.NUD_INCOMPLETE:
		default:
			return nil
		}
	}
	return nil
}

// checkRouter looks once for a route by which anybody is reached: an address by DHCPv6 stands alone, and the routes to and beyond its
// network come with a router's advertisement, for which the kernel asks three times in nine seconds.
func (n *Network) checkRouter(ctx context.Context, report func(appliance.NetworkEvent)) error {
	if sleep(ctx, n.timing.routerWait) != nil {
		return nil
	}
	var routes []netlink.Route
	err := error(netlink.ErrDumpInterrupted)
	for errors.Is(err, netlink.ErrDumpInterrupted) && ctx.Err() == nil {
		routes, err = netlink.RouteList(n.handle(), netlink.FAMILY_V6)
	}
	if err != nil {
		return fmt.Errorf("look for a router: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || !r.Dst.IP.IsLinkLocalUnicast() && !r.Dst.IP.IsMulticast() && !r.Dst.IP.Equal(n.address.Addr().AsSlice()) {
			return nil
		}
	}
	report(appliance.NetworkEvent{
		Level: slog.LevelWarn,
		Text:  fmt.Sprintf("no IPv6 router has advertised itself: %s reaches nobody; check the network's router, or give an address with its prefix", n.address.Addr()),
	})
	return nil
}

// watchConflicts reports another machine that uses our IPv4 address, and defends the address as often as it reports
// (RFC 5227 §2.4 (c)): a delegate in the middle of a transfer does not give way to a stranger, and TLS keeps the two apart.
func (n *Network) watchConflicts(ctx context.Context, report func(appliance.NetworkEvent)) error {
	socket, err := openARP(n.link.index)
	if err != nil {
		return err
	}
	defer socket.close()
	stop := context.AfterFunc(ctx, socket.close)
	defer stop()
	var last time.Time
	for {
		m, err := socket.receive(n.address.Addr(), n.link.mac)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENETDOWN):
			// Told once each time the interface goes down; what that means is watchLink's.
		case err != nil:
			return fmt.Errorf("receive ARP messages: %w", err)
		case time.Since(last) >= n.timing.defend:
			last = time.Now()
			report(appliance.NetworkEvent{
				Level: slog.LevelError,
				Text:  fmt.Sprintf("duplicate address: %s uses %s too; give one of the two machines another", m.senderMAC, n.address.Addr()),
			})
			if err := socket.announce(n.link.mac, n.address.Addr()); err != nil {
				report(appliance.NetworkEvent{Level: slog.LevelWarn, Text: fmt.Sprintf("defend the address: %v", err)})
			}
		}
	}
}

// sleep returns early, with the cause, when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
