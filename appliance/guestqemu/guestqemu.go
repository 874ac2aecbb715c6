package guestqemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/appliance/sysblock"
)

// PortName is the name of the virtio-serial port.
const PortName = "org.understudy.guest"

// ConfigurationPath is where Linux shows the fw_cfg item (module qemu_fw_cfg). A machine that has it is one for this package.
const ConfigurationPath = "/sys/firmware/qemu_fw_cfg/by_name/" + configurationItem + "/raw"

const configurationItem = "opt/org.understudy/guest"

const shutdownKey = "control/shutdown"

// serialPrefix stands before the VBD number in the serial of a disk that the pool gave.
const serialPrefix = "vbd-"

// maxNumber is the largest VBD number (xapi-facts §8.1).
const maxNumber = 255

// Options of Open.
type Options struct {
	// Root is where sys and dev are; default /. For tests.
	Root string
	// PowerOff ends the machine and does not return but for an error.
	PowerOff func(cause string) error
	// PortTimeout is how long Open waits for the port; default 10 s.
	PortTimeout time.Duration
	// Poll is that of sysblock.Options.
	Poll time.Duration
	// Log takes what is wrong with single disks; default none.
	Log *slog.Logger
}

// Guest is an appliance.Guest.
type Guest struct {
	options  Options
	state    *state
	port     port
	turn     chan struct{} // held by who writes to the port
	closing  chan struct{}
	received chan struct{} // closed when receive has ended
}

// Open reads the configuration and opens the port. Errors name what QEMU or the image lacks. ctx bounds Open alone.
func Open(ctx context.Context, o Options) (*Guest, error) { return open(ctx, o, openDevice) }

func open(ctx context.Context, o Options, openPort func(path string) (port, error)) (*Guest, error) {
	if o.PowerOff == nil {
		return nil, errors.New("guestqemu: no PowerOff")
	}
	o.Root, o.PortTimeout = cmp.Or(o.Root, "/"), cmp.Or(o.PortTimeout, 10*time.Second)
	values, err := readConfiguration(filepath.Join(o.Root, ConfigurationPath))
	if err != nil {
		return nil, fmt.Errorf("guestqemu: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.PortTimeout, fmt.Errorf("no virtio-serial port %s within %v", PortName, o.PortTimeout))
	defer cancel()
	node, err := awaitPort(ctx, o.Root)
	if err != nil {
		return nil, fmt.Errorf("guestqemu: %w", err)
	}
	p, err := openPort(node)
	if err != nil {
		return nil, fmt.Errorf("guestqemu: open port %s: %w", PortName, err)
	}
	g := &Guest{
		options: o, state: newState(values), port: p,
		turn: make(chan struct{}, 1), closing: make(chan struct{}), received: make(chan struct{}),
	}
	go g.receive()
	return g, nil
}

func readConfiguration(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("no configuration: %w; give QEMU -fw_cfg name=%s,file=…, and the guest the module qemu_fw_cfg", err, configurationItem)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfiguration+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if len(data) > maxConfiguration {
		return nil, fmt.Errorf("%w: fw_cfg item %s has more than %d bytes", ErrProtocol, configurationItem, maxConfiguration)
	}
	return parseConfiguration(data)
}

// Close frees the port, once. Nothing else may use the guest then or later.
func (g *Guest) Close() error {
	close(g.closing)
	err := g.port.Close()
	<-g.received
	if err != nil {
		return fmt.Errorf("guestqemu: close port %s: %w", PortName, err)
	}
	return nil
}

// Domain implements appliance.Guest.
func (g *Guest) Domain(context.Context) (appliance.Domain, error) {
	values := g.state.copy()
	domain := appliance.Domain{VM: strings.TrimPrefix(values["vm"], "/vm/"), UniqueID: values["unique-domain-id"]}
	if domain.VM == "" || domain.UniqueID == "" {
		return appliance.Domain{}, fmt.Errorf("guestqemu: %w: fw_cfg item %s has to hold vm and unique-domain-id", appliance.ErrNoDomain, configurationItem)
	}
	return domain, nil
}

// Input implements appliance.Guest.
func (g *Guest) Input(context.Context) (map[string]string, error) {
	input := map[string]string{}
	for key, value := range g.state.copy() {
		if name, ok := strings.CutPrefix(key, control.InputPrefix); ok && !strings.Contains(name, "/") {
			input[name] = value
		}
	}
	return input, nil
}

// Publish implements appliance.Guest. An entry is published when the port has taken its line.
func (g *Guest) Publish(ctx context.Context, entries ...appliance.Entry) error {
	for _, e := range entries {
		err := checkEntry(e.Key, e.Value)
		if err == nil {
			err = g.send(ctx, message{Write: map[string]string{e.Key: e.Value}})
		}
		if err != nil {
			return fmt.Errorf("guestqemu: publish %s: %w", e.Key, err)
		}
	}
	return nil
}

// WatchDevices implements appliance.Guest.
func (g *Guest) WatchDevices(ctx context.Context, report func(appliance.DeviceEvent)) error {
	return sysblock.Watch(ctx, sysblock.Options{
		Sys: filepath.Join(g.options.Root, "sys"), Dev: filepath.Join(g.options.Root, "dev"),
		Number: number, Poll: g.options.Poll, Log: g.options.Log,
	}, report)
}

// number tells a disk that the pool gave by its serial, "vbd-<number>".
func number(dir string) (int, bool) {
	serial, err := os.ReadFile(filepath.Join(dir, "serial"))
	if err != nil {
		return 0, false // no virtio disk
	}
	text, ok := strings.CutPrefix(strings.TrimSpace(string(serial)), serialPrefix)
	n, err := strconv.Atoi(text)
	if !ok || err != nil || n < 0 || n > maxNumber || strconv.Itoa(n) != text {
		return 0, false
	}
	return n, true
}

// AwaitShutdown implements appliance.Guest. It also returns when the port fails, as the request could then never come.
func (g *Guest) AwaitShutdown(ctx context.Context) (appliance.Shutdown, error) {
	word, err := g.state.await(ctx, shutdownKey)
	if err == nil {
		err = g.send(ctx, message{Remove: []string{shutdownKey}})
	}
	if err != nil {
		return "", fmt.Errorf("guestqemu: await %s: %w", shutdownKey, err)
	}
	g.state.remove(shutdownKey, word)
	return appliance.Shutdown(word), nil
}

// PowerOff implements appliance.Guest. The machine is told the whole cause. It ends even when nobody takes the cause, and is then told
// that too.
func (g *Guest) PowerOff(ctx context.Context, cause string) error {
	err := g.Publish(ctx, appliance.Entry{Key: control.CauseKey, Value: appliance.CauseText(cause)})
	if err != nil {
		cause += fmt.Sprintf(" (the pool was not told: %v)", err)
	}
	return errors.Join(err, g.options.PowerOff(cause))
}
