package network_test

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/server6"
	"github.com/insomniacslk/dhcp/iana"

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
	address                     atomic.Pointer[net.IP] // that it gives
	lifetime                    time.Duration
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
		}, options...)...)
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
	serve4(t, peer, newServer("10.77.0.50", time.Hour))
	if _, err := network.NewHasty().Up(t.Context(), appliance.NetworkSpec{}); !errors.Is(err, network.ErrAddressTaken) {
		t.Errorf("error is %v, want ErrAddressTaken", err)
	}
}

func TestNoServer(t *testing.T) {
	for name, spec := range map[string]appliance.NetworkSpec{"IPv4": {}, "IPv6": {DHCP6: true}} {
		t.Run(name, func(t *testing.T) {
			connect(t)
			if _, err := network.NewHasty().Up(t.Context(), spec); !errors.Is(err, network.ErrNoLease) {
				t.Errorf("error is %v, want ErrNoLease", err)
			}
		})
	}
}

// lives takes a short lease in the version that the caller serves and returns its server and its events.
func lives(t *testing.T, version int, lifetime time.Duration) (*server, <-chan appliance.NetworkEvent) {
	t.Helper()
	peer := connect(t)
	if version == 4 {
		peer.give("10.77.0.1/24")
		s := newServer("10.77.0.50", lifetime)
		serve4(t, peer, s)
		return s, watch(t, up(t, appliance.NetworkSpec{}))
	}
	s := newServer("fd77::50", lifetime)
	serve6(t, peer, s)
	return s, watch(t, up(t, appliance.NetworkSpec{DHCP6: true}))
}

func TestLeaseIsRenewed(t *testing.T) {
	for name, version := range map[string]int{"IPv4": 4, "IPv6": 6} {
		t.Run(name, func(t *testing.T) {
			s, events := lives(t, version, 2*time.Second)
			expectNone(t, events, 2500*time.Millisecond) // longer than the lease
			if s.renewals.Load() < 2 || s.rebinds.Load() != 0 {
				t.Errorf("%d renewals, want one a second, and %d rebinds, want none", s.renewals.Load(), s.rebinds.Load())
			}
		})
	}
}

func TestLeaseRunsOut(t *testing.T) {
	for name, version := range map[string]int{"IPv4": 4, "IPv6": 6} {
		t.Run(name, func(t *testing.T) {
			s, events := lives(t, version, 3*time.Second)
			s.mood.Store(int32(ignore))
			e := expect(t, events, slog.LevelWarn, "could not be renewed and runs out in")
			for e.Err == nil {
				e = <-events
			}
			if !errors.Is(e.Err, network.ErrNoLease) || e.Level != slog.LevelError {
				t.Errorf("event is %+v, want the loss of the lease", e)
			}
			if s.renewals.Load() == 0 || s.rebinds.Load() == 0 {
				t.Errorf("the server that gave the lease was asked %d times, all servers %d times", s.renewals.Load(), s.rebinds.Load())
			}
		})
	}
}

func TestLeaseIsTakenBack(t *testing.T) {
	for name, test := range map[string]struct {
		version int
		mood    mood
	}{"IPv4 refused": {4, refuse}, "IPv4 moved": {4, move}, "IPv6 refused": {6, refuse}} {
		t.Run(name, func(t *testing.T) {
			s, events := lives(t, test.version, 2*time.Second)
			s.mood.Store(int32(test.mood))
			if e := expect(t, events, slog.LevelError, "lease is lost"); e.Err == nil {
				t.Errorf("event is %+v, want the end", e)
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
		association := dhcpv6.OptIANA{IaId: m.Options.OneIANA().IaId}
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
	t.Run("watched", func(t *testing.T) { expectNone(t, watch(t, n), 100*time.Millisecond) })
	if s.releases.Load() != 1 {
		t.Errorf("the lease was given back %d times", s.releases.Load())
	}
}
