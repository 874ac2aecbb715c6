package xapi_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// line carries connections to a host, until it swallows what goes over them: nobody is told, new ones are taken and swallowed, too.
type line struct {
	net.Listener
	group sync.WaitGroup
	mute  atomic.Bool

	mu    sync.Mutex
	conns []net.Conn
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{Listener: listener}
	l.group.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			l.keep(near, far)
			l.group.Go(func() { l.carry(far, near) })
			l.group.Go(func() { l.carry(near, far) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		l.mu.Lock()
		for _, conn := range l.conns {
			conn.Close()
		}
		l.mu.Unlock()
		l.group.Wait()
	})
	return l
}

func (l *line) keep(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, conns...)
}

func (l *line) carry(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			if !l.mute.Load() {
				to.Close()
			}
			return
		}
		if !l.mute.Load() {
			_, _ = to.Write(buffer[:n])
		}
	}
}

// swallowed is a pool of two hosts, the first behind a line; when that is mute the second is the coordinator.
func swallowed(t *testing.T, silence time.Duration) (first, second *fakeHost, l *line, client *xapi.Client) {
	first, second = newFakeHost(t, "127.0.0.1:0"), newFakeHost(t, "127.0.0.1:0")
	second.on("session.login_with_password", value("OpaqueRef:second"))
	l = newLine(t, first.address())
	config := configFor(first, second)
	config.Addresses[0], config.CallTimeout, config.Silence = l.Addr().String(), time.Minute, silence
	return first, second, l, dial(t, config)
}

// TestASilentHostIsLeft: the coordinator's power goes while calls of every sort wait for it. None waits for its own time to end.
func TestASilentHostIsLeft(t *testing.T) {
	const silence = 300 * time.Millisecond
	first, second, l, client := swallowed(t, silence)
	methods := []string{"VM.get_record", "VM.start", "event.from"}
	var arrived atomic.Int32
	for _, method := range methods {
		first.on(method, func(c call) any {
			if int(arrived.Add(1)) == len(methods) {
				l.mute.Store(true)
			}
			return hang(c)
		})
		second.on(method, value(map[string]any{"token": "second"}))
	}
	began := time.Now()
	var group sync.WaitGroup
	group.Go(func() {
		if err := client.Call(t.Context(), "VM.get_record", nil, "OpaqueRef:vm"); err != nil {
			t.Errorf("a read: %v", err)
		}
	})
	group.Go(func() {
		if err := client.Call(t.Context(), "VM.start", nil, "OpaqueRef:vm"); !errors.Is(err, xapi.ErrOutcomeUnknown) || !xapi.IsTemporary(err) {
			t.Errorf("a call that changes something: %v", err)
		}
	})
	group.Go(func() {
		if batch, err := client.Events(t.Context(), []string{"vm"}, "token", 30*time.Second); err != nil || batch.Token != "second" {
			t.Errorf("a wait for events: %+v, %v", batch, err)
		}
	})
	group.Wait()
	if client.Address() != second.address() || second.count("session.login_with_password") != 1 {
		t.Errorf("the client is at %s after %d logins", client.Address(), second.count("session.login_with_password"))
	}
	if err := client.Call(t.Context(), "VM.start", nil, "OpaqueRef:vm"); err != nil {
		t.Errorf("the next call: %v", err)
	}
	if took := time.Since(began); took > 10*silence {
		t.Errorf("all that took %v", took)
	}
}

// TestAnUploadToASilentHost: the host takes no more bytes, and knows nothing of the task when it is found again.
func TestAnUploadToASilentHost(t *testing.T) {
	const silence = 300 * time.Millisecond
	var l *line
	first := importHost(t, func(w http.ResponseWriter, r *http.Request) {
		early(w)
		l.mute.Store(true)
		_, _ = io.Copy(io.Discard, r.Body) // ends with the line
	}, noEvents("t"), mastersHost)
	second := newFakeHost(t, "127.0.0.1:0")
	second.on("event.from", value(failure{"HANDLE_INVALID", "task", "OpaqueRef:task"}))
	second.on("task.cancel", value(failure{"HANDLE_INVALID", "task", "OpaqueRef:task"}))
	l = newLine(t, first.address())
	config := configFor(first, second)
	config.Addresses[0], config.CallTimeout, config.Silence = l.Addr().String(), time.Minute, silence
	client := dial(t, config)
	began := time.Now()
	if _, err := client.Import(t.Context(), importOptions()); !errors.Is(err, xapi.ErrOutcomeUnknown) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 10*silence {
		t.Errorf("that took %v", took)
	}
}

// TestASlowAnswerIsWaitedFor: a host that answers others is not silent, however long one call takes.
func TestASlowAnswerIsWaitedFor(t *testing.T) {
	const silence = 600 * time.Millisecond
	first, _, _, client := swallowed(t, silence)
	first.on("VM.start", func(call) any {
		time.Sleep(2 * silence)
		return "started"
	})
	var result string
	if err := client.Call(t.Context(), "VM.start", &result); err != nil || result != "started" {
		t.Errorf("%q, %v", result, err)
	}
	if n := first.count("pool.get_all"); n < 2 {
		t.Errorf("it was asked %d times", n)
	}
}
