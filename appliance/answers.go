package appliance

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// answers knows on which connections a call is being answered, so that an end can wait for those and for nothing else.
// http.Server.Shutdown waits for connections that were never used as well: a client that makes two calls at once may leave one.
type answers struct {
	mu     sync.Mutex
	active map[net.Conn]bool
	none   chan struct{} // gets a value whenever active becomes empty
}

func newAnswers() *answers {
	return &answers{active: map[net.Conn]bool{}, none: make(chan struct{}, 1)}
}

// note is an http.Server's ConnState. A connection is active from the first byte of a call until its answer was written.
func (a *answers) note(c net.Conn, state http.ConnState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if state == http.StateActive {
		a.active[c] = true
		return
	}
	delete(a.active, c)
	if len(a.active) == 0 {
		select {
		case a.none <- struct{}{}:
		default:
		}
	}
}

func (a *answers) pending() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.active) > 0
}

// await returns when no call is being answered, or after limit.
func (a *answers) await(limit time.Duration) {
	late := time.NewTimer(limit)
	defer late.Stop()
	for a.pending() {
		select {
		case <-a.none:
		case <-late.C:
			return
		}
	}
}
