package xapi

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	defaultPort        = "443"
	defaultOriginator  = "understudy"
	defaultCallTimeout = 5 * time.Minute
	defaultOutage      = 90 * time.Second
	defaultSilence     = 30 * time.Second
)

// Config says how to reach a pool.
type Config struct {
	// Addresses of hosts of the pool, host[:port], IPv6 with a port in brackets; port 443 by default. They are
	// tried in turn; any of them leads to the coordinator.
	Addresses []string
	Username  string
	Password  string
	// Fingerprints are the SHA-256 of the accepted leaf certificates, in hex. At least one is required; a pool
	// whose hosts have their own certificates needs one a host.
	Fingerprints []string
	// Originator names this program in the pool's list of sessions; the API keeps at most 500 sessions for each
	// (xapi-facts §1.5). Default "understudy".
	Originator string
	// CallTimeout bounds one call, login included; waiting for an event or a task is not bounded by it. Default
	// five minutes: long operations run as tasks.
	CallTimeout time.Duration
	// Silence is how long a host may answer nothing at all before it counts as gone: a call that waits longer than half of it has
	// the host asked for something small. Default 30 s. It is noticed after 1.5 times that at the latest.
	Silence time.Duration
	// Outage is how long a wait for a task goes on while the pool does not answer: the task often survives a restart of
	// the toolstack, which takes 10 to 60 s. Default 90 s.
	Outage time.Duration
}

// prepared checks the configuration and fills in the defaults.
func (c Config) prepared() (Config, error) {
	if len(c.Addresses) == 0 {
		return c, errors.New("no address given for the pool: name at least one of its hosts")
	}
	if len(c.Fingerprints) == 0 {
		return c, errors.New("no certificate fingerprint given for the pool: fetch it, compare it with the host's, and pin it")
	}
	addresses := make([]string, len(c.Addresses))
	for i, address := range c.Addresses {
		var err error
		if addresses[i], err = withPort(address); err != nil {
			return c, err
		}
	}
	fingerprints := make([]string, len(c.Fingerprints))
	for i, text := range c.Fingerprints {
		var err error
		if fingerprints[i], err = parseFingerprint(text); err != nil {
			return c, err
		}
	}
	c.Addresses, c.Fingerprints = addresses, fingerprints
	if c.Originator == "" {
		c.Originator = defaultOriginator
	}
	if c.CallTimeout <= 0 {
		c.CallTimeout = defaultCallTimeout
	}
	if c.Silence <= 0 {
		c.Silence = defaultSilence
	}
	if c.Outage <= 0 {
		c.Outage = defaultOutage
	}
	return c, nil
}

// Including is c with the addresses and the certificates of members that it does not have yet.
func (c Config) Including(members []Member) Config {
	c.Addresses, c.Fingerprints = slices.Clone(c.Addresses), slices.Clone(c.Fingerprints)
	for _, member := range members {
		c.Addresses = including(c.Addresses, member.Address, withPort)
		c.Fingerprints = including(c.Fingerprints, member.Fingerprint, parseFingerprint)
	}
	return c
}

// including appends a text unless the list has it in one of its forms.
func including(list []string, text string, parse func(string) (string, error)) []string {
	plain, err := parse(text)
	has := func(known string) bool {
		other, err := parse(known)
		return err == nil && other == plain
	}
	if err != nil || slices.ContainsFunc(list, has) {
		return list
	}
	return append(list, text)
}

// withPort completes an address to host:port.
func withPort(address string) (string, error) { return withThisPort(address, defaultPort) }

// withThisPort completes a name, an IPv4 address or an IPv6 one with brackets or without, by a port unless it has one.
func withThisPort(address, port string) (string, error) {
	if ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")); err == nil {
		return net.JoinHostPort(ip.String(), port), nil
	}
	host := address
	if strings.Contains(address, ":") {
		var err error
		if host, port, err = net.SplitHostPort(address); err != nil {
			return "", fmt.Errorf("%q is not an address of the form host[:port]: %w", address, err)
		}
	}
	if host == "" || port == "" || strings.ContainsAny(host, " /@?#[]") {
		return "", fmt.Errorf("%q is not an address of the form host[:port]", address)
	}
	return net.JoinHostPort(host, port), nil
}

// besides is the address of a host that another of its pool has named, with the port of that one (xapi-facts §1.5).
func besides(named, namedBy string) (string, error) {
	_, port, err := net.SplitHostPort(namedBy)
	if err != nil {
		return "", err
	}
	address, err := withThisPort(named, port)
	if err != nil {
		return "", fmt.Errorf("%s names a host of its pool: %w", namedBy, err)
	}
	return address, nil
}
