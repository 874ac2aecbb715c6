package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/understudy-dr/understudy/appliance"
)

// lease is what a DHCP server gave, of either version.
type lease struct {
	prefix  netip.Prefix
	gateway netip.Addr // invalid: none
	mtu     int        // 0: none
	// Renew from the server that gave it at renewal, from any at rebinding; at expiry the address must go.
	renewal, rebinding, expiry time.Time
	renew                      func(ctx context.Context, anyServer bool) (*lease, error)
	release                    func(ctx context.Context) error
	decline                    func() error // tells the server that another machine has the address; nil: with DHCPv6
}

// phaseEnd is when the server that gave the lease is no longer the only one to ask, and then when the lease ends.
func (l *lease) phaseEnd() time.Time {
	if time.Now().Before(l.rebinding) {
		return l.rebinding
	}
	return l.expiry
}

// errRefused is a server's no to a renewal: the address must go at once.
var errRefused = errors.New("the DHCP server took the lease back")

// releaseTime is what giving the lease back may take when the delegate ends.
const releaseTime = 500 * time.Millisecond

// keepLease renews the lease until ctx ends, and gives it back then: delegates come and go, and each has a MAC of its own, so their
// leases would use up a small pool. It returns the cause for which the lease was lost.
func (n *Network) keepLease(ctx context.Context, report func(appliance.NetworkEvent)) error {
	for {
		next := n.lease.renewal
		if time.Now().After(next) { // tried before: again after half of what is left of this phase, as RFC 2131 says
			next = time.Now().Add(max(time.Until(n.lease.phaseEnd())/2, n.timing.leasePause))
		}
		if next.After(n.lease.expiry) {
			next = n.lease.expiry
		}
		if sleep(ctx, time.Until(next)) != nil {
			n.giveBack(ctx, report)
			return nil
		}
		if !time.Now().Before(n.lease.expiry) {
			return fmt.Errorf("the lease of %s ran out: %w", n.address, ErrNoLease)
		}
		attempt, cancel := context.WithDeadline(ctx, n.lease.phaseEnd())
		renewed, err := n.lease.renew(attempt, time.Now().After(n.lease.rebinding))
		cancel()
		switch {
		case ctx.Err() != nil:
			n.giveBack(ctx, report)
			return nil
		case errors.Is(err, errRefused):
			return fmt.Errorf("lease of %s: %w", n.address, err)
		case err != nil:
			report(appliance.NetworkEvent{
				Level: slog.LevelWarn, Text: fmt.Sprintf("the lease of %s could not be renewed and runs out in %v: %v", n.address, time.Until(n.lease.expiry).Round(time.Second), err),
			})
		case renewed.prefix.Addr() != n.address.Addr():
			return fmt.Errorf("the DHCP server gave %s instead of %s: %w", renewed.prefix, n.address, errRefused)
		default:
			n.lease = renewed
		}
	}
}

func (n *Network) giveBack(ctx context.Context, report func(appliance.NetworkEvent)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	if err := n.lease.release(ctx); err != nil {
		report(appliance.NetworkEvent{Level: slog.LevelWarn, Text: fmt.Sprintf("the lease of %s could not be given back: %v", n.address, err)})
	}
}
