package placement

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/understudy-dr/understudy/appliance/control"
)

// Bounds of a delegate's MTU in bytes: what every IPv4 host must take (RFC 791), what every IPv6 link must carry (RFC 8200 §5),
// and the largest frames in use.
const (
	minMTU     = 576
	minMTUIPv6 = 1280
	maxMTU     = 9216
)

// CheckGateway makes sure that delegates with any of the addresses could use a gateway; none, the empty text, always can be used.
func (a AddressRanges) CheckGateway(text string) error {
	if text == "" {
		return nil
	}
	gateway, err := netip.ParseAddr(text)
	switch {
	case a.dhcp != "":
		return fmt.Errorf("with %s it comes from the network: leave it out", a.dhcp)
	case err != nil:
		return fmt.Errorf("%q is no address", text)
	case gateway.Zone() != "" || gateway.IsMulticast() || gateway.IsUnspecified() || gateway.Is4In6():
		return fmt.Errorf("%s cannot be a router's address", gateway)
	case len(a.ranges) == 0:
		return errors.New("it is of use with addresses for the delegates only: give them too")
	case a.Contains(gateway):
		return fmt.Errorf("%s is among the delegates' addresses %s: take it out of them", gateway, a)
	}
	for _, one := range a.ranges {
		if network := netip.PrefixFrom(one.first, one.bits).Masked(); !network.Contains(gateway) {
			return fmt.Errorf("%s is not in the network %s of the delegates' addresses", gateway, network)
		}
	}
	return nil
}

// CheckMTU makes sure that delegates with any of the addresses could use an MTU; 0, which leaves it as it is, always can be used.
func (a AddressRanges) CheckMTU(mtu int) error {
	if mtu == 0 {
		return nil
	}
	least := minMTU
	if a.dhcp == control.AddressDHCP6 {
		least = minMTUIPv6
	}
	for _, one := range a.ranges {
		if one.first.Is6() {
			least = minMTUIPv6
		}
	}
	if mtu < least || mtu > maxMTU {
		return fmt.Errorf("%d bytes: it is %d to %d", mtu, least, maxMTU)
	}
	return nil
}
