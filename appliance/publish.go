package appliance

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/appliance/control"
)

// publications are what the pool shall know once the delegate listens, in order. The identity comes last: who sees it may dial and
// may plug disks. What stands before it lets xapi hot-plug disks into an HVM guest and shut it down (xapi-facts §7.5, §7.7), and
// fills VM_guest_metrics (§7.4); data/updated wakes old releases of xapi and therefore follows what they are to read (§7.6).
func publications(now time.Time, kernel, address Entry, identity control.Identity) []Entry {
	return []Entry{
		{"attr/PVAddons/MajorVersion", "8"}, // any version will do, but it must be there
		{"attr/PVAddons/MinorVersion", "0"},
		{"attr/PVAddons/MicroVersion", "0"},
		{"attr/PVAddons/BuildVersion", "1"},
		{"feature/hotplug/vbd", "1"},
		{"feature/hotplug/vif", "1"},
		{"control/feature-shutdown", "1"},
		{"data/os_name", "Understudy delegate " + identity.Version},
		{"data/os_distro", "understudy"},
		kernel,
		address,
		{"data/ts", now.UTC().Format(time.RFC3339)},
		{"data/updated", now.UTC().Format(time.RFC3339)},
		{control.IdentityKey, identity.String()},
	}
}

// publish makes the delegate known.
func (r *runner) publish(ctx context.Context) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("ask for the kernel's release: %w", err)
	}
	release, _, _ := bytes.Cut(name.Release[:], []byte{0})
	family := "ipv4"
	if r.address.Is6() {
		family = "ipv6"
	}
	r.mu.Lock()
	identity := control.Identity{
		Version: r.options.Version, Nonce: r.configuration.nonce,
		Fingerprint: r.identity.Fingerprint(), UniqueDomainID: r.configuration.domain.UniqueID,
	}
	r.mu.Unlock()
	entries := publications(time.Now(),
		Entry{"data/os_uname", string(release)}, Entry{"attr/vif/0/" + family + "/0", r.address.String()}, identity)
	if err := r.options.Guest.Publish(ctx, entries...); err != nil {
		return fmt.Errorf("publish the identity: %w", err)
	}
	return nil
}

// announce publishes for the first time and says that the delegate is ready, with the time since the kernel started.
func (r *runner) announce(ctx context.Context) error {
	if err := r.publish(ctx); err != nil {
		return err
	}
	var uptime unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &uptime); err != nil {
		return fmt.Errorf("ask for the uptime: %w", err)
	}
	r.log.Info("ready", "uptime", time.Duration(uptime.Nano()).Round(time.Millisecond))
	return nil
}
