package xapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

func TestLoginSendsFourArgumentsAndLogsOut(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	client, err := xapi.Dial(t.Context(), configFor(host))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(host.last("session.login_with_password").Params); got != "[root secret 1.0 understudy]" {
		t.Errorf("login sent %s", got)
	}
	if err := client.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(host.last("session.logout").Params); got != "[OpaqueRef:session]" {
		t.Errorf("logout sent %s", got)
	}
	if err := client.Call(t.Context(), "VM.get_all", nil); !errors.Is(err, xapi.ErrClosed) {
		t.Errorf("a call after Close gave %v", err)
	}
}

func TestBothErrorShapes(t *testing.T) {
	shapes := map[string]string{
		"object":     `{"jsonrpc":"2.0","error":{"code":1,"message":"VDI_IN_USE","data":["OpaqueRef:x","destroy"]},"id":7}`,
		"bare array": `{"jsonrpc":"2.0","error":["VDI_IN_USE","OpaqueRef:x","destroy"],"id":0}`,
		"version 1":  `{"result":null,"error":["VDI_IN_USE","OpaqueRef:x","destroy"],"id":null}`,
	}
	host := newFakeHost(t, "127.0.0.1:0")
	client := dial(t, configFor(host))
	for name, body := range shapes {
		host.on("VDI.destroy", verbatim(body))
		err := client.Call(t.Context(), "VDI.destroy", nil, xapi.Ref("OpaqueRef:x"))
		var failure *xapi.Error
		if !errors.As(err, &failure) || failure.Code != "VDI_IN_USE" || fmt.Sprint(failure.Params) != "[OpaqueRef:x destroy]" || failure.Method != "VDI.destroy" {
			t.Errorf("%s: %#v", name, err)
		}
		if !xapi.IsCode(err, "SR_FULL", "VDI_IN_USE") || xapi.IsCode(err, "SR_FULL") {
			t.Errorf("%s: IsCode is wrong about %v", name, err)
		}
	}
}

func TestRepliesThatAreNone(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	client := dial(t, configFor(host))
	for _, body := range []string{"", "null", "{}", "[]", `{"result":null}`, `{"error":[]}`, `{"error":{"code":1}}`, `{"error":7}`, "<html>", `{"result":`} {
		host.on("pool.get_all", verbatim(body))
		if err := client.Call(t.Context(), "pool.get_all", nil); !errors.Is(err, xapi.ErrMalformed) {
			t.Errorf("%q gave %v", body, err)
		}
	}
	host.on("pool.get_all", value(7))
	var refs []xapi.Ref
	if err := client.Call(t.Context(), "pool.get_all", &refs); err == nil {
		t.Error("a number was taken for a list of references")
	}
}

func TestHTMLErrorPage(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("VM.start", func(call) any {
		return reply(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "<html><body><h1>HTTP 500 internal server error</h1>An unexpected\n error</body></html>"+strings.Repeat("x", 1<<20))
		})
	})
	client := dial(t, configFor(host))
	err := client.Call(t.Context(), "VM.start", nil)
	var status *xapi.StatusError
	if !errors.As(err, &status) || status.Status != 500 || !strings.HasPrefix(status.Text, "HTTP 500 internal server error An unexpected error") || len(status.Text) > 500 {
		t.Errorf("got %v", err)
	}
	if host.count("VM.start") != 1 {
		t.Error("the call was repeated")
	}
}

func TestIntegersBeyondFloat(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("VDI.get_virtual_size", verbatim(`{"jsonrpc":"2.0","result":9007199254740993,"id":1}`))
	host.on("VDI.set_virtual_size", value(""))
	client := dial(t, configFor(host))
	var size int64
	if err := client.Call(t.Context(), "VDI.get_virtual_size", &size); err != nil || size != 1<<53+1 {
		t.Errorf("int64: %d, %v", size, err)
	}
	var loose any
	if err := client.Call(t.Context(), "VDI.get_virtual_size", &loose); err != nil || fmt.Sprint(loose) != "9007199254740993" {
		t.Errorf("any: %v, %v", loose, err)
	}
	if err := client.Call(t.Context(), "VDI.set_virtual_size", nil, int64(math.MaxInt64)); err != nil {
		t.Fatal(err)
	}
	if raw := host.last("VDI.set_virtual_size").raw; !strings.Contains(raw, ",9223372036854775807]") {
		t.Errorf("sent %s", raw)
	}
}

