package replication_test

import (
	"bytes"
	"context"
	"maps"
	"os"
	"sync"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// What a disk may begin with, for the firmware of bootWorld.
const (
	boots  = "an operating system with an agent"
	linux  = "a kernel without an agent"
	stops  = "one that powers itself off"
	noCode = "no boot sector at all ........"
)

// bootWorld starts machines that do what their first disk says.
type bootWorld struct {
	mu     sync.Mutex
	booted []xapisim.Machine
}

var _ xapisim.World = (*bootWorld)(nil)

func (w *bootWorld) Start(_ context.Context, m xapisim.Machine) (xapisim.Guest, error) {
	w.mu.Lock()
	w.booted = append(w.booted, m)
	w.mu.Unlock()
	g := &bootGuest{tree: map[string]string{"vm-data": ""}, changed: make(chan struct{}, 1), done: make(chan struct{})}
	g.end = sync.OnceFunc(func() { close(g.done) })
	content, err := os.ReadFile(m.Disks[0].Path)
	if err != nil {
		return nil, err
	}
	says := func(text string) bool { return bytes.HasPrefix(content, []byte(text)) }
	switch {
	case says(boots):
		maps.Copy(g.tree, map[string]string{"attr/PVAddons/MajorVersion": "8", "attr/PVAddons/MinorVersion": "4", "data/os_name": "Debian"})
	case says(linux):
		maps.Copy(g.tree, map[string]string{"control/feature-poweroff": "1"})
	case says(stops):
		g.end()
	}
	g.changed <- struct{}{}
	return g, nil
}

// last is the machine that was started last.
func (w *bootWorld) last() xapisim.Machine {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.booted[len(w.booted)-1]
}

// bootGuest publishes its tree, and does nothing else.
type bootGuest struct {
	tree    map[string]string
	changed chan struct{}
	done    chan struct{}
	end     func()
}

func (g *bootGuest) Plug(context.Context, xapisim.Disk) error { return nil }
func (g *bootGuest) Unplug(context.Context, string) error     { return nil }
func (g *bootGuest) SetData(map[string]string) error          { return nil }
func (g *bootGuest) Tree() (map[string]string, error)         { return maps.Clone(g.tree), nil }
func (g *bootGuest) Changed() <-chan struct{}                 { return g.changed }
func (g *bootGuest) Pause() error                             { return nil }
func (g *bootGuest) Unpause() error                           { return nil }
func (g *bootGuest) Shutdown(context.Context) error           { return g.Kill() }
func (g *bootGuest) Kill() error                              { g.end(); return nil }
func (g *bootGuest) Done() <-chan struct{}                    { return g.done }
