package placement

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/appliance/control"
)

const (
	// addressTextLimit and addressLimit bound what an administrator may enter: a range is leased from by trying
	// one address after the other.
	addressTextLimit = 4096
	addressLimit     = 1 << 16
)

// AddressRanges are the addresses that a pool's delegates may use, each with its network's prefix length; or none of them is known,
// and each delegate asks a DHCP server for its own. The zero value holds none.
type AddressRanges struct {
	ranges []addressRange // as given; they do not overlap
	dhcp   string         // control.AddressDHCP or control.AddressDHCP6 instead
}

// addressRange is an inclusive range within one network of bits prefix length.
type addressRange struct {
	first, last netip.Addr
	bits        int
}

// ParseAddresses reads a list, separated by commas, of
//
//	10.0.0.0/24               every host address of a network
//	10.0.0.20-10.0.0.40/24    from-to within a network
//	10.0.0.7/24               one address within a network
//
//	dhcp, or dhcp6            alone: what a DHCP server of the delegates' network gives, for IPv4 or IPv6
//
// for IPv4 and IPv6 alike. The prefix length is that of the network the delegate is on. A network's own address and
// its broadcast address are no host addresses. At most 65536 addresses in all, none twice.
func ParseAddresses(text string) (AddressRanges, error) {
	if len(text) > addressTextLimit {
		return AddressRanges{}, fmt.Errorf("the list of addresses has %d bytes, at most %d are read", len(text), addressTextLimit)
	}
	if only := strings.TrimSpace(text); only == control.AddressDHCP || only == control.AddressDHCP6 {
		return AddressRanges{dhcp: only}, nil
	}
	var parsed AddressRanges
	var total uint64
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		one, err := parseRange(item)
		if err != nil {
			return AddressRanges{}, fmt.Errorf("addresses %q: %w", item, err)
		}
		count, ok := one.count()
		if total += min(count, addressLimit+1); !ok || total > addressLimit {
			return AddressRanges{}, fmt.Errorf("addresses %q: more than %d addresses: give a smaller part as from-to/prefix", item, addressLimit)
		}
		for _, other := range parsed.ranges {
			if one.first.Compare(other.last) <= 0 && other.first.Compare(one.last) <= 0 {
				return AddressRanges{}, fmt.Errorf("addresses %q: overlaps %s: name each address once", item, other)
			}
		}
		parsed.ranges = append(parsed.ranges, one)
	}
	return parsed, nil
}

func parseRange(item string) (addressRange, error) {
	span, bitsText, found := strings.Cut(item, "/")
	if !found {
		return addressRange{}, fmt.Errorf("the prefix length of the network is missing, such as 10.0.0.20-10.0.0.40/24; %s and %s stand alone",
			control.AddressDHCP, control.AddressDHCP6)
	}
	firstText, lastText, isSpan := strings.Cut(span, "-")
	first, err := parseAddress(firstText)
	if err != nil {
		return addressRange{}, err
	}
	network, err := netip.ParsePrefix(first.String() + "/" + bitsText)
	if err != nil {
		return addressRange{}, fmt.Errorf("%q is no prefix length for %s", bitsText, first)
	}
	lowest, highest := hostAddresses(network.Masked())
	one := addressRange{first: first, last: first, bits: network.Bits()}
	switch {
	case isSpan:
		if one.last, err = parseAddress(lastText); err != nil {
			return addressRange{}, err
		}
	case network.Masked().Addr() == first:
		one.first, one.last = lowest, highest
	}
	switch {
	case one.first.BitLen() != one.last.BitLen() || !network.Contains(one.last):
		return addressRange{}, fmt.Errorf("%s and %s are not in one network of /%d", one.first, one.last, one.bits)
	case one.last.Less(one.first):
		return addressRange{}, fmt.Errorf("%s comes after %s", one.first, one.last)
	case one.first.Less(lowest) || highest.Less(one.last):
		return addressRange{}, fmt.Errorf("%s is outside the host addresses %s to %s", one, lowest, highest)
	}
	return one, nil
}

func parseAddress(text string) (netip.Addr, error) {
	address, err := netip.ParseAddr(strings.TrimSpace(text))
	switch {
	case err != nil:
		return address, fmt.Errorf("%q is no address", strings.TrimSpace(text))
	case address.Zone() != "" || address.Is4In6():
		return address, fmt.Errorf("%s: zones and mapped addresses cannot be given to a delegate", address)
	case address.IsMulticast():
		return address, fmt.Errorf("%s is a multicast address", address)
	}
	return address, nil
}

// hostAddresses are the first and last address that a host may have. Networks of one or two addresses have no
// address to spare (RFC 3021, RFC 6164); IPv6 keeps the first for routers (RFC 4291 §2.6.1) and has no broadcast.
func hostAddresses(network netip.Prefix) (lowest, highest netip.Addr) {
	lowest, highest = network.Addr(), lastAddress(network)
	if lowest.BitLen()-network.Bits() < 2 {
		return lowest, highest
	}
	if lowest.Is4() {
		highest = highest.Prev()
	}
	return lowest.Next(), highest
}

func lastAddress(network netip.Prefix) netip.Addr {
	raw := network.Addr().AsSlice()
	for bit := network.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 0x80 >> (bit % 8)
	}
	address, _ := netip.AddrFromSlice(raw)
	return address
}

// count is the number of addresses; ok is false when it does not fit 64 bits.
func (r addressRange) count() (n uint64, ok bool) {
	first, last := r.first.As16(), r.last.As16()
	if !slices.Equal(first[:8], last[:8]) {
		return 0, false
	}
	n = binary.BigEndian.Uint64(last[8:]) - binary.BigEndian.Uint64(first[8:]) + 1
	return n, n != 0
}

func (r addressRange) String() string {
	// A network's own address with its length alone would mean the whole network.
	if r.first == r.last && netip.PrefixFrom(r.first, r.bits).Masked().Addr() != r.first {
		return fmt.Sprintf("%s/%d", r.first, r.bits)
	}
	return fmt.Sprintf("%s-%s/%d", r.first, r.last, r.bits)
}

// All goes through the addresses in the order given, each with its network's prefix length.
func (a AddressRanges) All() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for _, one := range a.ranges {
			for address := one.first; address.IsValid() && address.Compare(one.last) <= 0; address = address.Next() {
				if !yield(netip.PrefixFrom(address, one.bits)) {
					return
				}
			}
		}
	}
}

// DHCP is what a delegate is told in place of an address when it asks a DHCP server for its own, control.AddressDHCP or
// control.AddressDHCP6; else it is empty.
func (a AddressRanges) DHCP() string { return a.dhcp }

// Len is the number of addresses; 0 with DHCP.
func (a AddressRanges) Len() int {
	total := uint64(0)
	for _, one := range a.ranges {
		n, _ := one.count() // ParseAddresses has checked it
		total += n
	}
	return int(total)
}

// Contains reports whether an address is among them.
func (a AddressRanges) Contains(address netip.Addr) bool {
	return slices.ContainsFunc(a.ranges, func(r addressRange) bool {
		return r.first.Compare(address) <= 0 && address.Compare(r.last) <= 0
	})
}

// String gives the list in a form that ParseAddresses reads back to the same.
func (a AddressRanges) String() string {
	if a.dhcp != "" {
		return a.dhcp
	}
	texts := make([]string, len(a.ranges))
	for i, one := range a.ranges {
		texts[i] = one.String()
	}
	return strings.Join(texts, ", ")
}
