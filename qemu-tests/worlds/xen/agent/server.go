package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
)

// releaseToken is the watch by which XenStore tells that a domain has shut down or gone; other tokens are names of domains.
const releaseToken = "release"

// server does what the world asks for.
type server struct {
	port  *os.File
	store *store

	writing sync.Mutex // held for each message to the world

	mu      sync.Mutex
	domains map[string]*domain
	calls   map[uint64]context.CancelFunc
}

func newServer(port *os.File) (*server, error) {
	s := &server{port: port, domains: map[string]*domain{}, calls: map[uint64]context.CancelFunc{}}
	var err error
	if s.store, err = openStore(s.changed); err != nil {
		return nil, err
	}
	return s, s.store.watch("@releaseDomain", releaseToken)
}

// changed takes a watch event. Events merge: one means 'look again'.
func (s *server) changed(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token == releaseToken {
		for _, d := range s.domains {
			signal(d.released)
		}
	} else if d := s.domains[token]; d != nil {
		signal(d.changed)
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// serve answers requests, each in a goroutine of its own, for as long as the machine lives.
func (s *server) serve() error {
	requests := wire.NewReader(connected{s.port})
	for {
		var r wire.Request
		if err := requests.Read(&r); err != nil {
			return fmt.Errorf("the port to the world: %w", err)
		}
		if r.Call == wire.CallCancel {
			s.cancel(r.ID)
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		s.mu.Lock()
		s.calls[r.ID] = cancel
		s.mu.Unlock()
		go s.answer(ctx, r)
	}
}

func (s *server) cancel(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.calls[id]; cancel != nil {
		cancel()
		delete(s.calls, id)
	}
}

func (s *server) answer(ctx context.Context, r wire.Request) {
	defer s.cancel(r.ID)
	reply := wire.Reply{ID: r.ID}
	if err := s.do(ctx, r); err != nil {
		reply.Error, reply.Rejected = err.Error(), errors.Is(err, errRejected)
	}
	s.send(wire.Message{Reply: &reply})
}

// send writes to the world. When that fails there is nobody left to tell.
func (s *server) send(m wire.Message) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := wire.Write(s.port, m); err != nil {
		fmt.Println("agent: the port to the world:", err)
	}
}

func (s *server) do(ctx context.Context, r wire.Request) error {
	switch {
	case r.Call == wire.CallHello:
		return nil
	case r.Call == wire.CallCreate && r.Create != nil:
		return s.create(ctx, *r.Create)
	case r.Call == wire.CallForget && r.Disk != nil:
		return forget(r.Disk.Serial)
	}
	s.mu.Lock()
	d := s.domains[r.Domain]
	s.mu.Unlock()
	if d == nil {
		return fmt.Errorf("%s: there is no domain %q", r.Call, r.Domain)
	}
	switch {
	case r.Call == wire.CallPlug && r.Disk != nil:
		return d.plug(ctx, *r.Disk)
	case r.Call == wire.CallUnplug && r.Disk != nil:
		return d.unplug(ctx, *r.Disk)
	case r.Call == wire.CallData:
		return d.replaceData(r.Data)
	case r.Call == wire.CallPause:
		return xl(ctx, "pause", d.text())
	case r.Call == wire.CallUnpause:
		return xl(ctx, "unpause", d.text())
	case r.Call == wire.CallShutdown:
		return d.shutdown(ctx)
	case r.Call == wire.CallDestroy:
		return d.destroy(ctx)
	}
	return fmt.Errorf("a call %q without what it is about, or an unknown one", r.Call)
}

// connected reads from a virtio-serial port, which gives an end of file for as long as the world has not opened its side.
type connected struct{ port *os.File }

func (c connected) Read(p []byte) (int, error) {
	for {
		n, err := c.port.Read(p)
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
