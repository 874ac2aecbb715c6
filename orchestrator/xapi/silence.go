package xapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A host without power says nothing: no connection is closed, and packets vanish. Three things notice that, each what the others
// cannot:
//
//	keep-alive and user timeout    one connection that is dead, whose host may live (a firewall forgot it)
//	watch                          a host that answers nothing any more, though its kernel may
//	Config.CallTimeout             a host that answers others, and never this call

// errSilent says that a host has stopped answering, and not only this call.
var errSilent = errors.New("it has stopped answering")

// watch gives a context for one request to a host, which ends when the host turns out to be silent: after every half of
// Config.Silence without an answer it is asked for something else, over a connection of its own, and must answer within the other
// half. stop ends the watch and waits for it.
func (c *Client) watch(ctx context.Context, address string) (watched context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		for pause(ctx, c.config.Silence/2) == nil {
			if err := c.ping(ctx, address); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w: %w", address, errSilent, err))
			}
		}
	})
	return ctx, func() {
		cancel(nil)
		group.Wait()
	}
}

// ping has a host answer something small, whatever the answer.
func (c *Client) ping(ctx context.Context, address string) error {
	limit := c.config.Silence / 2
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v: %w", limit, context.DeadlineExceeded))
	defer cancel()
	c.mu.Lock()
	session := c.session.ref // none before the first login: that is answered, too
	c.mu.Unlock()
	post, err := newPost(ctx, address, "pool.get_all", []any{session}, c.nextID.Add(1))
	if err != nil {
		return err
	}
	reply, err := c.pings.Do(post)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return withoutURL(err)
	}
	defer reply.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(reply.Body, pageLimit))
	return err
}

// leave notes that the coordinator of a session is not reached: the next login tries the other hosts first.
func (c *Client) leave(current session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == current {
		c.session.silent = true
	}
}

const (
	// Of a connection: after idle time the host's kernel is asked whether it is there, and what was sent must be acknowledged.
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
	userTimeout       = 30 * time.Second
)

// newDialer makes connections that notice their death.
func newDialer() *net.Dialer {
	return &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount},
		Control:         func(_, _ string, socket syscall.RawConn) error { return setUserTimeout(socket, userTimeout) },
	}
}

// patient gives a connection more time: the user timeout of TCP runs also while the peer's window is closed (tcp(7)), and a host that
// writes to slow storage takes nothing more for a while.
func patient(conn net.Conn, timeout time.Duration) {
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = wrapped.NetConn()
	}
	if plain, ok := conn.(syscall.Conn); ok {
		if socket, err := plain.SyscallConn(); err == nil {
			_ = setUserTimeout(socket, timeout) // a connection that is closed already needs none
		}
	}
}

func setUserTimeout(socket syscall.RawConn, timeout time.Duration) error {
	var failed error
	err := socket.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
	})
	return errors.Join(err, failed)
}
