package network_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/network"
	"github.com/understudy-dr/understudy/netproto/line"
)

func up(t *testing.T, spec appliance.NetworkSpec) *network.Network {
	t.Helper()
	n := network.NewHasty()
	address, err := n.Up(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if spec.Address.IsValid() && address != spec.Address {
		t.Errorf("address is %s, want %s", address, spec.Address)
	}
	return n
}

func TestStatic(t *testing.T) {
	for name, test := range map[string]struct{ own, gateway, peer string }{
		"IPv4":                    {"10.77.0.2/24", "10.77.0.1", "10.77.0.1/24"},
		"IPv6":                    {"fd77::2/64", "fd77::1", "fd77::1/64"},
		"IPv6 link-local gateway": {"fd77::2/64", "fe80::1", "fd77::1/64"},
	} {
		t.Run(name, func(t *testing.T) {
			peer := connect(t)
			peer.give(test.peer)
			spec := static(test.own, test.gateway, 1400)
			up(t, spec)
			if got := peer.addresses(); !slices.Equal(got, []netip.Prefix{spec.Address}) {
				t.Errorf("addresses are %v", got)
			}
			if got := peer.gateways(); !slices.Equal(got, []string{test.gateway}) {
				t.Errorf("gateways are %v", got)
			}
			if mtu := peer.link().Attrs().MTU; mtu != 1400 {
				t.Errorf("MTU is %d", mtu)
			}
			peer.greet(spec.Address.Addr())
			up(t, spec) // what is there already is no obstacle
		})
	}
}

// greet has the neighbour connect to our address over TCP.
func (n *neighbour) greet(address netip.Addr) {
	n.t.Helper()
	listener, err := net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
	if err != nil {
		n.t.Fatal(err)
	}
	defer listener.Close()
	n.do(func() error {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), within)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func TestTakenAddress(t *testing.T) {
	for name, address := range map[string]string{"IPv4": "10.77.0.9/24", "IPv6": "fd77::9/64"} {
		t.Run(name, func(t *testing.T) {
			peer := connect(t)
			peer.give(address)
			_, err := network.NewHasty().Up(t.Context(), static(address, "", 0))
			if !errors.Is(err, network.ErrAddressTaken) || !strings.Contains(err.Error(), address) {
				t.Errorf("error is %v, want ErrAddressTaken with the address", err)
			}
			if name == "IPv4" && !strings.Contains(err.Error(), net.HardwareAddr(peer.mac[:]).String()) {
				t.Errorf("error %v does not name the other machine", err)
			}
			if got := peer.addresses(); len(got) != 0 {
				t.Errorf("addresses are %v, want none", got)
			}
		})
	}
}

func TestNoInterface(t *testing.T) {
	_, err := network.NewHasty().Up(t.Context(), static("10.77.0.2/24", "", 0))
	if !errors.Is(err, network.ErrNoInterface) {
		t.Errorf("error is %v, want ErrNoInterface", err)
	}
}

// An interface may appear after the network was asked for.
func TestLateInterface(t *testing.T) {
	ended := make(chan error, 1)
	go func() {
		_, err := network.New(nil).Up(t.Context(), static("10.77.0.2/24", "", 0))
		ended <- err
	}()
	time.Sleep(20 * time.Millisecond)
	connect(t)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestNoLink(t *testing.T) {
	peer := connect(t)
	peer.setLink(false)
	_, err := network.NewHasty().Up(t.Context(), static("10.77.0.2/24", "", 0))
	if !errors.Is(err, network.ErrNoLink) || !strings.Contains(err.Error(), peer.ours) {
		t.Errorf("error is %v, want ErrNoLink with the interface", err)
	}
}

func TestImpossibleMTU(t *testing.T) {
	connect(t)
	_, err := network.NewHasty().Up(t.Context(), static("10.77.0.2/24", "", 1<<20))
	if err == nil || !strings.Contains(err.Error(), "set the MTU to 1048576") {
		t.Errorf("error is %v, want one about the MTU", err)
	}
}

func TestUnreachableGateway(t *testing.T) {
	connect(t)
	_, err := network.NewHasty().Up(t.Context(), static("10.77.0.2/24", "10.78.0.1", 0))
	if err == nil || !strings.Contains(err.Error(), "gateway 10.78.0.1") || !strings.Contains(err.Error(), "10.77.0.0/24") {
		t.Errorf("error is %v, want one that names gateway and network", err)
	}
}

// A line that the kernel cannot imitate is an error, not a line that is as fast as any.
func TestLineWithoutModule(t *testing.T) {
	connect(t)
	absent := errors.New("not in this image")
	var asked []string
	n := network.New(func(name string) error {
		asked = append(asked, name)
		return absent
	})
	spec := static("10.77.0.2/24", "", 0)
	spec.Line = line.Spec{Rate: 20e6 / 8, RTT: 100 * time.Millisecond}
	if _, err := n.Up(t.Context(), spec); !errors.Is(err, absent) || !strings.Contains(err.Error(), "line 20mbit,100ms") {
		t.Errorf("error is %v, want %v and the line", err, absent)
	}
	if !slices.Equal(asked, []string{"sch_netem"}) {
		t.Errorf("the modules %q were loaded", asked)
	}
}

func TestUpIsCancelled(t *testing.T) {
	for name, spec := range map[string]appliance.NetworkSpec{
		"probe": static("10.77.0.2/24", "", 0),
		"DAD":   static("fd77::2/64", "", 0),
		"DHCP":  {},
		"DHCP6": {DHCP6: true},
	} {
		t.Run(name, func(t *testing.T) {
			connect(t).tune("ipv6/neigh", "retrans_time_ms", "2000")
			cause := errors.New("changed my mind")
			ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
			defer cancel()
			began := time.Now()
			_, err := network.New(nil).Up(ctx, spec)
			if !errors.Is(err, cause) || time.Since(began) > time.Second {
				t.Errorf("error after %v is %v, want the cause within a second", time.Since(began), err)
			}
		})
	}
}

// watch runs Watch until the test ends. The events end with it.
func watch(t *testing.T, n *network.Network) <-chan appliance.NetworkEvent {
	t.Helper()
	events := make(chan appliance.NetworkEvent, 64)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		defer close(events)
		ended <- n.Watch(ctx, func(e appliance.NetworkEvent) { events <- e })
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Watch: %v", err)
			}
		case <-time.After(2 * time.Second):
			t.Error("Watch did not end with its context")
		}
	})
	return events
}

