package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// obtain4 asks the network's DHCP servers for an address.
func (n *Network) obtain4(ctx context.Context) (*lease, error) {
	var given *nclient4.Lease
	err := n.withClient4(nil, func(c *nclient4.Client) (err error) {
		given, err = c.Request(ctx, dhcpv4.WithRequestedOptions(dhcpv4.OptionInterfaceMTU))
		return err
	})
	if err != nil {
		return nil, noLease(ctx, err)
	}
	return n.lease4(given)
}

// noLease prefers the reason for which a context ended to the bare fact.
func noLease(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return fmt.Errorf("%w: %w", ErrNoLease, err)
}

// withClient4 calls with a client that broadcasts, or one that asks server as the address in use.
func (n *Network) withClient4(server net.IP, call func(*nclient4.Client) error) error {
	options := []nclient4.ClientOpt{nclient4.WithTimeout(n.timing.dhcpTry), nclient4.WithRetry(n.timing.dhcpTries)}
	if server != nil {
		options = append(options,
			nclient4.WithServerAddr(&net.UDPAddr{IP: server, Port: nclient4.ServerPort}),
			nclient4.WithUnicast(&net.UDPAddr{IP: n.address.Addr().AsSlice(), Port: nclient4.ClientPort}))
	}
	client, err := nclient4.New(n.link.name, options...)
	if err != nil {
		return err
	}
	return errors.Join(call(client), client.Close())
}

// lease4 reads an acknowledgement.
func (n *Network) lease4(given *nclient4.Lease) (*lease, error) {
	ack := given.ACK
	address, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	duration := ack.IPAddressLeaseTime(0)
	if !ok || address.IsUnspecified() || duration == 0 {
		return nil, fmt.Errorf("%w: the server %s gave address %s for %v", ErrNoLease, ack.ServerIdentifier(), ack.YourIPAddr, duration)
	}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ack.YourIPAddr.DefaultMask()
	}
	ones, bits := mask.Size()
	if bits == 0 {
		return nil, fmt.Errorf("%w: the server %s gave the netmask %s, which is none", ErrNoLease, ack.ServerIdentifier(), net.IP(mask))
	}
	l := &lease{
		prefix:    netip.PrefixFrom(address, ones),
		renewal:   given.CreationTime.Add(ack.IPAddressRenewalTime(duration / 2)),
		rebinding: given.CreationTime.Add(ack.IPAddressRebindingTime(duration / 8 * 7)),
		expiry:    given.CreationTime.Add(duration),
	}
	if routers := ack.Router(); len(routers) > 0 {
		l.gateway, _ = netip.AddrFromSlice(routers[0].To4())
	}
	if mtu := ack.Options.Get(dhcpv4.OptionInterfaceMTU); len(mtu) == 2 {
		l.mtu = int(mtu[0])<<8 | int(mtu[1])
	}
	l.renew = func(ctx context.Context, anyServer bool) (*lease, error) { return n.renew4(ctx, given, anyServer) }
	l.release = func(context.Context) error {
		return n.withClient4(ack.ServerIdentifier(), func(c *nclient4.Client) error { return c.Release(given) })
	}
	l.decline = func() error { return n.decline4(ack) }
	return l, nil
}

// decline4 sends DHCPDECLINE, which has no answer (RFC 2131 §4.4.4).
func (n *Network) decline4(ack *dhcpv4.DHCPv4) (err error) {
	message, err := dhcpv4.New(
		dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline), dhcpv4.WithHwAddr(ack.ClientHWAddr),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ack.ServerIdentifier())), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ack.YourIPAddr)))
	if err != nil {
		return err
	}
	conn, err := nclient4.NewRawUDPConn(n.link.name, nclient4.ClientPort)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	_, err = conn.WriteTo(message.ToBytes(), nclient4.DefaultServers)
	return err
}

func (n *Network) renew4(ctx context.Context, given *nclient4.Lease, anyServer bool) (*lease, error) {
	server := given.ACK.ServerIdentifier()
	if anyServer {
		server = nil
	}
	var renewed *nclient4.Lease
	err := n.withClient4(server, func(c *nclient4.Client) (err error) {
		renewed, err = c.Renew(ctx, given)
		return err
	})
	if nak := new(nclient4.ErrNak); errors.As(err, &nak) {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	if err != nil {
		return nil, noLease(ctx, err)
	}
	return n.lease4(renewed)
}
