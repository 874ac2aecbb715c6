package xapisim

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"time"
)

// idleGuest is the built-in guest of every VM that is no delegate: an operating system that has drivers and an agent,
// lets disks come and go, powers off when asked, and does nothing else.
type idleGuest struct {
	mu      sync.Mutex
	tree    map[string]string
	changed chan struct{}
	done    chan struct{}
	end     func()
	boot    *time.Timer
}

// agentKeys is what a Linux guest's agent publishes (xapi-facts §7.4).
var agentKeys = map[string]string{
	"attr/PVAddons/MajorVersion": "8", "attr/PVAddons/MinorVersion": "4", "attr/PVAddons/MicroVersion": "0",
	"attr/PVAddons/BuildVersion": "1", "feature/hotplug/vbd": "1", "feature/hotplug/vif": "1",
	"control/feature-shutdown": "1", "control/feature-poweroff": "1", "control/feature-reboot": "1",
	"control/feature-suspend": "1",
	"data/os_name":            "Debian GNU/Linux 12 (bookworm)", "data/os_distro": "debian", "data/os_majorver": "12",
	"data/os_minorver": "0", "data/os_uname": "6.1.0",
}

// newIdleGuest boots one; its agent, if it has one, is up after delay, and without one at once.
func newIdleGuest(data map[string]string, agent bool, delay time.Duration) *idleGuest {
	g := &idleGuest{tree: map[string]string{"vm-data": ""}, changed: make(chan struct{}, 1), done: make(chan struct{})}
	g.end = sync.OnceFunc(func() { close(g.done) })
	maps.Copy(g.tree, data)
	g.signal()
	up := func() {
		if agent {
			g.mu.Lock()
			defer g.mu.Unlock()
			maps.Copy(g.tree, agentKeys)
			g.signal()
		}
	}
	if delay == 0 {
		up()
	}
	g.boot = time.AfterFunc(delay, up)
	return g
}

func (g *idleGuest) signal() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

func (g *idleGuest) Plug(context.Context, Disk) error     { return nil }
func (g *idleGuest) Unplug(context.Context, string) error { return nil }
func (g *idleGuest) Pause() error                         { return nil }
func (g *idleGuest) Unpause() error                       { return nil }
func (g *idleGuest) Changed() <-chan struct{}             { return g.changed }
func (g *idleGuest) Done() <-chan struct{}                { return g.done }

func (g *idleGuest) SetData(data map[string]string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.tree, func(key, _ string) bool { return strings.HasPrefix(key, "vm-data/") })
	maps.Copy(g.tree, data)
	g.signal()
	return nil
}

func (g *idleGuest) Tree() (map[string]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.tree), nil
}

func (g *idleGuest) Shutdown(context.Context) error {
	select {
	case <-g.done:
		return errors.New("the guest is not running")
	default:
	}
	return g.Kill()
}

func (g *idleGuest) Kill() error {
	g.boot.Stop()
	g.end()
	return nil
}
