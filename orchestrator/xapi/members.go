package xapi

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// learnTimeout bounds the two calls by which the members are learned after a login.
	learnTimeout = 10 * time.Second
	// maxMembers bounds what is kept; a pool has at most 64 hosts.
	maxMembers = 256
)

// Member is a host of the pool as the coordinator told it.
type Member struct {
	Address     string // host:port, the port being the coordinator's
	Fingerprint string // SHA-256 of its certificate in hex; "" when the pool does not tell (hosts before 8.2)
}

// trust is which certificates are accepted, and which hosts are known besides those of the configuration. It is safe for
// concurrent use.
type trust struct {
	mu      sync.Mutex
	pinned  map[string]bool
	members []Member
}

func newTrust(fingerprints []string) *trust {
	t := &trust{pinned: map[string]bool{}}
	for _, fingerprint := range fingerprints {
		t.pinned[fingerprint] = true
	}
	return t
}

// accepts reports whether a host with this certificate is spoken to.
func (t *trust) accepts(fingerprint string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pinned[fingerprint] || slices.ContainsFunc(t.members, func(m Member) bool { return m.Fingerprint == fingerprint })
}

func (t *trust) known() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.members)
}

func (t *trust) learn(members []Member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.members = members[:min(len(members), maxMembers)]
}

// Members are the hosts of the pool as of the last login, in the order of their addresses; empty when the pool did not tell. Each
// leads to the coordinator, and the client trusts it: a coordinator whose certificate is pinned vouches for its pool.
func (c *Client) Members() []Member { return c.trust.known() }

// learnMembers asks the coordinator for the addresses and the certificates of its pool, so that the pool is found again when
// this coordinator is gone. What cannot be learned is left: the configured addresses remain.
func (c *Client) learnMembers(ctx context.Context, fresh session) {
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	hosts, certificates := map[Ref]Host{}, map[Ref]Certificate{}
	if err := c.readAt(ctx, fresh, "host.get_all_records", &hosts); err != nil {
		return
	}
	_ = c.readAt(ctx, fresh, "Certificate.get_all_records", &certificates) // hosts before 8.2 have no such class
	fingerprints := map[Ref]string{}
	for _, certificate := range certificates {
		if certificate.Type != CertificateTypeHost && certificate.Type != "" { // "" before 1.294, which knew no other of a host
			continue
		}
		for _, text := range []string{certificate.FingerprintSHA256, certificate.Fingerprint} {
			if fingerprint, err := parseFingerprint(text); err == nil {
				fingerprints[certificate.Host] = fingerprint
				break
			}
		}
	}
	members := map[string]Member{}
	for ref, host := range hosts {
		if address, err := besides(host.Address, fresh.address); err == nil {
			members[address] = Member{Address: address, Fingerprint: fingerprints[ref]}
		}
	}
	if len(members) > 0 {
		var sorted []Member
		for _, address := range slices.Sorted(maps.Keys(members)) {
			sorted = append(sorted, members[address])
		}
		c.trust.learn(sorted)
	}
}

// readAt reads with a session that is not the client's yet.
func (c *Client) readAt(ctx context.Context, at session, method string, result any) error {
	raw, _, err := c.roundTrip(ctx, learnTimeout, at.address, method, []any{at.ref})
	if err != nil {
		return err
	}
	return decodeResult(method, raw, result)
}
