package network_test

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/server6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/network"
)

// mood is what a server does with renewals.
type mood int32

const (
	grant mood = iota
	ignore
	refuse
	move // gives another address
)

// server counts what a DHCP server of either version was asked.
type server struct {
	mood                        atomic.Int32
	renewals, rebinds, releases atomic.Int32
	declined                    chan *dhcpv4.DHCPv4    // what clients declined; nil: it goes on giving that
	address                     atomic.Pointer[net.IP] // that it gives
	lifetime                    time.Duration
	renewal, rebinding          time.Duration // when the client shall ask; zero leaves it to the client
}

func newServer(address string, lifetime time.Duration) *server {
	s := &server{lifetime: lifetime}
	s.give(address)
	return s
}

func (s *server) give(address string) { s.address.Store(new(net.ParseIP(address))) }

// answers counts a renewal and tells whether, and how, to answer.
func (s *server) answers(counter *atomic.Int32) (reply, refused bool) {
	counter.Add(1)
	switch mood(s.mood.Load()) {
	case ignore:
		return false, false
	case refuse:
		return true, true
	case move:
		s.give("10.77.0.99")
	}
	return true, false
}

// times4 tells when to renew, where the server does.
func (s *server) times4() []dhcpv4.Modifier {
	if s.renewal == 0 {
		return nil
	}
	return []dhcpv4.Modifier{
		dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(s.renewal)), dhcpv4.WithOption(dhcpv4.OptRebindingTimeValue(s.rebinding)),
	}
}

// serve4 is a DHCPv4 server on the neighbour's machine, 10.77.0.1.
func serve4(t *testing.T, peer *neighbour, s *server, options ...dhcpv4.Modifier) {
	t.Helper()
	own := net.IPv4(10, 77, 0, 1)
	handler := func(conn net.PacketConn, from net.Addr, m *dhcpv4.DHCPv4) {
		to := &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
		kind, refused := dhcpv4.MessageTypeOffer, false
		switch {
		case m.MessageType() == dhcpv4.MessageTypeRelease:
			s.releases.Add(1)
			return
		case m.MessageType() == dhcpv4.MessageTypeDecline:
			if s.declined != nil {
				s.give("10.77.0.51")
				s.declined <- m
			}
			return
		case m.MessageType() == dhcpv4.MessageTypeRequest:
			kind = dhcpv4.MessageTypeAck
			if m.ClientIPAddr.IsUnspecified() {
				break // the first
			}
			to.IP = m.ClientIPAddr
			counter := &s.renewals
			if !from.(*net.UDPAddr).IP.Equal(m.ClientIPAddr) { // a broadcast
				counter = &s.rebinds
			}
			var reply bool
			if reply, refused = s.answers(counter); !reply {
				return
			}
		}
		if refused {
			kind = dhcpv4.MessageTypeNak
		}
		reply, err := dhcpv4.NewReplyFromRequest(m, append([]dhcpv4.Modifier{
			dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(*s.address.Load()), dhcpv4.WithServerIP(own),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(own)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
			dhcpv4.WithLeaseTime(uint32(s.lifetime.Seconds())),
		}, append(s.times4(), options...)...)...)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := conn.WriteTo(reply.ToBytes(), to); err != nil {
			t.Error(err)
		}
	}
	var daemon *server4.Server
	peer.do(func() (err error) {
		daemon, err = server4.NewServer(theirEnd, &net.UDPAddr{IP: net.IPv4zero, Port: 67}, handler)
		return err
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = daemon.Serve() // ends with its socket
	}()
	t.Cleanup(func() {
		_ = daemon.Close()
		<-ended
	})
}

func TestDHCP4(t *testing.T) {
	peer := connect(t)
	peer.give("10.77.0.1/24")
	s := newServer("10.77.0.50", time.Hour)
	serve4(t, peer, s, dhcpv4.WithRouter(net.IPv4(10, 77, 0, 1)), dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{5, 120}))
	n := network.NewHasty()
	address, err := n.Up(t.Context(), appliance.NetworkSpec{})
	want := netip.MustParsePrefix("10.77.0.50/24")
	if err != nil || address != want {
		t.Fatalf("address is %s, %v, want %s", address, err, want)
	}
	if got := peer.addresses(); !slices.Equal(got, []netip.Prefix{want}) {
		t.Errorf("addresses are %v", got)
	}
	if got := peer.gateways(); !slices.Equal(got, []string{"10.77.0.1"}) {
		t.Errorf("gateways are %v", got)
	}
	if mtu := peer.link().Attrs().MTU; mtu != 1400 {
		t.Errorf("MTU is %d, want that of the lease", mtu)
	}
	peer.greet(want.Addr())
	t.Run("watched", func(t *testing.T) { expectNone(t, watch(t, n), 100*time.Millisecond) })
	if s.releases.Load() != 1 {
		t.Errorf("the lease was given back %d times", s.releases.Load())
	}
	n = network.NewHasty()
	if _, err := n.Up(t.Context(), appliance.NetworkSpec{MTU: 1450}); err != nil || peer.link().Attrs().MTU != 1450 {
		t.Errorf("MTU is %d, %v, want the configured one", peer.link().Attrs().MTU, err)
	}
}

