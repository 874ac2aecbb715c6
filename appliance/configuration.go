package appliance

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
)

// ErrConfiguration is a configuration that is missing or wrong. The delegate cannot work, and says so by its published cause.
var ErrConfiguration = errors.New("bad configuration")

// configuration is what the pool told, checked.
type configuration struct {
	domain       Domain
	nonce        string
	orchestrator netproto.Fingerprint
	address      netip.Addr
	hash         string // control.ConfigurationHash
}

// Bounds of a nonce in bytes: enough that it is never drawn twice.
const minNonce, maxNonce = 8, 64

func readConfiguration(ctx context.Context, g Guest) (configuration, error) {
	domain, err := g.Domain(ctx)
	if err != nil {
		return configuration{}, fmt.Errorf("%w: %w", ErrConfiguration, err)
	}
	// It is published between colons.
	if domain.UniqueID == "" || strings.Contains(domain.UniqueID, ":") {
		return configuration{}, fmt.Errorf("%w: unique-domain-id is %.80q", ErrConfiguration, domain.UniqueID)
	}
	input, err := g.Input(ctx)
	if err != nil {
		return configuration{}, fmt.Errorf("%w: %w", ErrConfiguration, err)
	}
	c, err := parseInput(input)
	if err != nil {
		return configuration{}, fmt.Errorf("%w: %w; the orchestrator sets it before it starts the delegate's VM", ErrConfiguration, err)
	}
	c.domain = domain
	return c, nil
}

func parseInput(input map[string]string) (c configuration, err error) {
	for _, name := range []string{control.InputNonce, control.InputOrchestrator, control.InputAddress} {
		if _, ok := input[name]; !ok {
			return c, fmt.Errorf("key %s%s is missing", control.InputPrefix, name)
		}
	}
	for name, value := range input {
		if strings.ContainsAny(name+value, "\n=") {
			return c, fmt.Errorf("key %s%.80q: neither name nor value may hold a newline or '='", control.InputPrefix, name)
		}
	}
	c.nonce = input[control.InputNonce]
	if raw, err := hex.DecodeString(c.nonce); err != nil || len(raw) < minNonce || len(raw) > maxNonce {
		return c, fmt.Errorf("key %s%s is %.140q: it has %d to %d bytes in hexadecimal", control.InputPrefix, control.InputNonce, c.nonce, minNonce, maxNonce)
	}
	if c.orchestrator, err = netproto.ParseFingerprint(input[control.InputOrchestrator]); err != nil {
		return c, fmt.Errorf("key %s%s: %w", control.InputPrefix, control.InputOrchestrator, err)
	}
	prefix, err := netip.ParsePrefix(input[control.InputAddress])
	if err != nil {
		return c, fmt.Errorf("key %s%s: it is ip/prefix: %w", control.InputPrefix, control.InputAddress, err)
	}
	c.address = prefix.Addr()
	c.hash = control.ConfigurationHash(input)
	return c, nil
}

// listenAddress is where to listen.
func (c configuration) listenAddress(override string) string {
	if override != "" {
		return override
	}
	return net.JoinHostPort(c.address.String(), strconv.Itoa(control.Port))
}
