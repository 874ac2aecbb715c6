package appliance

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
)

// publications are what the pool shall know once the delegate listens, in order. The identity comes last: who sees it may dial and
// may plug disks. What stands before it lets xapi hot-plug disks into an HVM guest and shut it down (xapi-facts §7.5, §7.7), and
// fills VM_guest_metrics (§7.4).
func publications(version string, c configuration, fingerprint netproto.Fingerprint) []Entry {
	family := "ipv4"
	if c.address.Is6() {
		family = "ipv6"
	}
	identity := control.Identity{Version: version, Nonce: c.nonce, Fingerprint: fingerprint, UniqueDomainID: c.domain.UniqueID}
	return []Entry{
		{"attr/PVAddons/MajorVersion", "8"}, // any version will do, but it must be there
		{"attr/PVAddons/MinorVersion", "0"},
		{"attr/PVAddons/MicroVersion", "0"},
		{"feature/hotplug/vbd", "1"},
		{"control/feature-shutdown", "1"},
		{"data/os_name", "Understudy delegate " + version},
		{"attr/vif/0/" + family + "/0", c.address.String()},
		{control.IdentityKey, identity.String()},
	}
}

// publish makes the delegate known.
func (r *runner) publish(ctx context.Context) error {
	entries := publications(r.options.Version, r.configuration, r.identity.Fingerprint())
	if err := r.options.Guest.Publish(ctx, entries...); err != nil {
		return fmt.Errorf("publish the identity: %w", err)
	}
	return nil
}
