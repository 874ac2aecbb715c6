package xen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/lan"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/qmp"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/dom0"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// Mode is how the guests of a world are virtualised.
type Mode = wire.Mode

// The modes.
const (
	PV  = wire.PV
	PVH = wire.PVH
	HVM = wire.HVM
)

// bootTimeout bounds dom0's start: 16 s on an idle machine of two cores, much more on a busy one.
const bootTimeout = 4 * time.Minute

// Options of a Host.
type Options struct {
	LAN *lan.LAN // the guests' network
	// Dir takes the consoles: dom0.log, and <VM uuid>.<domain id>/console.log for each guest.
	Dir string
	// Cache holds fetched packages and what is made of them; default: dom0.DefaultCache.
	Cache string
}

// Host is a running hypervisor with its dom0. All methods may be called concurrently.
type Host struct {
	dir   string
	temp  string // sockets, whose paths must be short, and the initramfs
	qemu  *machine
	qmp   *qmp.Client
	agent *agent
	disks *disks
	work  sync.WaitGroup // what ends guests

	mu     sync.Mutex
	guests map[string]*guest // by the names of their domains
}

// New builds dom0, which takes a minute and the network when the cache has none, and boots it.
func New(ctx context.Context, o Options) (_ *Host, err error) {
	if o.LAN == nil || o.Dir == "" {
		return nil, errors.New("xen world: Options need a LAN and a Dir")
	}
	if o.Cache == "" {
		if o.Cache, err = dom0.DefaultCache(); err != nil {
			return nil, err
		}
	}
	parts, err := dom0.Build(ctx, o.Cache)
	if err != nil {
		return nil, err
	}
	h := &Host{guests: map[string]*guest{}}
	if h.dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return nil, err
	}
	if h.temp, err = os.MkdirTemp("", "xen-"); err != nil {
		return nil, err
	}
	if err := h.boot(ctx, o, parts); err != nil {
		return nil, errors.Join(fmt.Errorf("xen world: %w; dom0's console is %s", err, h.consoleLog()), h.Close())
	}
	return h, nil
}

func (h *Host) consoleLog() string { return filepath.Join(h.dir, "dom0.log") }

// boot starts QEMU and returns when dom0's agent answers.
func (h *Host) boot(ctx context.Context, o Options, parts dom0.Parts) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("dom0 did not answer within %v", bootTimeout))
	defer cancel()
	initramfs := filepath.Join(h.temp, "dom0.img")
	if err := parts.Initramfs(ctx, initramfs); err != nil {
		return err
	}
	qmpSocket, agentSocket := filepath.Join(h.temp, "qmp"), filepath.Join(h.temp, "agent")
	h.qemu, err = startMachine(arguments(o, parts, initramfs, qmpSocket, agentSocket, h.consoleLog()))
	if err != nil {
		return err
	}
	// A QEMU that ends ends the waiting too.
	context.AfterFunc(h.qemu.context, cancel)
	err = func() error {
		if h.qmp, err = qmp.Dial(ctx, qmpSocket); err != nil {
			return err
		}
		h.disks = newDisks(h.qmp)
		if h.agent, err = dialAgent(ctx, agentSocket, h.dispatch); err != nil {
			return err
		}
		return h.agent.call(ctx, wire.Request{Call: wire.CallHello})
	}()
	if err != nil && h.qemu.context.Err() != nil {
		return errors.Join(err, context.Cause(h.qemu.context))
	}
	if err != nil {
		return err
	}
	context.AfterFunc(h.qemu.context, h.lost)
	return nil
}

// World starts the machines of a pool on this host, virtualised in one mode. Several worlds share a host.
func (h *Host) World(mode Mode) xapisim.World { return world{h, mode} }

// Close ends the host and all guests on it, at once, and returns when nothing of it is left.
func (h *Host) Close() error {
	if h.qemu != nil {
		h.qemu.kill()
	}
	var errs []error
	if h.agent != nil {
		errs = append(errs, h.agent.close())
	}
	if h.qmp != nil {
		errs = append(errs, h.qmp.Close())
	}
	h.lost()
	h.work.Wait()
	return errors.Join(append(errs, os.RemoveAll(h.temp))...)
}

// lost ends the guests of a host whose QEMU has ended.
func (h *Host) lost() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, g := range h.guests {
		delete(h.guests, name)
		g.finish("the host has ended")
	}
}

// has tells whether a guest's domain has not ended.
func (h *Host) has(g *guest) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.guests[g.name] == g
}

// dispatch takes an event of the agent. It is called by one goroutine and does not wait.
func (h *Host) dispatch(e wire.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.guests[e.Domain]
	if g == nil {
		return
	}
	switch e.Name {
	case wire.EventTree:
		g.setTree(e.Tree)
	case wire.EventConsole:
		g.print(e.Console)
	case wire.EventEnded:
		delete(h.guests, e.Domain)
		h.work.Go(func() {
			g.release()
			g.finish(e.Reason)
		})
	}
}
