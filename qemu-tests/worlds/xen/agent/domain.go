package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
)

const (
	burst       = 50 * time.Millisecond  // in which changes of a guest's directories are gathered
	consolePoll = 250 * time.Millisecond // how often its console's file is looked at
	ackPoll     = 100 * time.Millisecond // how often control/shutdown is looked at
)

// writable are the directories that xapi makes for the guest to write (xapi-facts §7.3); its devices' are xl's matter.
var writable = []string{"attr", "control", "data", "drivers", "error", "feature", "messages", "rrd", "vm-data", "xenserver/attr"}

// mirrored are the directories that the world is told of.
var mirrored = []string{"vm-data", "attr", "data", "feature", "control"}

// domain is a guest.
type domain struct {
	server   *server
	id       int
	mode     wire.Mode
	changed  chan struct{} // its directories have
	released chan struct{} // some domain has shut down or gone
	done     chan struct{} // closed when it is gone
	killed   atomic.Bool   // by the world
	console  *os.File      // nil until it is there
	name     string
	last     map[string]string
}

func (d *domain) text() string           { return strconv.Itoa(d.id) }
func (d *domain) path(key string) string { return path.Join("/local/domain", d.text(), key) }

// create builds a domain and lets it run.
func (s *server) create(ctx context.Context, c wire.Domain) error {
	if err := build(ctx, c); err != nil {
		return err
	}
	d := &domain{
		server: s, name: c.Name, mode: c.Mode,
		changed: make(chan struct{}, 1), released: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if err := func() (err error) {
		if d.id, err = s.find(c.Name); err != nil {
			return err
		}
		s.mu.Lock()
		s.domains[d.name] = d
		s.mu.Unlock()
		return errors.Join(d.prepare(c.Store), xl(ctx, "unpause", d.text()))
	}(); err != nil {
		s.mu.Lock()
		delete(s.domains, d.name)
		s.mu.Unlock()
		// Without its own context: what has been built must go.
		return errors.Join(err, xl(context.Background(), "destroy", c.Name))
	}
	go d.follow()
	return nil
}

// find gives the id of a domain by its name.
func (s *server) find(name string) (int, error) {
	domains := map[string]string{}
	if err := s.store.tree("/local", "domain", domains); err != nil {
		return 0, err
	}
	for key, value := range domains {
		if id, ok := strings.CutSuffix(strings.TrimPrefix(key, "domain/"), "/name"); ok && value == name {
			return strconv.Atoi(id)
		}
	}
	return 0, fmt.Errorf("xl made no domain %s", name)
}

// prepare writes what the guest finds in XenStore, and watches what it will write.
func (d *domain) prepare(nodes map[string]string) error {
	for _, directory := range writable {
		if err := d.server.store.makeOwned(d.path(directory), d.id); err != nil {
			return err
		}
	}
	for key, value := range nodes {
		if err := d.server.store.write(d.path(key), value); err != nil {
			return err
		}
	}
	for _, directory := range mirrored {
		if err := d.server.store.watch(d.path(directory), d.name); err != nil {
			return err
		}
	}
	return nil
}

// follow tells the world what the guest does until it is gone, and clears away what a guest leaves that has shut down.
func (d *domain) follow() {
	defer close(d.done)
	ticker := time.NewTicker(consolePoll)
	defer ticker.Stop()
	for {
		select {
		case <-d.changed:
			time.Sleep(burst)
			d.sendTree()
		case <-ticker.C:
			d.sendConsole()
		case <-d.released:
			state, err := stateOf(d.id)
			if err != nil {
				fmt.Printf("agent: domain %d: %v\n", d.id, err)
				signal(d.released) // once more
				time.Sleep(time.Second)
			} else if state != running {
				d.end(state)
				return
			}
		}
	}
}

func (d *domain) end(state state) {
	d.sendTree()
	reason := string(state)
	if d.killed.Load() {
		reason = "destroyed"
	}
	for state != gone {
		err := xl(context.Background(), "destroy", d.text())
		if state, _ = stateOf(d.id); state != gone {
			fmt.Printf("agent: destroy domain %d: it is %s, %v\n", d.id, state, err)
			time.Sleep(time.Second)
		}
	}
	for _, directory := range mirrored {
		_ = d.server.store.unwatch(d.path(directory), d.name) // XenStore has dropped those of nodes that are gone
	}
	d.sendConsole()
	if d.console != nil {
		d.console.Close()
	}
	// First this: a call that finds no domain is then answered after the world has learnt why.
	d.server.send(wire.Message{Event: &wire.Event{Name: wire.EventEnded, Domain: d.name, Reason: reason}})
	d.server.mu.Lock()
	delete(d.server.domains, d.name)
	d.server.mu.Unlock()
}

func (d *domain) sendTree() {
	tree := map[string]string{}
	for _, directory := range mirrored {
		if err := d.server.store.tree(d.path(""), directory, tree); err != nil {
			fmt.Printf("agent: domain %d: %v\n", d.id, err)
			return
		}
	}
	if len(tree) == 0 || maps.Equal(tree, d.last) {
		return // it is gone, or nothing new
	}
	d.last = tree
	d.server.send(wire.Message{Event: &wire.Event{Name: wire.EventTree, Domain: d.name, Tree: tree}})
}

// consoleFile is where a domain's console is kept: by the device model of an HVM guest, else by xenconsoled.
func consoleFile(mode wire.Mode, name string) string {
	if mode == wire.HVM {
		return consoleDir + "/serial-" + name + ".log"
	}
	return consoleDir + "/guest-" + name + ".log"
}

func (d *domain) sendConsole() {
	if d.console == nil {
		file, err := os.Open(consoleFile(d.mode, d.name))
		if err != nil {
			return // it has not written yet
		}
		d.console = file
	}
	for buffer := make([]byte, 64<<10); ; {
		n, err := d.console.Read(buffer)
		if n > 0 {
			d.server.send(wire.Message{Event: &wire.Event{Name: wire.EventConsole, Domain: d.name, Console: buffer[:n]}})
		}
		if n == 0 || err != nil {
			if err != nil && !errors.Is(err, io.EOF) {
				fmt.Printf("agent: console of domain %d: %v\n", d.id, err)
			}
			return
		}
	}
}

// replaceData rewrites vm-data as xenopsd does. The directory is made anew by dom0 and takes the rights of the domain's own
// directory: the guest can no longer write below it (xapi-facts §7.2).
func (d *domain) replaceData(data map[string]string) error {
	nodes := map[string]string{}
	for key, value := range data {
		nodes[d.path(key)] = value
	}
	return d.server.store.replace([]string{d.path("vm-data")}, nodes)
}

// shutdown asks the guest to power off and waits until it has acknowledged that.
func (d *domain) shutdown(ctx context.Context) error {
	if err := d.server.store.write(d.path("control/shutdown"), "poweroff"); err != nil {
		return err
	}
	for {
		value, err := d.server.store.read(d.path("control/shutdown"))
		if errors.Is(err, errAbsent) || err == nil && value == "" {
			return nil
		} else if err != nil {
			return err
		}
		select {
		case <-time.After(ackPoll):
		case <-d.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *domain) destroy(ctx context.Context) error {
	d.killed.Store(true)
	err := xl(ctx, "destroy", d.text())
	signal(d.released)
	select {
	case <-d.done:
		return nil // whoever ended it
	case <-ctx.Done():
		return errors.Join(err, ctx.Err())
	case <-time.After(destroyTimeout):
		return errors.Join(err, fmt.Errorf("domain %d is still there after %v", d.id, destroyTimeout))
	}
}
