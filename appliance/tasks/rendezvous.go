package tasks

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
)

// CodeUnknownTask is what a dialer is told whose token belongs to no task that listens for it.
const CodeUnknownTask netproto.ErrorCode = netproto.FirstApplicationCode + 0x100

// maxParked bounds the connections that wait for their task.
const maxParked = 32

// rendezvous brings data connections and the tasks that listen for them together, whoever comes first.
type rendezvous struct {
	wait time.Duration // that a connection is kept for its task

	mu     sync.Mutex
	parked int
	places map[string]*place
}

type place struct {
	conns chan *netproto.Conn
	users int
}

func newRendezvous(wait time.Duration) *rendezvous {
	return &rendezvous{wait: wait, places: make(map[string]*place)}
}

// placeOf names the meeting place: the proven key is part of it, so that a token is good only for the peer it was meant for.
func placeOf(peer netproto.Fingerprint, token []byte) string {
	return string(peer) + "/" + hex.EncodeToString(token)
}

func (r *rendezvous) enter(name string) *place {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.places[name]
	if p == nil {
		p = &place{conns: make(chan *netproto.Conn)}
		r.places[name] = p
	}
	p.users++
	return p
}

func (r *rendezvous) leave(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.places[name]; p.users == 1 {
		delete(r.places, name)
	} else {
		p.users--
	}
}

// await returns the connection of a peer that dials.
func (r *rendezvous) await(ctx context.Context, peer control.Peer) (*netproto.Conn, error) {
	name := placeOf(peer.Fingerprint, peer.Token)
	p := r.enter(name)
	defer r.leave(name)
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// deliver hands a connection to the task that listens for it. One that nobody takes in time is closed with an error; the error
// returned is for the log and nil when a task has it.
func (r *rendezvous) deliver(ctx context.Context, conn *netproto.Conn) error {
	if !r.park() {
		return refuse(conn, "too many connections wait for their tasks")
	}
	defer r.unpark()
	ctx, cancel := context.WithTimeout(ctx, r.wait)
	defer cancel()
	name := placeOf(conn.Peer().Fingerprint, conn.Token())
	p := r.enter(name)
	defer r.leave(name)
	select {
	case p.conns <- conn:
		return nil
	case <-ctx.Done():
		return refuse(conn, fmt.Sprintf("no task took the connection within %v: its token is unknown here, or the task still waits for its turn; start both ends together", r.wait))
	}
}

func refuse(conn *netproto.Conn, reason string) error {
	err := conn.CloseWithError(CodeUnknownTask, reason)
	return errors.Join(fmt.Errorf("data connection of %s refused: %s", conn.Peer().Fingerprint, reason), err)
}

func (r *rendezvous) park() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.parked == maxParked {
		return false
	}
	r.parked++
	return true
}

func (r *rendezvous) unpark() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parked--
}
