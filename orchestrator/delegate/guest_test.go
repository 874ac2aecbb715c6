package delegate_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// scriptedWorld starts guests that do what a script says: those that no honest delegate would be.
type scriptedWorld func(g *scriptedGuest)

func (w scriptedWorld) Start(_ context.Context, m xapisim.Machine) (xapisim.Guest, error) {
	g := &scriptedGuest{Machine: m, tree: maps.Clone(m.Data), changed: make(chan struct{}, 1), gone: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(g.done)
		w(g)
		<-g.gone
		g.group.Wait()
	}()
	return g, nil
}

type scriptedGuest struct {
	xapisim.Machine
	changed, gone, done chan struct{}
	end                 sync.Once
	group               sync.WaitGroup

	mu   sync.Mutex
	tree map[string]string
}

// publish sets a key of the guest's tree.
func (g *scriptedGuest) publish(key, value string) {
	g.mu.Lock()
	g.tree[key] = value
	g.mu.Unlock()
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// in reads an input.
func (g *scriptedGuest) in(name string) string { return g.Data[control.InputPrefix+name] }

// identity is the one that an honest guest with this key publishes.
func (g *scriptedGuest) identity(fingerprint netproto.Fingerprint) control.Identity {
	return control.Identity{Version: "scripted", Nonce: g.in(control.InputNonce), Fingerprint: fingerprint, UniqueDomainID: g.UniqueDomainID}
}

// status is what an honest guest answers.
func (g *scriptedGuest) status() control.Status {
	input := map[string]string{}
	for _, name := range []string{control.InputNonce, control.InputOrchestrator, control.InputAddress} {
		input[name] = g.in(name)
	}
	return control.Status{
		Version: "scripted", Protocol: control.Version{Major: netproto.VersionMajor}, Nonce: g.in(control.InputNonce),
		ConfigurationHash: control.ConfigurationHash(input), VM: g.UUID, UniqueDomainID: g.UniqueDomainID,
	}
}

// serve answers on the guest's address as id, until the guest is gone.
func (g *scriptedGuest) serve(id *netproto.Identity, status control.Status) error {
	address, err := netip.ParsePrefix(g.in(control.InputAddress))
	if err != nil {
		return err
	}
	return g.serveAt(address.Addr().String(), id, status)
}

// serveAt is serve on another address.
func (g *scriptedGuest) serveAt(address string, id *netproto.Identity, status control.Status) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(control.Port)))
	if err != nil {
		return err
	}
	answer := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/status":
			_ = json.NewEncoder(w).Encode(status) // the client sees what is missing
		case "/v1/devices":
			_, _ = w.Write([]byte("[]")) // likewise
		case "/v1/poweroff":
			defer g.powerOff("told to")
		}
	}
	server := &http.Server{Handler: http.HandlerFunc(answer)}
	secure := tls.NewListener(listener, id.ServerTLS(func(netproto.Fingerprint) bool { return true }, control.ALPN))
	g.group.Go(func() { _ = server.Serve(plainListener{secure}) })
	g.group.Go(func() {
		<-g.gone
		_ = server.Close() // it was only for this guest
	})
	return nil
}

// plainListener hides from net/http that its connections are TLS: it closes those of a protocol that it does not know.
type plainListener struct{ net.Listener }

func (l plainListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return struct{ net.Conn }{conn}, err
}

func (g *scriptedGuest) powerOff(cause string) {
	g.publish(control.CauseKey, cause)
	g.end.Do(func() { close(g.gone) })
}

func (g *scriptedGuest) Kill() error {
	g.end.Do(func() { close(g.gone) })
	return nil
}

func (g *scriptedGuest) Tree() (map[string]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.tree), nil
}

func (g *scriptedGuest) SetData(map[string]string) error {
	return errors.New("vm-data of a running delegate must not be rewritten")
}

func (g *scriptedGuest) Plug(context.Context, xapisim.Disk) error { return nil }
func (g *scriptedGuest) Unplug(context.Context, string) error     { return nil }
func (g *scriptedGuest) Changed() <-chan struct{}                 { return g.changed }
func (g *scriptedGuest) Done() <-chan struct{}                    { return g.done }
func (g *scriptedGuest) Pause() error                             { return nil }
func (g *scriptedGuest) Unpause() error                           { return nil }
func (g *scriptedGuest) Shutdown(context.Context) error           { return nil }

// honest is the script of a delegate that comes up at once.
func honest(t *testing.T) scriptedWorld {
	return scripted(t, func(g *scriptedGuest, id *netproto.Identity) error {
		if err := g.serve(id, g.status()); err != nil {
			return err
		}
		g.publish("feature/hotplug/vbd", "1")
		g.publish(control.IdentityKey, g.identity(id.Fingerprint()).String())
		return nil
	})
}

// scripted gives a script a key pair.
func scripted(t *testing.T, script func(g *scriptedGuest, id *netproto.Identity) error) scriptedWorld {
	return func(g *scriptedGuest) {
		id, err := netproto.NewIdentity()
		if err == nil {
			err = script(g, id)
		}
		if err != nil {
			t.Error("scripted guest:", err)
		}
	}
}

// within fails the test when f takes longer.
func within(t *testing.T, limit time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > limit {
		t.Errorf("took %v, more than %v", took, limit)
	}
}
