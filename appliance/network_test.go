package appliance_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto/line"
)

// fakeNetwork is an appliance.Network whose addresses are all there: those of the loopback network.
type fakeNetwork struct {
	specs   chan appliance.NetworkSpec
	address netip.Prefix // that Up returns
	err     error        // that Up returns
	hangs   bool         // Up does
	events  chan appliance.NetworkEvent
	watched error // that Watch returns at once
}

func newFakeNetwork() *fakeNetwork {
	return &fakeNetwork{specs: make(chan appliance.NetworkSpec, 1), events: make(chan appliance.NetworkEvent)}
}

func (n *fakeNetwork) Up(ctx context.Context, spec appliance.NetworkSpec) (netip.Prefix, error) {
	n.specs <- spec
	if n.hangs {
		<-ctx.Done()
		return netip.Prefix{}, context.Cause(ctx)
	}
	if n.address.IsValid() {
		return n.address, n.err
	}
	return spec.Address, n.err
}

func (n *fakeNetwork) Watch(ctx context.Context, report func(appliance.NetworkEvent)) error {
	if n.watched != nil {
		return n.watched
	}
	for {
		select {
		case e := <-n.events:
			report(e)
		case <-ctx.Done():
			return nil
		}
	}
}

func TestNetworkSpec(t *testing.T) {
	for name, test := range map[string]struct {
		input map[string]string
		want  appliance.NetworkSpec
	}{
		"address": {nil, appliance.NetworkSpec{}},
		"gateway and MTU": {
			map[string]string{control.InputGateway: "127.0.0.1", control.InputMTU: "9000"},
			appliance.NetworkSpec{Gateway: netip.MustParseAddr("127.0.0.1"), MTU: 9000},
		},
		"smallest MTU": {map[string]string{control.InputMTU: "576"}, appliance.NetworkSpec{MTU: 576}},
		"line": {
			map[string]string{control.InputLine: "20mbit,100ms"},
			appliance.NetworkSpec{Line: line.Spec{Rate: 20e6 / 8, RTT: 100 * time.Millisecond}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := prepare(t)
			d.WriteInput(test.input)
			n := newFakeNetwork()
			d.start(func(o *appliance.Options) { o.Network = n })
			d.connect()
			test.want.Address = netip.MustParsePrefix(strings.TrimSuffix(d.address, ":7811") + "/8")
			if got := <-n.specs; got != test.want {
				t.Errorf("the network is asked for %+v, want %+v", got, test.want)
			}
			if _, err := d.Status(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// With DHCP the delegate listens on, and publishes, the address that it was given.
func TestNetworkByDHCP(t *testing.T) {
	for name, test := range map[string]struct{ key, given string }{
		control.AddressDHCP:  {"attr/vif/0/ipv4/0", "127.77.0.1/8"},
		control.AddressDHCP6: {"attr/vif/0/ipv6/0", "::1/128"},
	} {
		t.Run(name, func(t *testing.T) {
			d := prepare(t)
			d.WriteInput(map[string]string{control.InputAddress: name})
			n := newFakeNetwork()
			n.address = netip.MustParsePrefix(test.given)
			d.start(func(o *appliance.Options) { o.Network = n })
			d.address = netip.AddrPortFrom(n.address.Addr(), control.Port).String()
			d.connect()
			if got, want := <-n.specs, (appliance.NetworkSpec{DHCP6: name == control.AddressDHCP6}); got != want {
				t.Errorf("the network is asked for %+v, want %+v", got, want)
			}
			if got, _ := d.ReadPublication(test.key); got != n.address.Addr().String() {
				t.Errorf("published %s is %q, want %s", test.key, got, n.address.Addr())
			}
			if _, err := d.Status(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func (d *delegate) expectFailure(cause string) {
	d.t.Helper()
	err := d.awaitEnd()
	if err == nil || !strings.Contains(err.Error(), cause) {
		d.t.Errorf("Run is %v, want %q", err, cause)
	}
	published, _ := d.ReadPublication(control.CauseKey)
	if !strings.Contains(published, cause) || strings.Contains(published, "\n") || len(published) > 1100 {
		d.t.Errorf("published cause is %q, want one short line with %q", published, cause)
	}
}

func TestWrongNetworkConfiguration(t *testing.T) {
	for name, test := range map[string]struct {
		address, gateway, mtu string
		want                  string
	}{
		"no address":           {"10.0.0.300/24", "", "", "ip/prefix, dhcp or dhcp6"},
		"multicast":            {"224.0.0.1/24", "", "", "no host's address"},
		"unspecified":          {"0.0.0.0/0", "", "", "no host's address"},
		"mapped":               {"::ffff:10.0.0.1/120", "", "", "no host's address"},
		"link-local":           {"fe80::1/64", "", "", "link-local"},
		"network itself":       {"10.0.0.0/24", "", "", "the address of the network 10.0.0.0/24"},
		"broadcast":            {"10.0.1.255/23", "", "", "broadcast address"},
		"wrong gateway":        {"10.0.0.2/24", "router", "", "in/gateway: \"router\""},
		"gateway with a zone":  {"fd77::2/64", "fe80::1%eth0", "", "without a zone"},
		"gateway outside":      {"10.0.0.2/24", "10.0.1.1", "", "outside the network 10.0.0.0/24"},
		"gateway outside IPv6": {"fd77::2/64", "fd78::1", "", "outside the network fd77::/64"},
		"own gateway":          {"10.0.0.2/24", "10.0.0.2", "", "own address"},
		"other version":        {"10.0.0.2/24", "fd77::1", "", "another IP version"},
		"gateway with DHCP":    {"dhcp", "10.0.0.1", "", "leave it out"},
		"MTU no number":        {"10.0.0.2/24", "", "jumbo", "in/mtu: \"jumbo\""},
		"MTU zero":             {"10.0.0.2/24", "", "0", "in/mtu: \"0\""},
		"small MTU":            {"10.0.0.2/24", "", "575", "between 576 and 9216"},
		"small MTU for IPv6":   {"fd77::2/64", "", "1279", "between 1280 and 9216"},
		"small MTU for DHCPv6": {"dhcp6", "", "1279", "between 1280 and 9216"},
		"large MTU":            {"10.0.0.2/24", "", "9217", "between 576 and 9216"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := prepare(t)
			d.WriteInput(map[string]string{control.InputAddress: test.address})
			if test.gateway != "" {
				d.WriteInput(map[string]string{control.InputGateway: test.gateway})
			}
			if test.mtu != "" {
				d.WriteInput(map[string]string{control.InputMTU: test.mtu})
			}
			n := newFakeNetwork()
			d.start(func(o *appliance.Options) { o.Network = n })
			d.expectFailure(test.want)
			if err := d.awaitEnd(); !errors.Is(err, appliance.ErrConfiguration) || len(n.specs) != 0 {
				t.Errorf("error is %v, want ErrConfiguration before the network is touched", err)
			}
		})
	}
}

func TestWrongLine(t *testing.T) {
	for text, want := range map[string]string{
		"20mbit":                            "in/line: line \"20mbit\": no comma",
		"fast,1ms":                          "in/line: line \"fast,1ms\": rate",
		"1gbit,100ms" /* 6.25 + 12.5 MB */ : "holds 18750000 bytes; at most 16777216 can be imitated",
	} {
		t.Run(text, func(t *testing.T) {
			d, n := prepare(t), newFakeNetwork()
			d.WriteInput(map[string]string{control.InputLine: text})
			d.start(func(o *appliance.Options) { o.Network = n })
			d.expectFailure(want)
			if len(n.specs) != 0 {
				t.Error("the network was touched")
			}
		})
	}
}

func TestNetworkFails(t *testing.T) {
	t.Run("down", func(t *testing.T) {
		d, n := prepare(t), newFakeNetwork()
		n.err = errors.Join(errors.New("the address is taken by aa:bb"), errors.New(strings.Repeat("é", 2000)))
		d.start(func(o *appliance.Options) { o.Network = n })
		d.expectFailure("the address is taken by aa:bb")
		if _, ok := d.ReadPublication(control.IdentityKey); ok {
			t.Error("an identity was published")
		}
	})
	t.Run("hangs", func(t *testing.T) {
		d, n := prepare(t), newFakeNetwork()
		n.hangs = true
		d.start(func(o *appliance.Options) { o.Network, o.NetworkTimeout = n, 50*time.Millisecond })
		d.expectFailure("the network was not up within 50ms")
	})
	t.Run("later", func(t *testing.T) {
		n := newFakeNetwork()
		d := launchWith(t, func(o *appliance.Options) { o.Network = n })
		n.events <- appliance.NetworkEvent{Level: slog.LevelWarn, Text: "the link is down"}
		d.eventually("event served", func() bool {
			page, err := d.Events(t.Context(), 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Events {
				if e.Level == "WARN" && strings.Contains(e.Message, "the link is down") {
					return true
				}
			}
			return false
		})
		n.events <- appliance.NetworkEvent{Level: slog.LevelError, Text: "lease lost", Err: errors.New("the lease ran out")}
		d.expectFailure("the lease ran out")
	})
	t.Run("watch", func(t *testing.T) {
		d, n := prepare(t), newFakeNetwork()
		n.watched = errors.New("no netlink")
		d.start(func(o *appliance.Options) { o.Network = n })
		d.expectFailure("watch the network: no netlink")
	})
}

// A local process cannot do DHCP.
func TestDHCPWithoutNetwork(t *testing.T) {
	d := prepare(t)
	d.WriteInput(map[string]string{control.InputAddress: control.AddressDHCP})
	d.start(nil)
	d.expectFailure("give an address that it has already")
}