func TestHostIsSlaveLeadsToTheCoordinator(t *testing.T) {
	coordinator := newFakeHost(t, "127.0.0.1:0")
	supporter := newFakeHost(t, "127.0.0.2:"+coordinator.port())
	supporter.on("session.login_with_password", value(failure{"HOST_IS_SLAVE", "127.0.0.1"}))
	coordinator.on("pool.get_all", value([]string{"OpaqueRef:p"}))

	client := dial(t, configFor(supporter))
	if client.Address() != coordinator.address() {
		t.Errorf("logged in at %s, the coordinator is %s", client.Address(), coordinator.address())
	}
	if err := client.Call(t.Context(), "pool.get_all", nil); err != nil {
		t.Error(err)
	}

	// The coordinator changes: the old one now names the new one, even to a call that changes things.
	supporter.on("session.login_with_password", value("OpaqueRef:second"))
	supporter.on("VM.start", value(""))
	coordinator.on("session.login_with_password", value(failure{"HOST_IS_SLAVE", "127.0.0.2"}))
	coordinator.on("VM.start", value(failure{"HOST_IS_SLAVE", "127.0.0.2"}))
	if err := client.Call(t.Context(), "VM.start", nil); err != nil {
		t.Error(err)
	}
	if got := fmt.Sprint(supporter.last("VM.start").Params); got != "[OpaqueRef:second]" {
		t.Errorf("the new coordinator got %s", got)
	}
}

func TestHostIsSlaveInCircles(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("session.login_with_password", value(failure{"HOST_IS_SLAVE", "127.0.0.1"}))
	_, err := xapi.Dial(t.Context(), configFor(host))
	if err == nil || !strings.Contains(err.Error(), "no coordinator found") {
		t.Errorf("got %v", err)
	}
}

func TestSessionInvalidLogsInOnce(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("session.login_with_password", sequence(value("OpaqueRef:first"), value("OpaqueRef:second")))
	byReference := func(c call) any {
		if c.Params[0] == "OpaqueRef:second" {
			return "yes"
		}
		return failure{"SESSION_INVALID", "OpaqueRef:first"}
	}
	host.on("VM.start", byReference)
	client := dial(t, configFor(host))
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if err := client.Call(t.Context(), "VM.start", nil); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := host.count("session.login_with_password"); n != 2 {
		t.Errorf("%d logins, 2 were expected", n)
	}
	// A pool that calls every session invalid must not be asked for ever.
	host.on("VM.start", value(failure{"SESSION_INVALID", "x"}))
	if err := client.Call(t.Context(), "VM.start", nil); !xapi.IsCode(err, "SESSION_INVALID") {
		t.Errorf("got %v", err)
	}
	if n := host.count("session.login_with_password"); n != 3 {
		t.Errorf("%d logins, 3 were expected", n)
	}
}

func TestWrongPasswordIsAskedOnce(t *testing.T) {
	first, second := newFakeHost(t, "127.0.0.1:0"), newFakeHost(t, "127.0.0.1:0")
	for _, host := range []*fakeHost{first, second} {
		host.on("session.login_with_password", value(failure{"SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"}))
	}
	_, err := xapi.Dial(t.Context(), configFor(first, second))
	if !errors.Is(err, xapi.ErrAuthentication) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	if second.count("session.login_with_password") != 0 {
		t.Error("a wrong password was tried at the second host")
	}
}

func TestReadOnlyCallsSurviveACutConnection(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("VM.get_record", sequence(cut, cut, value(map[string]any{"uuid": "u"})))
	host.on("VM.start", cut)
	client := dial(t, configFor(host))
	var vm xapi.VM
	if err := client.Call(t.Context(), "VM.get_record", &vm, xapi.Ref("x")); err != nil || vm.UUID != "u" {
		t.Errorf("read: %v, %v", vm.UUID, err)
	}
	if err := client.Call(t.Context(), "VM.start", nil); !errors.Is(err, xapi.ErrOutcomeUnknown) {
		t.Errorf("start: %v", err)
	}
	if n := host.count("VM.start"); n != 1 {
		t.Errorf("VM.start was sent %d times", n)
	}
}

func TestUnreachableCoordinatorFailsOver(t *testing.T) {
	first, second := newFakeHost(t, "127.0.0.1:0"), newFakeHost(t, "127.0.0.1:0")
	second.on("VM.start", value("done"))
	// Without kept connections the call meets a refused connection for sure, not one that is just being cut.
	first.Config.SetKeepAlivesEnabled(false)
	client := dial(t, configFor(first, second))
	if client.Address() != first.address() {
		t.Fatal("the first address was not taken")
	}
	first.Close()
	var result string
	if err := client.Call(t.Context(), "VM.start", &result); err != nil || result != "done" {
		t.Errorf("got %q, %v", result, err)
	}
	if client.Address() != second.address() {
		t.Error("the client did not move")
	}
}

