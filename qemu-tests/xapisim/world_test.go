package xapisim_test

import (
	"context"
	"sync"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// recordingWorld remembers the machine that it started last.
type recordingWorld struct {
	xapisim.World
	mu      sync.Mutex
	machine xapisim.Machine
}

func (w *recordingWorld) Start(ctx context.Context, m xapisim.Machine) (xapisim.Guest, error) {
	w.mu.Lock()
	w.machine = m
	w.mu.Unlock()
	return w.World.Start(ctx, m)
}

func (w *recordingWorld) last() xapisim.Machine {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.machine
}
