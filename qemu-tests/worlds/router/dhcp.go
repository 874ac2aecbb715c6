package router

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
)

const leaseTime = time.Hour

// dhcp is a DHCPv6 server. It keeps what it has given to a client until it ends.
type dhcp struct {
	connection *gonet.UDPConn
	next       netip.Addr
	leases     map[string]netip.Addr // by the client's DUID
}

func (r *Router) listenDHCP() (*dhcp, error) {
	group := tcpip.AddrFromSlice(dhcpv6.AllDHCPRelayAgentsAndServers.To16())
	if err := r.stack.JoinGroup(ipv6.ProtocolNumber, nic, group); err != nil {
		return nil, errors.New(err.String())
	}
	own := tcpip.FullAddress{NIC: nic, Port: dhcpv6.DefaultServerPort}
	connection, err := gonet.DialUDP(r.stack, &own, nil, ipv6.ProtocolNumber)
	if err != nil {
		return nil, err
	}
	return &dhcp{connection: connection, next: r.options.FirstLease, leases: map[string]netip.Addr{}}, nil
}

// serve answers until the stack ends. What is no question stays unanswered.
func (d *dhcp) serve() {
	packet := make([]byte, 1500)
	for {
		n, client, err := d.connection.ReadFrom(packet)
		if err != nil {
			return
		}
		question, err := dhcpv6.MessageFromBytes(packet[:n])
		if err != nil {
			continue
		}
		answer, err := d.answer(question)
		if err != nil {
			continue
		}
		_, _ = d.connection.WriteTo(answer.ToBytes(), client.(*net.UDPAddr)) // a client that waits asks again
	}
}

func (d *dhcp) answer(question *dhcpv6.Message) (*dhcpv6.Message, error) {
	client, association := question.Options.ClientID(), question.Options.OneIANA()
	if client == nil || association == nil {
		return nil, fmt.Errorf("%s without client or association", question.MessageType)
	}
	given := []dhcpv6.Modifier{dhcpv6.WithServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr(ownMAC)})}
	if question.MessageType != dhcpv6.MessageTypeRelease {
		lease := dhcpv6.OptIANA{IaId: association.IaId}
		lease.Options.Add(&dhcpv6.OptIAAddress{
			IPv6Addr: d.lease(string(client.ToBytes())).AsSlice(), PreferredLifetime: leaseTime, ValidLifetime: leaseTime,
		})
		given = append(given, dhcpv6.WithOption(&lease))
	}
	if question.MessageType == dhcpv6.MessageTypeSolicit && question.GetOneOption(dhcpv6.OptionRapidCommit) == nil {
		return dhcpv6.NewAdvertiseFromSolicit(question, given...)
	}
	return dhcpv6.NewReplyFromMessage(question, given...)
}

func (d *dhcp) lease(client string) netip.Addr {
	if address, ok := d.leases[client]; ok {
		return address
	}
	address := d.next
	d.leases[client], d.next = address, d.next.Next()
	return address
}
