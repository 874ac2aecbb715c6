package qmp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/qmp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}`

// request is a command as the fake QEMU sees it.
type request struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        uint64          `json:"id"`
}

// fake is a QEMU that greets and then gives every command to serve.
type fake struct {
	net.Conn
	t *testing.T
}

func (f fake) say(format string, values ...any) {
	if _, err := fmt.Fprintf(f, format+"\r\n", values...); err != nil && !errors.Is(err, net.ErrClosed) {
		f.t.Log(err) // the client has gone
	}
}

// listen starts a fake QEMU on a unix socket; it serves one connection.
func listen(t *testing.T, serve func(fake, request)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "qmp")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		f := fake{connection, t}
		f.say(greeting)
		lines := bufio.NewScanner(connection)
		for lines.Scan() {
			var r request
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				t.Error(err)
				return
			}
			if r.Execute == "qmp_capabilities" {
				f.say(`{"return": {}, "id": %d}`, r.ID)
				continue
			}
			serve(f, r)
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		served.Wait()
	})
	return socket
}

func dial(t *testing.T, serve func(fake, request)) *qmp.Client {
	t.Helper()
	client, err := qmp.Dial(t.Context(), listen(t, serve))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func TestExecute(t *testing.T) {
	client := dial(t, func(f fake, r request) {
		switch r.Execute {
		case "device_add":
			f.say(`{"return": {"seen": %s}, "id": %d}`, r.Arguments, r.ID)
		case "query-status":
			if r.Arguments != nil {
				t.Errorf("arguments of a command without: %s", r.Arguments)
			}
			f.say(`{"return": {"status": "running"}, "id": %d}`, r.ID)
		default:
			f.say(`{"id": %d, "error": {"class": "CommandNotFound", "desc": "The command %s has not been found"}}`, r.ID, r.Execute)
		}
	})
	var added struct {
		Seen struct{ Driver, Serial string }
	}
	if err := client.Execute(t.Context(), "device_add", map[string]any{"driver": "virtio-blk-pci", "serial": "vbd-3"}, &added); err != nil {
		t.Fatal(err)
	}
	if added.Seen.Driver != "virtio-blk-pci" || added.Seen.Serial != "vbd-3" {
		t.Errorf("QEMU saw %+v", added)
	}
	if err := client.Execute(t.Context(), "query-status", nil, nil); err != nil {
		t.Error(err)
	}
	var refusal *qmp.Error
	if err := client.Execute(t.Context(), "fly", nil, nil); !errors.As(err, &refusal) || refusal.Class != "CommandNotFound" || refusal.Command != "fly" {
		t.Errorf("%v", err)
	}
	if err := client.Execute(t.Context(), "query-status", nil, new([]string)); err == nil {
		t.Error("an answer of another kind was taken")
	}
}

// Answers find their callers in whatever order they come.
func TestAnswersOutOfOrder(t *testing.T) {
	var waiting []request
	client := dial(t, func(f fake, r request) {
		if waiting = append(waiting, r); len(waiting) < 8 {
			return
		}
		for i := range waiting {
			r := waiting[len(waiting)-1-i]
			f.say(`{"return": %s, "id": %d}`, r.Arguments, r.ID)
		}
	})
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			var got map[string]int
			if err := client.Execute(t.Context(), "echo", map[string]int{"i": i}, &got); err != nil || got["i"] != i {
				t.Errorf("%d: %v, %v", i, got, err)
			}
		})
	}
	group.Wait()
}

func TestSubscriptionsLoseNothing(t *testing.T) {
	const events = 500
	client := dial(t, func(f fake, r request) {
		for i := range events {
			f.say(`{"timestamp": {"seconds": %d, "microseconds": 7}, "event": "DEVICE_DELETED", "data": {"device": "d%d"}}`, 1000+i, i)
			f.say(`{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "STOP"}`)
		}
		f.say(`{"return": {}, "id": %d}`, r.ID)
	})
	deleted, all := client.Subscribe("DEVICE_DELETED"), client.Subscribe()
	defer deleted.Close()
	defer all.Close()
	if err := client.Execute(t.Context(), "go", nil, nil); err != nil {
		t.Fatal(err)
	}
	for i := range events {
		e, err := deleted.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var data struct{ Device string }
		if err := e.Decode(&data); err != nil || data.Device != fmt.Sprintf("d%d", i) || !e.Time.Equal(time.Unix(int64(1000+i), 7000)) {
			t.Fatalf("event %d: %+v, %+v, %v", i, e, data, err)
		}
	}
	for i := range 2 * events {
		e, err := all.Next(t.Context())
		if err != nil || (e.Name == "STOP") != (i%2 == 1) || e.Name == "STOP" && (!e.Time.IsZero() || e.Decode(new(int)) != nil) {
			t.Fatalf("event %d: %+v, %v", i, e, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if e, err := deleted.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an event out of nothing: %+v, %v", e, err)
	}
}

// A caller that leaves neither blocks the client nor takes another's answer.
func TestCancel(t *testing.T) {
	late := make(chan request, 1)
	client := dial(t, func(f fake, r request) {
		if r.Execute == "slow" {
			late <- r
			return
		}
		slow := <-late
		f.say(`{"return": {"of": "slow"}, "id": %d}`, slow.ID)
		f.say(`{"return": {"of": "quick"}, "id": %d}`, r.ID)
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	time.AfterFunc(20*time.Millisecond, func() { cancel(reason) })
	if err := client.Execute(ctx, "slow", nil, nil); !errors.Is(err, reason) {
		t.Errorf("%v", err)
	}
	var got struct{ Of string }
	if err := client.Execute(t.Context(), "quick", nil, &got); err != nil || got.Of != "quick" {
		t.Errorf("%+v, %v", got, err)
	}
}

// A QEMU that reads nothing does not hold a caller up.
func TestCancelOfAWrite(t *testing.T) {
	here, there := net.Pipe() // without a buffer
	defer there.Close()
	go func() {
		lines := bufio.NewReader(there)
		_, _ = there.Write([]byte(greeting + "\n"))
		_, _ = lines.ReadString('\n')
		_, _ = there.Write([]byte(`{"return": {}, "id": 0}` + "\n"))
	}()
	client, err := qmp.New(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := client.Execute(ctx, "stop", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

func TestTheEndOfQEMU(t *testing.T) {
	client := dial(t, func(f fake, r request) {
		f.say(`{"event": "SHUTDOWN", "data": {"guest": true}}`)
		_ = f.Close()
	})
	events := client.Subscribe("SHUTDOWN")
	defer events.Close()
	if err := client.Execute(t.Context(), "quit", nil, nil); err == nil {
		t.Error("an answer out of nothing")
	}
	<-client.Done()
	if e, err := events.Next(t.Context()); err != nil || e.Name != "SHUTDOWN" {
		t.Errorf("the last event was lost: %+v, %v", e, err)
	}
	if _, err := events.Next(t.Context()); err == nil {
		t.Error("an event after the end")
	}
	if err := client.Execute(t.Context(), "query-status", nil, nil); err == nil {
		t.Error("a command to nobody")
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := client.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

func TestClose(t *testing.T) {
	client := dial(t, func(fake, request) {})
	ended := make(chan error)
	go func() { ended <- client.Execute(context.Background(), "query-status", nil, nil) }()
	time.Sleep(20 * time.Millisecond)
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, qmp.ErrClosed) {
		t.Errorf("%v", err)
	}
}

func TestDialWaitsForQEMU(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "qmp")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := qmp.Dial(ctx, socket); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if _, err := qmp.Dial(t.Context(), "/"+strings.Repeat("x", 120)); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a path that no socket can have: %v", err)
	}
}

func TestNegotiationRefusesStrangers(t *testing.T) {
	for name, hello := range map[string]string{
		"not JSON": "SSH-2.0-x\n", "no greeting": `{"event":"STOP"}` + "\n", "silence": "",
		"refusal": greeting + "\n" + `{"error":{"class":"GenericError","desc":"no"},"id":0}` + "\n",
		"endless": `{"QMP":"` + strings.Repeat("x", qmp.MaxLine) + `"}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			here, there := net.Pipe()
			var group sync.WaitGroup
			group.Go(func() { _, _ = there.Write([]byte(hello)) })
			limit := time.Minute // for a busy machine; all but silence is refused at once
			if name == "silence" || name == "refusal" {
				limit = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			client, err := qmp.New(ctx, here)
			if err == nil {
				_ = client.Close()
				t.Error("accepted")
			}
			if want := qmp.ErrProtocol; name != "silence" && name != "refusal" && !errors.Is(err, want) {
				t.Errorf("%v", err)
			}
			_ = there.Close()
			group.Wait()
		})
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(greeting + "\r\n"))
	f.Add([]byte(`{"return": {}, "id": 1}` + "\n"))
	f.Add([]byte(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "DEVICE_DELETED", "data": {"path": "/machine"}}` + "\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "x"}}` + "\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		reader := bufio.NewReader(bytes.NewReader(input))
		for {
			e, err := qmp.ReadMessage(reader)
			if err != nil {
				return
			}
			if e.Name == "" {
				continue
			}
			encoded, err := json.Marshal(map[string]any{"event": e.Name, "data": e.Data})
			if err != nil {
				t.Fatalf("%+v: %v", e, err)
			}
			again, err := qmp.ReadMessage(bufio.NewReader(bytes.NewReader(append(encoded, '\n'))))
			if err != nil || again.Name != e.Name {
				t.Fatalf("%+v became %+v, %v", e, again, err)
			}
		}
	})
}
