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
func withPort(address string) (string, error) {
	if ip, err := netip.ParseAddr(strings.Trim(address, "[]")); err == nil {
		return net.JoinHostPort(ip.String(), defaultPort), nil
	}
	host, port := address, defaultPort
	if strings.Contains(address, ":") {
		var err error
		if host, port, err = net.SplitHostPort(address); err != nil {
			return "", fmt.Errorf("%q is not an address of the form host[:port]: %w", address, err)
		}
	}
	if host == "" || port == "" || strings.ContainsAny(host, " /@?#") {
		return "", fmt.Errorf("%q is not an address of the form host[:port]", address)
	}
	return net.JoinHostPort(host, port), nil
}

// coordinatorAddress joins the address of HOST_IS_SLAVE, a bare IP or name, with the port of the host that
// answered it (xapi-facts §1.5).
func coordinatorAddress(coordinator, answeredBy string) (string, error) {
	_, port, err := net.SplitHostPort(answeredBy)
	if err != nil {
		return "", err
	}
	if coordinator == "" || strings.ContainsAny(coordinator, " /@?#") {
		return "", fmt.Errorf("%s names %q as the coordinator, which is no address", answeredBy, coordinator)
	}
	return net.JoinHostPort(coordinator, port), nil
}
