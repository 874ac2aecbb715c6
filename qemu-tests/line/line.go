package line

import (
	"context"
	"errors"
	"sync"

	"github.com/understudy-dr/understudy/netproto/line"
)

// Spec describes rate, delay and queue; see netproto/line.
type Spec = line.Spec

// ParseSpec reads "RATE,DELAY", as in "100mbit,100ms".
func ParseSpec(text string) (Spec, error) { return line.ParseSpec(text) }

// Line forwards connections to a target and breaks them. Its methods may be called by several goroutines. It must be closed.
type Line struct {
	*line.Proxy
	gate *gate
}

// Start opens a line to a target, "host:port".
func Start(s Spec, target string) (*Line, error) {
	g := newGate()
	p, err := line.Start(s, target, line.Options{Gate: g.pass})
	if err != nil {
		return nil, err
	}
	return &Line{Proxy: p, gate: g}, nil
}

// Cut lets nothing pass any more, either way: both ends hear silence, on new connections too. Mend ends it.
func (l *Line) Cut() { l.CutAfter(0) }

// CutAfter is Cut once n more bytes, of both directions together, have passed.
func (l *Line) CutAfter(n int64) { l.gate.set(fault{left: n}) }

// ResetAfter resets the connection that wants to pass more than n further bytes, of both directions together, and then the line
// is whole again. [line.Proxy.Reset] resets all at once.
func (l *Line) ResetAfter(n int64) { l.gate.set(fault{left: n, reset: true}) }

// Mend takes back Cut, CutAfter and ResetAfter. Connections that outlived a cut go on with what was on its way, as TCP does by
// sending it again.
func (l *Line) Mend() { l.gate.set(fault{left: whole}) }

// fault is what becomes of the line.
type fault struct {
	left  int64 // bytes that pass before
	reset bool  // else: silence
}

// whole is the left of a line without a fault.
const whole = -1

// gate is the line.Gate of a Line.
type gate struct {
	mu      sync.Mutex
	fault   fault
	changed chan struct{} // closed and replaced with the fault
}

func newGate() *gate { return &gate{fault: fault{left: whole}, changed: make(chan struct{})} }

func (g *gate) set(f fault) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault = f
	close(g.changed)
	g.changed = make(chan struct{})
}

var errReset = errors.New("the line was told to break here")

func (g *gate) pass(ctx context.Context, n int) (int, error) {
	for {
		pass, changed, err := g.try(n)
		if pass > 0 || err != nil {
			return pass, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// try returns how many bytes may pass now, or what to wait for when none may.
func (g *gate) try(n int) (pass int, changed <-chan struct{}, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.fault.left == whole:
		return n, nil, nil
	case g.fault.left > 0:
		pass = int(min(g.fault.left, int64(n)))
		g.fault.left -= int64(pass)
		return pass, nil, nil
	case g.fault.reset:
		g.fault = fault{left: whole}
		return 0, nil, errReset
	}
	return 0, g.changed, nil
}