func TestDHCP4TakenAddress(t *testing.T) {
	peer := connect(t)
	peer.give("10.77.0.1/24")
	peer.give("10.77.0.50/24")
	s := newServer("10.77.0.50", time.Hour)
	serve4(t, peer, s)
	if _, err := network.NewHasty().Up(t.Context(), appliance.NetworkSpec{}); !errors.Is(err, network.ErrAddressTaken) {
		t.Errorf("error is %v, want ErrAddressTaken", err)
	}
}

// TestDHCP4Decline: an address that another machine has is declined, and the server gives another one.
func TestDHCP4Decline(t *testing.T) {
	peer := connect(t)
	peer.give("10.77.0.1/24")
	peer.give("10.77.0.50/24")
	s := newServer("10.77.0.50", time.Hour)
	s.declined = make(chan *dhcpv4.DHCPv4, 1)
	serve4(t, peer, s)
	n := network.NewHasty()
	address, err := n.Up(t.Context(), appliance.NetworkSpec{})
	if err != nil || address != netip.MustParsePrefix("10.77.0.51/24") {
		t.Fatalf("address is %s, %v", address, err)
	}
	if got := peer.addresses(); !slices.Equal(got, []netip.Prefix{address}) {
		t.Errorf("addresses are %v", got)
	}
	m := <-s.declined
	if !m.RequestedIPAddress().Equal(net.IPv4(10, 77, 0, 50)) || !m.ServerIdentifier().Equal(net.IPv4(10, 77, 0, 1)) || !m.ClientIPAddr.IsUnspecified() ||
		m.ClientHWAddr.String() != peer.link().Attrs().HardwareAddr.String() {
		t.Errorf("declined with %s", m.Summary())
	}
	if event := <-watch(t, n); event.Err != nil || !strings.Contains(event.Text, "10.77.0.50") {
		t.Errorf("event %+v", event)
	}
}

