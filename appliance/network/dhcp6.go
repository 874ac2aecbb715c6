package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
)

// obtain6 asks the network's DHCPv6 servers for an address.
func (n *Network) obtain6(ctx context.Context) (*lease, error) {
	// The client speaks from the link-local address, which the kernel makes with the link.
	own, err := n.awaitAddress6(ctx, netip.Addr.IsLinkLocalUnicast)
	if err != nil {
		return nil, fmt.Errorf("link-local address: %w", err)
	}
	var reply *dhcpv6.Message
	err = n.withClient6(own, func(c *nclient6.Client) (err error) {
		identity := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: n.link.mac[:]}
		reply, err = c.RapidSolicit(ctx, dhcpv6.WithClientID(identity))
		return err
	})
	if err != nil {
		return nil, noLease(ctx, err)
	}
	return n.lease6(own, reply)
}

// withClient6 calls with a client that speaks from the link-local address own.
func (n *Network) withClient6(own netip.Addr, call func(*nclient6.Client) error) error {
	// The zone as a number: package net remembers the numbers of names, and might remember an interface that is gone.
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: own.AsSlice(), Port: dhcpv6.DefaultClientPort, Zone: strconv.Itoa(n.link.index)})
	if err != nil {
		return err
	}
	client, err := nclient6.NewWithConn(conn, n.link.mac[:], nclient6.WithTimeout(n.timing.dhcpTry), nclient6.WithRetry(n.timing.dhcpTries))
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	return errors.Join(call(client), client.Close())
}

// lease6 reads a reply. The network's prefix is not the server's to tell but the router's, so the address stands alone.
func (n *Network) lease6(own netip.Addr, reply *dhcpv6.Message) (*lease, error) {
	association := reply.Options.OneIANA()
	if association == nil || association.Options.OneAddress() == nil {
		status := reply.Options.Status()
		if association != nil && association.Options.Status() != nil {
			status = association.Options.Status()
		}
		return nil, fmt.Errorf("%w: the server gave no address (%v)", ErrNoLease, status)
	}
	given := association.Options.OneAddress()
	address, ok := netip.AddrFromSlice(given.IPv6Addr.To16())
	if !ok || address.IsUnspecified() || given.ValidLifetime == 0 {
		return nil, fmt.Errorf("%w: the server gave address %s for %v", ErrNoLease, given.IPv6Addr, given.ValidLifetime)
	}
	// Zero leaves the times to the client (RFC 8415 §21.4).
	renewal, rebinding := association.T1, association.T2
	if renewal == 0 {
		renewal = given.PreferredLifetime / 2
	}
	if rebinding == 0 {
		rebinding = given.PreferredLifetime / 5 * 4
	}
	now := time.Now()
	return &lease{
		prefix:  netip.PrefixFrom(address, address.BitLen()),
		renewal: now.Add(renewal), rebinding: now.Add(rebinding), expiry: now.Add(given.ValidLifetime),
		renew: func(ctx context.Context, anyServer bool) (*lease, error) {
			kind := dhcpv6.MessageTypeRenew
			if anyServer {
				kind = dhcpv6.MessageTypeRebind
			}
			answer, err := n.ask6(ctx, own, kind, reply)
			if err != nil {
				return nil, noLease(ctx, err)
			}
			renewed, err := n.lease6(own, answer)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errRefused, err) // it knows nothing of the address, or says that it is over
			}
			return renewed, nil
		},
		release: func(ctx context.Context) error {
			_, err := n.ask6(ctx, own, dhcpv6.MessageTypeRelease, reply)
			if errors.Is(err, context.DeadlineExceeded) {
				return nil // it was sent; whether the server cared to answer changes nothing
			}
			return err
		},
	}, nil
}

// ask6 sends what a reply gave back to the servers (RFC 8415 §18.2.4, §18.2.5, §18.2.7).
func (n *Network) ask6(ctx context.Context, own netip.Addr, kind dhcpv6.MessageType, reply *dhcpv6.Message) (answer *dhcpv6.Message, err error) {
	question, err := dhcpv6.NewMessage()
	if err != nil {
		return nil, err
	}
	question.MessageType = kind
	question.AddOption(dhcpv6.OptClientID(reply.Options.ClientID()))
	if kind != dhcpv6.MessageTypeRebind {
		question.AddOption(dhcpv6.OptServerID(reply.Options.ServerID()))
	}
	question.AddOption(dhcpv6.OptElapsedTime(0))
	question.AddOption(reply.Options.OneIANA())
	err = n.withClient6(own, func(c *nclient6.Client) (err error) {
		answer, err = c.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, question, nclient6.IsMessageType(dhcpv6.MessageTypeReply))
		return err
	})
	return answer, err
}