func next(t *testing.T, events <-chan appliance.NetworkEvent) appliance.NetworkEvent {
	t.Helper()
	select {
	case e, ok := <-events:
		if !ok {
			t.Fatal("Watch has ended")
		}
		return e
	case <-time.After(within):
		t.Fatal("no event in time")
		panic("not reached")
	}
}

func expect(t *testing.T, events <-chan appliance.NetworkEvent, level slog.Level, text string) appliance.NetworkEvent {
	t.Helper()
	e := next(t, events)
	if e.Level != level || !strings.Contains(e.Text, text) {
		t.Fatalf("event is %+v, want %s %q", e, level, text)
	}
	return e
}

// expectEnd waits for the event that ends the delegate; others may come before it.
func expectEnd(t *testing.T, events <-chan appliance.NetworkEvent, cause error) {
	t.Helper()
	e := next(t, events)
	for e.Err == nil {
		e = next(t, events)
	}
	if !errors.Is(e.Err, cause) || e.Level != slog.LevelError {
		t.Errorf("event is %+v, want the error %v", e, cause)
	}
}

func expectNone(t *testing.T, events <-chan appliance.NetworkEvent, d time.Duration) {
	t.Helper()
	select {
	case e := <-events:
		t.Fatalf("event is %+v, want none", e)
	case <-time.After(d):
	}
}

func TestLinkDownAndUp(t *testing.T) {
	peer := connect(t)
	events := watch(t, up(t, static("10.77.0.2/24", "", 0)))
	peer.setLink(false)
	expect(t, events, slog.LevelWarn, "link of vif0 is down")
	peer.setLink(true)
	expect(t, events, slog.LevelInfo, "link of vif0 is up again")
	expectNone(t, events, 100*time.Millisecond)
}

// Whichever part of Watch misses the interface first: it is not always the one that looks for it.
func TestInterfaceGone(t *testing.T) {
	for name, test := range map[string]struct {
		gateway string
		delay   time.Duration
	}{
		"before":           {"", 0},
		"before, gateway":  {"10.77.0.1", 0},
		"while it watches": {"", 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			peer := connect(t)
			n := up(t, static("10.77.0.2/24", test.gateway, 0))
			remove := func() {
				if err := netlink.LinkDel(peer.link()); err != nil {
					t.Fatal(err)
				}
			}
			if test.delay == 0 {
				remove()
			}
			events := watch(t, n)
			if test.delay > 0 {
				time.Sleep(test.delay)
				remove()
			}
			expectEnd(t, events, network.ErrNoInterface)
		})
	}
}

func TestGateway(t *testing.T) {
	for name, test := range map[string]struct{ own, gateway string }{
		"IPv4": {"10.77.0.2/24", "10.77.0.1"},
		"IPv6": {"fd77::2/64", "fd77::1"},
	} {
		t.Run(name+" silent", func(t *testing.T) {
			connect(t)
			events := watch(t, up(t, static(test.own, test.gateway, 0)))
			expect(t, events, slog.LevelWarn, "gateway "+test.gateway+" does not answer")
		})
		t.Run(name+" answers", func(t *testing.T) {
			peer := connect(t)
			peer.give(test.gateway + test.own[strings.Index(test.own, "/"):])
			events := watch(t, up(t, static(test.own, test.gateway, 0)))
			expectNone(t, events, 300*time.Millisecond)
		})
	}
}

func TestConflictWhileRunning(t *testing.T) {
	peer := connect(t)
	spec := static("10.77.0.2/24", "", 0)
	events := watch(t, up(t, spec))
	expectNone(t, events, 100*time.Millisecond)
	usurp := func(sender [6]byte, address string) {
		t.Helper()
		peer.do(func() error { return network.AnnounceOn(peer.index, sender, netip.MustParseAddr(address)) })
	}
	usurp(peer.mac, "10.77.0.3")                                  // somebody else's
	usurp([6]byte(peer.link().Attrs().HardwareAddr), "10.77.0.2") // ours, come back
	expectNone(t, events, 100*time.Millisecond)
	usurp(peer.mac, "10.77.0.2")
	usurp(peer.mac, "10.77.0.2") // one report is enough
	expect(t, events, slog.LevelError, fmt.Sprintf("%s uses 10.77.0.2 too", net.HardwareAddr(peer.mac[:])))
	expectNone(t, events, 400*time.Millisecond)
	usurp(peer.mac, "10.77.0.2")
	if e := expect(t, events, slog.LevelError, "uses 10.77.0.2 too"); e.Err != nil {
		t.Errorf("a duplicate address ends the delegate: %v", e.Err)
	}
}