func TestDHCP4SenselessLease(t *testing.T) {
	for name, option := range map[string]dhcpv4.Modifier{
		"netmask": dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0)), "lifetime": dhcpv4.WithLeaseTime(0), "address": dhcpv4.WithYourIP(net.IPv4zero),
	} {
		t.Run(name, func(t *testing.T) {
			peer := connect(t)
			peer.give("10.77.0.1/24")
			serve4(t, peer, newServer("10.77.0.50", time.Hour), option)
			if _, err := network.NewHasty().Up(t.Context(), appliance.NetworkSpec{}); !errors.Is(err, network.ErrNoLease) || strings.Contains(err.Error(), "no matching") {
				t.Errorf("error is %v, want ErrNoLease for what the server gave", err)
			}
			if got := peer.addresses(); len(got) != 0 {
				t.Errorf("addresses are %v, want none", got)
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	connect(t)
	var group sync.WaitGroup
	for _, spec := range []appliance.NetworkSpec{{}, {DHCP6: true}} {
		group.Go(func() {
			if _, err := network.NewHasty().Up(t.Context(), spec); !errors.Is(err, network.ErrNoLease) {
				t.Errorf("DHCPv6 %v: error is %v, want ErrNoLease", spec.DHCP6, err)
			}
		})
	}
	group.Wait()
}

// tenant has a short lease that is watched over.
type tenant struct {
	server *server
	events <-chan appliance.NetworkEvent
}

// tenants take leases of both versions on one cable: lifetimes are whole seconds, and so both pass at once.
func tenants(t *testing.T, server4, server6 *server) map[string]tenant {
	t.Helper()
	peer := connect(t)
	peer.give("10.77.0.1/24")
	serve4(t, peer, server4)
	serve6(t, peer, server6)
	both := map[string]*network.Network{"IPv4": up(t, appliance.NetworkSpec{}), "IPv6": up(t, appliance.NetworkSpec{DHCP6: true})}
	// As a router's advertisement would.
	route := &netlink.Route{LinkIndex: peer.link().Attrs().Index, Dst: &net.IPNet{IP: net.ParseIP("fd77::"), Mask: net.CIDRMask(64, 128)}}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	return map[string]tenant{"IPv4": {server4, watch(t, both["IPv4"])}, "IPv6": {server6, watch(t, both["IPv6"])}}
}

func TestLeaseIsRenewed(t *testing.T) {
	all := tenants(t, newServer("10.77.0.50", 2*time.Second), newServer("fd77::50", 2*time.Second))
	time.Sleep(2500 * time.Millisecond) // longer than the leases
	for name, one := range all {
		expectNone(t, one.events, 20*time.Millisecond)
		if renewals, rebinds := one.server.renewals.Load(), one.server.rebinds.Load(); renewals < 2 || rebinds != 0 {
			t.Errorf("%s: %d renewals, want one a second, and %d rebinds, want none", name, renewals, rebinds)
		}
	}
}

func TestLeaseRunsOut(t *testing.T) {
	server4, server6 := newServer("10.77.0.50", 3*time.Second), newServer("fd77::50", 3*time.Second)
	for _, s := range []*server{server4, server6} {
		s.renewal, s.rebinding = time.Second, 2*time.Second
	}
	all := tenants(t, server4, server6)
	for _, one := range all {
		one.server.mood.Store(int32(ignore))
	}
	for name, one := range all {
		expect(t, one.events, slog.LevelWarn, "could not be renewed and runs out in")
		expectEnd(t, one.events, network.ErrNoLease)
		if renewals, rebinds := one.server.renewals.Load(), one.server.rebinds.Load(); renewals == 0 || rebinds == 0 {
			t.Errorf("%s: the server that gave the lease was asked %d times, all servers %d times", name, renewals, rebinds)
		}
	}
}

func TestLeaseIsTakenBack(t *testing.T) {
	for name, moods := range map[string]map[string]mood{
		"refused": {"IPv4": refuse, "IPv6": refuse}, "moved": {"IPv4": move},
	} {
		t.Run(name, func(t *testing.T) {
			all := tenants(t, newServer("10.77.0.50", 2*time.Second), newServer("fd77::50", 2*time.Second))
			for version, m := range moods {
				all[version].server.mood.Store(int32(m))
			}
			for version := range moods {
				expectEnd(t, all[version].events, network.ErrRefused)
			}
		})
	}
}

// serve6 is a DHCPv6 server on the neighbour's machine.
func serve6(t *testing.T, peer *neighbour, s *server) {
	t.Helper()
	identity := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: peer.mac[:]}
	handler := func(conn net.PacketConn, client net.Addr, question dhcpv6.DHCPv6) {
		m, err := question.GetInnerMessage()
		if err != nil {
			t.Error(err)
			return
		}
		reply, refused := true, false
		switch m.MessageType {
		case dhcpv6.MessageTypeRenew:
			reply, refused = s.answers(&s.renewals)
		case dhcpv6.MessageTypeRebind:
			reply, refused = s.answers(&s.rebinds)
		case dhcpv6.MessageTypeRelease:
			s.releases.Add(1)
		}
		if !reply {
			return
		}
		association := dhcpv6.OptIANA{IaId: m.Options.OneIANA().IaId, T1: s.renewal, T2: s.rebinding}
		if refused {
			association.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoBinding})
		} else {
			association.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: *s.address.Load(), PreferredLifetime: s.lifetime, ValidLifetime: s.lifetime})
		}
		answer := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
		if m.MessageType == dhcpv6.MessageTypeSolicit {
			answer.MessageType = dhcpv6.MessageTypeAdvertise
		}
		answer.AddOption(dhcpv6.OptClientID(m.Options.ClientID()))
		answer.AddOption(dhcpv6.OptServerID(identity))
		answer.AddOption(&association)
		if _, err := conn.WriteTo(answer.ToBytes(), client); err != nil {
			t.Error(err)
		}
	}
	peer.give("fe80::1/64") // the kernel's own takes a while
	var daemon *server6.Server
	peer.do(func() (err error) {
		daemon, err = server6.NewServer(theirEnd, &net.UDPAddr{IP: net.IPv6unspecified, Port: 547}, handler)
		return err
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = daemon.Serve() // ends with its socket
	}()
	t.Cleanup(func() {
		_ = daemon.Close()
		<-ended
	})
}

func TestDHCP6(t *testing.T) {
	peer := connect(t)
	peer.give("fd77::1/64")
	s := newServer("fd77::50", time.Hour)
	serve6(t, peer, s)
	n := network.NewHasty()
	address, err := n.Up(t.Context(), appliance.NetworkSpec{DHCP6: true})
	want := netip.MustParsePrefix("fd77::50/128")
	if err != nil || address != want {
		t.Fatalf("address is %s, %v, want %s", address, err, want)
	}
	if got := peer.addresses(); !slices.Equal(got, []netip.Prefix{want}) {
		t.Errorf("addresses are %v", got)
	}
	t.Run("watched", func(t *testing.T) {
		events := watch(t, n)
		expect(t, events, slog.LevelWarn, "no IPv6 router has advertised itself: fd77::50 reaches nobody")
		expectNone(t, events, 100*time.Millisecond)
	})
	if s.releases.Load() != 1 {
		t.Errorf("the lease was given back %d times", s.releases.Load())
	}
}
