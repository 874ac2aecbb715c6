package placement_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/orchestrator/placement"
)

func TestParseAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/30":                           "10.0.0.1/30 10.0.0.2/30",
		"10.0.0.4/31":                           "10.0.0.4/31 10.0.0.5/31",
		"10.0.0.5/32":                           "10.0.0.5/32",
		"10.0.0.5/24":                           "10.0.0.5/24",
		"127.10.0.254-127.10.1.1/8":             "127.10.0.254/8 127.10.0.255/8 127.10.1.0/8 127.10.1.1/8",
		" 10.0.0.9/24 , 10.0.0.2 - 10.0.0.3/24": "10.0.0.9/24 10.0.0.2/24 10.0.0.3/24",
		"fd00::/126":                            "fd00::1/126 fd00::2/126 fd00::3/126",
		"fd00::ffff-fd00::1:0/64":               "fd00::ffff/64 fd00::1:0/64",
		"255.255.255.255/32":                    "255.255.255.255/32",
	} {
		parsed, err := placement.ParseAddresses(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var got []string
		for prefix := range parsed.All() {
			got = append(got, prefix.String())
			if !parsed.Contains(prefix.Addr()) {
				t.Errorf("%s does not contain %s", text, prefix)
			}
		}
		if strings.Join(got, " ") != want || parsed.Len() != len(got) {
			t.Errorf("%s: %d, %q", text, parsed.Len(), got)
		}
	}
	for _, text := range []string{"dhcp", " dhcp6 "} {
		parsed, err := placement.ParseAddresses(text)
		if name := strings.TrimSpace(text); err != nil || parsed.DHCP() != name || parsed.String() != name || parsed.Len() != 0 {
			t.Errorf("%q: %v, %v", text, parsed, err)
		}
	}
	whole, err := placement.ParseAddresses("10.0.0.0/24")
	if err != nil || whole.Len() != 254 || whole.Contains(netip.MustParseAddr("10.0.0.0")) || whole.Contains(netip.MustParseAddr("10.0.0.255")) || whole.Contains(netip.MustParseAddr("fd00::1")) {
		t.Errorf("%v, %v", whole, err)
	}
	if n := (placement.AddressRanges{}).Len(); n != 0 {
		t.Errorf("the zero value holds %d", n)
	}
}

func TestParseAddressesRefuses(t *testing.T) {
	for text, cause := range map[string]string{
		"":                                     "prefix length",
		"10.0.0.1":                             "prefix length",
		"10.0.0.5/24, dhcp":                    "stand alone",
		"10.0.0.0/24,":                         "prefix length",
		"10.0.0.1/33":                          "no prefix length",
		"10.0.0.1/":                            "no prefix length",
		"10.0.0.1/24/24":                       "no prefix length",
		"10.0.0.300/24":                        "no address",
		"host/24":                              "no address",
		"10.0.0.1-/24":                         "no address",
		"10.0.0.9-10.0.0.1/24":                 "comes after",
		"10.0.0.1-10.0.1.1/24":                 "one network",
		"10.0.0.1-fd00::1/24":                  "one network",
		"10.0.0.0-10.0.0.4/24":                 "outside the host addresses",
		"10.0.0.9-10.0.0.255/24":               "outside the host addresses",
		"10.0.0.255/24":                        "outside the host addresses",
		"fe80::1%eth0/64":                      "zones",
		"::ffff:10.0.0.1/120":                  "mapped",
		"224.0.0.1/8":                          "multicast",
		"10.0.0.0/8":                           "more than 65536",
		"fd00::/64":                            "more than 65536",
		"::/0":                                 "more than 65536",
		"fd00::1/64, fd01::/64":                "more than 65536",
		"10.0.0.0/17, 10.1.0.0/17,10.2.0.0/17": "more than 65536",
		"10.0.0.5/24, 10.0.0.0/24":             "overlaps",
		strings.Repeat("10.0.0.5/24,", 1000):   "at most 4096",
	} {
		if parsed, err := placement.ParseAddresses(text); err == nil || !strings.Contains(err.Error(), cause) {
			t.Errorf("%.40q: %d addresses, %v", text, parsed.Len(), err)
		}
	}
}

// FuzzParseAddresses: what is accepted is within the limit, has no address twice, and survives its text form.
func FuzzParseAddresses(f *testing.F) {
	for _, seed := range []string{"127.10.0.5-127.10.0.40/8, 10.0.0.0/24", "fd00::10-fd00::20/64", "10.0.0.0-10.0.0.0/31", "::/0", "1.2.3.4/32"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := placement.ParseAddresses(text)
		if err != nil || parsed.DHCP() != "" {
			return
		}
		var all []netip.Prefix
		for prefix := range parsed.All() {
			if len(all) == 1<<16 || !prefix.IsValid() || !parsed.Contains(prefix.Addr()) {
				t.Fatalf("%q: address %d is %v", text, len(all), prefix)
			}
			all = append(all, prefix)
		}
		if len(all) != parsed.Len() || len(all) == 0 {
			t.Fatalf("%q: %d addresses, Len says %d", text, len(all), parsed.Len())
		}
		again, err := placement.ParseAddresses(parsed.String())
		if err != nil || !slices.Equal(slices.Collect(again.All()), all) {
			t.Fatalf("%q became %q, then %v, %v", text, parsed, again, err)
		}
		slices.SortFunc(all, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		if len(slices.CompactFunc(all, func(a, b netip.Prefix) bool { return a.Addr() == b.Addr() })) != parsed.Len() {
			t.Fatalf("%q holds an address twice", text)
		}
	})
}

func TestEveryAddressOfARange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Uint32Range(1<<24, 200<<24).Draw(t, "start")
		length := rapid.Uint32Range(0, 2000).Draw(t, "length")
		at := func(n uint32) netip.Addr {
			return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		}
		parsed, err := placement.ParseAddresses(at(start).String() + "-" + at(start+length).String() + "/1")
		if err != nil {
			if start < 1<<31 && start+length >= 1<<31-1 || start == 1<<31 {
				return // across the networks of /1, or one of their own addresses
			}
			t.Fatal(err)
		}
		n := start
		for prefix := range parsed.All() {
			if prefix.Addr() != at(n) {
				t.Fatalf("%v instead of %v", prefix, at(n))
			}
			n++
		}
		if n != start+length+1 || parsed.Len() != int(length)+1 {
			t.Fatalf("%d of %d addresses, Len says %d", n-start, length+1, parsed.Len())
		}
	})
}
