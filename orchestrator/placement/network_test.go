package placement_test

import (
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

func TestDelegatesNetwork(t *testing.T) {
	for _, c := range []struct {
		addresses, gateway string
		mtu                int
		want               string // in the error; empty: none
	}{
		{"10.0.0.20-10.0.0.40/24", "10.0.0.1", 9000, ""},
		{"10.0.0.20-10.0.0.40/24", "", 576, ""},
		{"fd00::20-fd00::40/64", "fd00::1", 1280, ""},
		{"10.0.0.20-10.0.0.40/24", "", 0, ""},
		{"10.0.0.20-10.0.0.40/24", "10.0.1.1", 0, "not in the network 10.0.0.0/24"},
		{"10.0.0.20-10.0.0.40/24, 10.0.1.20/24", "10.0.0.1", 0, "not in the network 10.0.1.0/24"},
		{"10.0.0.20-10.0.0.40/24", "10.0.0.30", 0, "among the delegates'"},
		{"10.0.0.20-10.0.0.40/24", "fd00::1", 0, "not in the network"},
		{"10.0.0.20-10.0.0.40/24", "router", 0, `"router" is no address`},
		{"fd00::20-fd00::40/64", "fe80::1%eth0", 0, "cannot be"},
		{"10.0.0.20-10.0.0.40/24", "224.0.0.1", 0, "cannot be"},
		{"", "10.0.0.1", 0, "give them too"},
		{"10.0.0.20-10.0.0.40/24", "", 575, "576 to 9216"},
		{"10.0.0.20-10.0.0.40/24", "", 9217, "576 to 9216"},
		{"10.0.0.20-10.0.0.40/24", "", -1, "576 to 9216"},
		{"fd00::20-fd00::40/64", "", 1279, "1280 to 9216"},
		{"dhcp", "", 576, ""},
		{"dhcp6", "", 1279, "1280 to 9216"},
		{"dhcp", "10.0.0.1", 0, "leave it out"},
	} {
		var ranges placement.AddressRanges
		if c.addresses != "" {
			var err error
			if ranges, err = placement.ParseAddresses(c.addresses); err != nil {
				t.Fatal(err)
			}
		}
		var text string
		for _, err := range []error{ranges.CheckGateway(c.gateway), ranges.CheckMTU(c.mtu)} {
			if err != nil {
				text += err.Error()
			}
		}
		if c.want == "" && text != "" || !strings.Contains(text, c.want) {
			t.Errorf("%s, gateway %q, MTU %d: %q, want %q", c.addresses, c.gateway, c.mtu, text, c.want)
		}
	}
}

func TestPlaceOne(t *testing.T) {
	pool := newPool("a")
	pool.sr("shared", "nfs", gib, 0)
	pool.sr("local", "ext", gib, 0)
	pool.host("one", 4*gib, "shared")
	pool.host("two", 2*gib, "shared", "local")
	pool.image("old", "1.9", "shared")
	pool.image("new", "1.10", "shared")
	pool.image("newest", "2.0", "shared")
	pool.VMs["newest"].OtherConfig["understudy:protocol"] = "99"

	if one, err := placement.PlaceOne(pool.Pool, ""); err != nil || one.HostName != "one" || one.TemplateVersion != "1.10" {
		t.Errorf("anywhere: %+v, %v", one, err)
	}
	if one, err := placement.PlaceOne(pool.Pool, "", "local"); err != nil || one.HostName != "two" {
		t.Errorf("on a local SR: %+v, %v", one, err)
	}
	if one, err := placement.PlaceOne(pool.Pool, "two"); err != nil || one.HostName != "two" {
		t.Errorf("on a host: %+v, %v", one, err)
	}
	if _, err := placement.PlaceOne(pool.Pool, "one", "local"); err == nil || !strings.Contains(err.Error(), "host one") || strings.Contains(err.Error(), "host two") {
		t.Errorf("on a host that does not see the SR: %v", err)
	}
	for _, name := range []string{"old", "new"} {
		pool.VMs[xapi.Ref(name)].OtherConfig["understudy:protocol"] = "0"
	}
	if _, err := placement.PlaceOne(pool.Pool, ""); err == nil || !strings.Contains(err.Error(), "another version of the protocol") || !strings.Contains(err.Error(), "2.0") {
		t.Errorf("with images that speak another protocol: %v", err)
	}
}
