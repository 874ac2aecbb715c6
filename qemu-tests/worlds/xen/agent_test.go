package xen

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen/wire"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAgent answers one connection by a function until the connection ends.
func fakeAgent(t *testing.T, dispatch func(wire.Event), serve func(say func(wire.Message), r wire.Request)) *agent {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for requests := wire.NewReader(conn); ; {
			var r wire.Request
			if err := requests.Read(&r); err != nil || r.Call == "hang up" {
				return
			}
			serve(func(m wire.Message) {
				if err := wire.Write(conn, m); err != nil {
					t.Error(err)
				}
			}, r)
		}
	}()
	a, err := dialAgent(t.Context(), socket, dispatch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.close(); err != nil {
			t.Error(err)
		}
		listener.Close()
		<-ended
	})
	return a
}

func TestCalls(t *testing.T) {
	events := make(chan wire.Event, 1)
	a := fakeAgent(t, func(e wire.Event) { events <- e }, func(say func(wire.Message), r wire.Request) {
		reply := wire.Reply{ID: r.ID}
		switch r.Call {
		case wire.CallUnplug:
			reply.Error, reply.Rejected = "it is busy", true
		case wire.CallPlug:
			reply.Error = "no such disk"
		case wire.CallPause:
			return // until it is cancelled
		case wire.CallCancel:
			reply.Error = "given up"
		}
		say(wire.Message{Event: &wire.Event{Name: wire.EventTree, Domain: string(r.Call)}})
		say(wire.Message{Reply: &reply})
	})
	if err := a.call(t.Context(), wire.Request{Call: wire.CallHello}); err != nil {
		t.Error(err)
	}
	if e := <-events; e.Domain != "hello" {
		t.Errorf("event %+v", e)
	}
	if err := a.call(t.Context(), wire.Request{Call: wire.CallUnplug}); !errors.Is(err, xapisim.ErrDetachRejected) {
		t.Errorf("unplug: %v", err)
	}
	<-events
	if err := a.call(t.Context(), wire.Request{Call: wire.CallPlug}); err == nil || errors.Is(err, xapisim.ErrDetachRejected) {
		t.Errorf("plug: %v", err)
	}
	<-events
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := a.call(ctx, wire.Request{Call: wire.CallPause}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("pause: %v", err)
	}
	if e := <-events; e.Domain != "cancel" {
		t.Errorf("event %+v", e)
	}
	if err := a.call(t.Context(), wire.Request{Call: "hang up"}); err == nil {
		t.Error("a call without an answer succeeded")
	}
	if err := a.call(t.Context(), wire.Request{Call: wire.CallHello}); err == nil {
		t.Error("a call after the end succeeded")
	}
}

func TestDeviceNames(t *testing.T) {
	for _, test := range []struct {
		mode       Mode
		userDevice string
		want       string
	}{
		{PV, "0", "d0p0"}, {PVH, "15", "d15p0"}, {PV, "255", "d255p0"}, {HVM, "0", "hda"}, {HVM, "3", "hdd"}, {HVM, "4", "d4p0"},
		{PV, "256", ""}, {PV, "xvda", ""}, {PV, "-1", ""},
	} {
		if got, err := deviceName(test.mode, test.userDevice); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s %s: %q, %v, want %q", test.mode, test.userDevice, got, err, test.want)
		}
	}
}