func TestHungHostTimesOut(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("VM.get_record", hang)
	host.on("VM.start", hang)
	config := configFor(host)
	config.CallTimeout = 200 * time.Millisecond
	client := dial(t, config)
	start := time.Now()
	if err := client.Call(t.Context(), "VM.get_record", nil); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, xapi.ErrOutcomeUnknown) {
		t.Errorf("read: %v", err)
	}
	if err := client.Call(t.Context(), "VM.start", nil); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, xapi.ErrOutcomeUnknown) {
		t.Errorf("start: %v", err)
	}
	if elapsed := time.Since(start); elapsed > 2*time.Second {
		t.Errorf("the two calls took %v", elapsed)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := client.Call(ctx, "VM.start", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A host may answer a caller that has gone with nothing; whether that or the end of the connection is read first is chance.
func TestEmptyAnswerToCancelledCall(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	host.on("VM.start", verbatim(""))
	client := dial(t, configFor(host))
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: cancel})
		if err := client.Call(ctx, "VM.start", nil); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestSizeLimits(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	config := configFor(host)
	config.CallTimeout = time.Minute // 64 MiB take long on a busy machine
	client := dial(t, config)
	if err := client.Call(t.Context(), "VM.set_tags", nil, strings.Repeat("x", 300<<10)); !errors.Is(err, xapi.ErrTooLarge) {
		t.Errorf("request: %v", err)
	}
	if host.count("VM.set_tags") != 0 {
		t.Error("an oversized request was sent")
	}
	host.on("VM.get_all", func(call) any {
		return reply(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(64<<20+1))
			w.WriteHeader(http.StatusOK)
		})
	})
	if err := client.Call(t.Context(), "VM.get_all", nil); !errors.Is(err, xapi.ErrTooLarge) {
		t.Errorf("declared reply: %v", err)
	}
	block := bytes.Repeat([]byte(" "), 1<<20)
	var written atomic.Int64
	host.on("VM.get_all", func(call) any {
		return reply(func(w http.ResponseWriter, _ *http.Request) {
			for range 256 {
				n, err := w.Write(block)
				written.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
	})
	if err := client.Call(t.Context(), "VM.get_all", nil); !errors.Is(err, xapi.ErrTooLarge) {
		t.Errorf("endless reply: %v", err)
	}
	if n := host.count("VM.get_all"); n != 2 {
		t.Errorf("an oversized reply was asked for %d times", n)
	}
}

func TestAtMostTwentyCallsAtOnce(t *testing.T) {
	host := newFakeHost(t, "127.0.0.1:0")
	var running, peak, waiting atomic.Int64
	host.on("VM.get_all", func(call) any {
		now := running.Add(1)
		defer running.Add(-1)
		for old := peak.Load(); now > old && !peak.CompareAndSwap(old, now); old = peak.Load() {
		}
		time.Sleep(20 * time.Millisecond)
		return []string{}
	})
	host.on("event.from", func(c call) any {
		waiting.Add(1)
		return hang(c)
	})
	client := dial(t, configFor(host))
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 30 {
		group.Go(func() { _, _ = client.Events(ctx, []string{"vm"}, "t", time.Minute) })
	}
	for range 60 {
		group.Go(func() {
			if err := client.Call(t.Context(), "VM.get_all", nil); err != nil {
				t.Error(err)
			}
		})
	}
	for deadline := time.Now().Add(5 * time.Second); host.count("VM.get_all") < 60 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	if n := host.count("VM.get_all"); n != 60 {
		t.Errorf("waits for events starved the calls: %d of 60", n)
	}
	cancel()
	group.Wait()
	if peak.Load() > 20 {
		t.Errorf("%d calls at once", peak.Load())
	}
	if waiting.Load() > 10 {
		t.Errorf("%d waits for events were sent, 10 at once were expected", waiting.Load())
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := strings.Repeat("ab", 32)
	for name, config := range map[string]xapi.Config{
		"no address":      {Fingerprints: []string{good}},
		"no fingerprint":  {Addresses: []string{"h"}},
		"bad fingerprint": {Addresses: []string{"h"}, Fingerprints: []string{"abcd"}},
		"bad address":     {Addresses: []string{"a:b:c"}, Fingerprints: []string{good}},
		"a URL":           {Addresses: []string{"https://h/"}, Fingerprints: []string{good}},
	} {
		if _, err := xapi.Dial(t.Context(), config); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestConnectionRefusedNamesEveryAddress(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = xapi.Dial(t.Context(), xapi.Config{Addresses: []string{dead, "127.0.0.1:1"}, Fingerprints: []string{strings.Repeat("ab", 32)}})
	if err == nil || !strings.Contains(err.Error(), dead) || !strings.Contains(err.Error(), "127.0.0.1:1:") {
		t.Errorf("got %v", err)
	}
}
