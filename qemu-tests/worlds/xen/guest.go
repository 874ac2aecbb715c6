package xen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// callTimeout bounds what the pool gives no time for; xl takes about a second on an idle machine.
const callTimeout = 2 * time.Minute

// world starts machines on a host.
type world struct {
	host *Host
	mode Mode
}

// Start builds a domain with its disks and lets it run.
func (w world) Start(ctx context.Context, m xapisim.Machine) (xapisim.Guest, error) {
	g := &guest{
		host: w.host, mode: w.mode, name: m.UUID + "." + strconv.FormatInt(m.DomainID, 10),
		disks: map[string]wire.Disk{}, tree: maps.Clone(m.Data), changed: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := g.start(ctx, m); err != nil {
		return nil, fmt.Errorf("guest of VM %s: %w", m.Name, err)
	}
	return g, nil
}

// guest is a domain.
type guest struct {
	host *Host
	name string
	mode Mode

	mu      sync.Mutex
	disks   map[string]wire.Disk // in dom0, by user device
	tree    map[string]string
	console *os.File

	changed chan struct{}
	done    chan struct{}
}

func (g *guest) start(ctx context.Context, m xapisim.Machine) (err error) {
	spec := wire.Domain{
		Name: g.name, UUID: m.UUID, Mode: g.mode, Memory: m.Memory >> 20,
		Store: map[string]string{"unique-domain-id": m.UniqueDomainID},
	}
	maps.Copy(spec.Store, m.Data)
	for _, vif := range m.VIFs {
		if vif.MTU != 0 && vif.MTU != 1500 {
			return fmt.Errorf("VIF %s: an MTU of %d; this world has 1500 alone", vif.Device, vif.MTU)
		}
		spec.MACs = append(spec.MACs, vif.MAC)
	}
	dir := filepath.Join(g.host.dir, g.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if g.console, err = os.Create(filepath.Join(dir, "console.log")); err != nil {
		return err
	}
	for _, d := range m.Disks {
		disk, err := g.insert(ctx, d)
		if err != nil {
			g.release()
			return errors.Join(err, g.console.Close())
		}
		spec.Disks = append(spec.Disks, disk)
	}
	g.host.mu.Lock()
	g.host.guests[g.name] = g
	g.host.mu.Unlock()
	if err := g.host.agent.call(ctx, wire.Request{Call: wire.CallCreate, Create: &spec}); err != nil {
		g.host.mu.Lock()
		delete(g.host.guests, g.name)
		g.host.mu.Unlock()
		g.release()
		return errors.Join(err, g.console.Close())
	}
	return nil
}

// insert makes a disk one of dom0.
func (g *guest) insert(ctx context.Context, d xapisim.Disk) (wire.Disk, error) {
	device, err := deviceName(g.mode, d.UserDevice)
	if err != nil {
		return wire.Disk{}, err
	}
	g.mu.Lock()
	_, taken := g.disks[d.UserDevice]
	g.mu.Unlock()
	if taken {
		return wire.Disk{}, fmt.Errorf("plug %s: the device is still there", d.UserDevice)
	}
	serial, err := g.host.disks.add(ctx, d.Path, d.ReadOnly)
	if err != nil {
		return wire.Disk{}, err
	}
	disk := wire.Disk{Serial: serial, Device: device, ReadOnly: d.ReadOnly}
	g.mu.Lock()
	g.disks[d.UserDevice] = disk
	g.mu.Unlock()
	return disk, nil
}

// eject takes a disk that no guest has any more out of dom0.
func (g *guest) eject(ctx context.Context, userDevice string) error {
	g.mu.Lock()
	disk, there := g.disks[userDevice]
	delete(g.disks, userDevice)
	g.mu.Unlock()
	if !there {
		return nil
	}
	if err := g.host.agent.call(ctx, wire.Request{Call: wire.CallForget, Disk: &disk}); err != nil {
		return err
	}
	return g.host.disks.remove(ctx, disk.Serial)
}

// deviceName puts VBD.userdevice in xl's words, as xapi numbers it (xapi-facts §8.1): the first four of an HVM guest are IDE disks
// too. "dNp0" is xl's name of disk N whatever its numbering.
func deviceName(mode Mode, userDevice string) (string, error) {
	n, err := strconv.ParseUint(userDevice, 10, 8)
	if err != nil {
		return "", fmt.Errorf("plug %q: %w", userDevice, err)
	}
	if mode == HVM && n < 4 {
		return "hd" + string("abcd"[n]), nil
	}
	return fmt.Sprintf("d%dp0", n), nil
}

// release takes all disks of a domain that is gone out of dom0.
func (g *guest) release() {
	g.mu.Lock()
	var left []string
	for userDevice := range g.disks {
		left = append(left, userDevice)
	}
	g.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	for _, userDevice := range left {
		if err := g.eject(ctx, userDevice); err != nil {
			g.print(fmt.Appendf(nil, "\nxen world: disk %s stays in the host: %v\n", userDevice, err))
		}
	}
}

// finish closes Done. Called once, when nothing of the guest is left.
func (g *guest) finish(reason string) {
	g.print(fmt.Appendf(nil, "\nxen world: the domain has ended: %s\n", reason))
	_ = g.console.Close() // it was written line by line
	close(g.done)
}

func (g *guest) setTree(tree map[string]string) {
	g.mu.Lock()
	g.tree = tree
	g.mu.Unlock()
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

func (g *guest) print(text []byte) { _, _ = g.console.Write(text) } // a full disk fails elsewhere

func (g *guest) Changed() <-chan struct{} { return g.changed }
func (g *guest) Done() <-chan struct{}    { return g.done }

func (g *guest) Tree() (map[string]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.tree), nil
}

func (g *guest) Plug(ctx context.Context, d xapisim.Disk) error {
	disk, err := g.insert(ctx, d)
	if err != nil {
		return err
	}
	err = g.host.agent.call(ctx, wire.Request{Call: wire.CallPlug, Domain: g.name, Disk: &disk})
	if err == nil && !g.host.has(g) {
		err = errors.New("the domain has ended")
	}
	if err != nil {
		cleanup, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		return errors.Join(fmt.Errorf("plug %s: %w", d.UserDevice, err), g.eject(cleanup, d.UserDevice))
	}
	return nil
}

func (g *guest) Unplug(ctx context.Context, userDevice string) error {
	g.mu.Lock()
	disk, plugged := g.disks[userDevice]
	g.mu.Unlock()
	if !g.host.has(g) {
		return nil
	}
	if !plugged {
		return fmt.Errorf("unplug %s: no such device", userDevice)
	}
	if err := g.call(ctx, wire.Request{Call: wire.CallUnplug, Disk: &disk}); err != nil {
		return fmt.Errorf("unplug %s: %w", userDevice, err)
	}
	return g.eject(ctx, userDevice)
}

// call makes a call about this domain. One about a domain that has ended has nothing left to do.
func (g *guest) call(ctx context.Context, r wire.Request) error {
	r.Domain = g.name
	err := g.host.agent.call(ctx, r)
	if err != nil && !g.host.has(g) {
		return nil
	}
	return err
}

// short makes a call for which the pool gives no time.
func (g *guest) short(r wire.Request) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return g.call(ctx, r)
}

func (g *guest) SetData(data map[string]string) error {
	return g.short(wire.Request{Call: wire.CallData, Data: data})
}
func (g *guest) Pause() error   { return g.short(wire.Request{Call: wire.CallPause}) }
func (g *guest) Unpause() error { return g.short(wire.Request{Call: wire.CallUnpause}) }
func (g *guest) Kill() error    { return g.short(wire.Request{Call: wire.CallDestroy}) }
func (g *guest) Shutdown(ctx context.Context) error {
	return g.call(ctx, wire.Request{Call: wire.CallShutdown})
}
