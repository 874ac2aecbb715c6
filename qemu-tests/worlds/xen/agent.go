package xen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// cancelTimeout bounds how long the agent may take to give a call up.
const cancelTimeout = 15 * time.Second

// agent calls the agent in dom0.
type agent struct {
	conn     net.Conn
	dispatch func(wire.Event)
	ended    chan struct{} // closed by the reader, after failure is set

	mu      sync.Mutex // held for each line written
	last    uint64
	calls   map[uint64]chan<- wire.Reply
	failure error
}

// dialAgent connects to the socket of the port. QEMU holds back what is said until the agent has opened its side.
func dialAgent(ctx context.Context, socket string, dispatch func(wire.Event)) (*agent, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	a := &agent{conn: conn, dispatch: dispatch, ended: make(chan struct{}), calls: map[uint64]chan<- wire.Reply{}}
	go a.read()
	return a, nil
}

// read is the goroutine that ends with the connection.
func (a *agent) read() {
	defer close(a.ended)
	messages := wire.NewReader(a.conn)
	for {
		var m wire.Message
		if err := messages.Read(&m); err != nil {
			a.mu.Lock()
			a.failure = fmt.Errorf("dom0's agent has gone: %w", err)
			a.mu.Unlock()
			return
		}
		if m.Event != nil {
			a.dispatch(*m.Event)
		}
		if m.Reply != nil {
			a.mu.Lock()
			if reply := a.calls[m.Reply.ID]; reply != nil {
				reply <- *m.Reply // there is room
				delete(a.calls, m.Reply.ID)
			}
			a.mu.Unlock()
		}
	}
}

// call makes a call and waits for its end. When ctx ends first, the agent is told to give up and may then have done it or not.
func (a *agent) call(ctx context.Context, r wire.Request) error {
	replies := make(chan wire.Reply, 1)
	a.mu.Lock()
	a.last++
	r.ID = a.last
	a.calls[r.ID] = replies
	err := wire.Write(a.conn, r)
	a.mu.Unlock()
	if err != nil {
		return fmt.Errorf("dom0's agent: %w", err)
	}
	select {
	case reply := <-replies:
		return result(reply)
	case <-a.ended:
		return a.err()
	case <-ctx.Done():
	}
	a.mu.Lock()
	err = wire.Write(a.conn, wire.Request{ID: r.ID, Call: wire.CallCancel})
	a.mu.Unlock()
	if err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	select {
	case reply := <-replies:
		if reply.Error == "" {
			return nil
		}
		return fmt.Errorf("%w: %s", context.Cause(ctx), reply.Error)
	case <-a.ended:
		return errors.Join(context.Cause(ctx), a.err())
	case <-time.After(cancelTimeout):
		return fmt.Errorf("%w; dom0's agent did not give up within %v", context.Cause(ctx), cancelTimeout)
	}
}

func result(reply wire.Reply) error {
	switch {
	case reply.Error == "":
		return nil
	case reply.Rejected:
		return fmt.Errorf("%w: %s", xapisim.ErrDetachRejected, reply.Error)
	}
	return errors.New(reply.Error)
}

func (a *agent) err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failure
}

// close ends the connection and waits for its goroutine.
func (a *agent) close() error {
	err := a.conn.Close()
	<-a.ended
	return err
}
