package control

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/netproto"
)

// Keys through which orchestrator and delegate find each other: entries of VM.xenstore_data, which the guest sees as its
// XenStore (xapi-facts §7). Every API user can read them, so nothing here is secret.
const (
	InputPrefix = "vm-data/understudy/in/"
	IdentityKey = "vm-data/understudy/out/identity"
	CauseKey    = "vm-data/understudy/out/cause" // why the delegate powered itself off
)

// Names of the input keys below InputPrefix.
const (
	InputNonce        = "nonce"        // hexadecimal, drawn for this start
	InputOrchestrator = "orchestrator" // fingerprint of the one who may control the delegate
	InputAddress      = "address"      // "ip/prefix" of the delegate, or AddressDHCP or AddressDHCP6
	InputGateway      = "gateway"      // optional: the IP address of the default route's router; not with DHCP
	InputMTU          = "mtu"          // optional: 576 to 9216 bytes, at least 1280 with IPv6
	InputLine         = "line"         // optional, for tests: "rate,round trip" of a line to imitate, as line.ParseSpec reads it
)

// Values of InputAddress beside an address. The delegate then publishes the address it got under attr/vif/0/ before its identity.
const (
	AddressDHCP  = "dhcp"
	AddressDHCP6 = "dhcp6"
)

// ConfigurationHash is the SHA-256, in hexadecimal, over the input keys as sorted lines "name=value\n", names without
// InputPrefix. The delegate returns it over TLS, so that the orchestrator knows that the configuration which the delegate acted
// on is the one it wrote. A newline within a value cannot make two configurations alike, as names hold neither '=' nor newlines
// and values with newlines are refused by the delegate.
func ConfigurationHash(input map[string]string) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(input)) {
		_, _ = fmt.Fprintf(h, "%s=%s\n", name, input[name]) // never fails
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Identity is what a delegate publishes under IdentityKey once it can be dialled.
type Identity struct {
	Version        string // of the software; without ':'
	Nonce          string // from the configuration: proves which start this is
	Fingerprint    netproto.Fingerprint
	UniqueDomainID string // fresh at each boot, resume and migration (xapi-facts §7.1)
}

// String is the published form, "version:nonce:fingerprint:unique-domain-id".
func (i Identity) String() string {
	return strings.Join([]string{i.Version, i.Nonce, string(i.Fingerprint), i.UniqueDomainID}, ":")
}

// ParseIdentity is the inverse of Identity.String. The value is the guest's word: a hint until TLS has proved the key.
func ParseIdentity(s string) (Identity, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 4 || slices.Contains(parts, "") {
		return Identity{}, fmt.Errorf("identity %.200q: it is version:nonce:fingerprint:unique-domain-id", s)
	}
	fingerprint, err := netproto.ParseFingerprint(parts[2])
	if err != nil {
		return Identity{}, fmt.Errorf("identity %.200q: %w", s, err)
	}
	return Identity{Version: parts[0], Nonce: parts[1], Fingerprint: fingerprint, UniqueDomainID: parts[3]}, nil
}
