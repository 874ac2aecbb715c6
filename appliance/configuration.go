package appliance

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/netproto/line"
)

// ErrConfiguration is a configuration that is missing or wrong. The delegate cannot work, and says so by its published cause.
var ErrConfiguration = errors.New("bad configuration")

// configuration is what the pool told, checked.
type configuration struct {
	domain       Domain
	nonce        string
	orchestrator netproto.Fingerprint
	network      NetworkSpec
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
	if c.network, err = parseNetwork(input); err != nil {
		return c, err
	}
	c.hash = control.ConfigurationHash(input)
	return c, nil
}

func parseNetwork(input map[string]string) (spec NetworkSpec, err error) {
	wrong := func(name string, err error) error { return fmt.Errorf("key %s%s: %w", control.InputPrefix, name, err) }
	switch address := input[control.InputAddress]; address {
	case control.AddressDHCP:
	case control.AddressDHCP6:
		spec.DHCP6 = true
	default:
		if spec.Address, err = netip.ParsePrefix(address); err != nil {
			return spec, wrong(control.InputAddress, fmt.Errorf("it is ip/prefix, %s or %s: %w", control.AddressDHCP, control.AddressDHCP6, err))
		}
	}
	if gateway, ok := input[control.InputGateway]; ok {
		if spec.Gateway, err = netip.ParseAddr(gateway); err != nil || spec.Gateway.Zone() != "" {
			return spec, wrong(control.InputGateway, fmt.Errorf("%.80q: it is an IP address without a zone", gateway))
		}
	}
	if mtu, ok := input[control.InputMTU]; ok {
		if spec.MTU, err = strconv.Atoi(mtu); err != nil || spec.MTU == 0 {
			return spec, wrong(control.InputMTU, fmt.Errorf("%.80q: it is a number of bytes", mtu))
		}
	}
	if text, ok := input[control.InputLine]; ok {
		if spec.Line, err = line.ParseSpec(text); err != nil {
			return spec, wrong(control.InputLine, err)
		}
	}
	if err := spec.check(); err != nil {
		return spec, fmt.Errorf("keys %s{%s,%s,%s,%s}: %w", control.InputPrefix, control.InputAddress, control.InputGateway, control.InputMTU, control.InputLine, err)
	}
	return spec, nil
}
