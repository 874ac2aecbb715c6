package xapi_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// silent swallows what a server says of handshakes that are meant to fail.
var silent = log.New(io.Discard, "", 0)

// call is what the fake host was asked.
type call struct {
	Method string `json:"method"`
	Params []any  `json:"params"`
	raw    string
}

// failure is an answer of the API that is an error.
type failure []string

// reply writes an answer in its own way, for those that are no proper envelope.
type reply func(w http.ResponseWriter, r *http.Request)

// fakeHost is an HTTPS server that answers JSON-RPC calls from functions, one a method. It is no XenAPI: each test
// says what is answered.
type fakeHost struct {
	*httptest.Server
	mu      sync.Mutex
	methods map[string]func(call) any
	log     []call
	upload  http.HandlerFunc // of PUT /import
}

func newFakeHost(t *testing.T, address string) *fakeHost {
	t.Helper()
	return newFakeHostWith(t, address, tls.Certificate{})
}

// newCertificate makes a certificate that no other host has; httptest gives all its servers the same.
func newCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// newFakeHostWith has a certificate of its own; the zero one is httptest's.
func newFakeHostWith(t *testing.T, address string, certificate tls.Certificate) *fakeHost {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	host := &fakeHost{methods: map[string]func(call) any{
		"session.login_with_password": func(call) any { return "OpaqueRef:session" },
		"session.logout":              func(call) any { return "" },
	}}
	host.Server = httptest.NewUnstartedServer(http.HandlerFunc(host.serve))
	host.Listener = listener
	host.Config.ErrorLog = silent
	if certificate.Certificate != nil {
		host.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	host.StartTLS()
	t.Cleanup(host.Close)
	return host
}

func (h *fakeHost) address() string { return h.Listener.Addr().String() }

func (h *fakeHost) port() string {
	_, port, _ := net.SplitHostPort(h.address())
	return port
}

func (h *fakeHost) fingerprint() string {
	sum := sha256.Sum256(h.TLS.Certificates[0].Certificate[0])
	return hex.EncodeToString(sum[:])
}

// on sets the answer of a method: a value, a failure or a reply.
func (h *fakeHost) on(method string, answer func(call) any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.methods[method] = answer
}

// count is how often a method was asked for.
func (h *fakeHost) count(method string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, c := range h.log {
		if c.Method == method {
			n++
		}
	}
	return n
}

func (h *fakeHost) last(method string) call {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found call
	for _, c := range h.log {
		if c.Method == method {
			found = c
		}
	}
	return found
}

func (h *fakeHost) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/import" && r.Method == http.MethodPut && h.upload != nil {
		h.upload(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Path != "/jsonrpc" || r.ContentLength <= 0 {
		http.Error(w, "bad request", http.StatusInternalServerError)
		return
	}
	c := call{raw: string(body)}
	if err := json.Unmarshal(body, &c); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.mu.Lock()
	h.log = append(h.log, c)
	answer := h.methods[c.Method]
	h.mu.Unlock()
	var result any = failure{"MESSAGE_METHOD_UNKNOWN", c.Method}
	if answer != nil {
		result = answer(c)
	}
	envelope := map[string]any{"jsonrpc": "2.0", "id": 1}
	switch result := result.(type) {
	case reply:
		result(w, r)
		return
	case failure:
		envelope["error"] = map[string]any{"code": 1, "message": result[0], "data": []string(result[1:])}
	default:
		envelope["result"] = result
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(envelope)
}

// verbatim answers with a body as it stands.
func verbatim(body string) func(call) any {
	return func(call) any {
		return reply(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
	}
}

// cut breaks the connection instead of answering.
func cut(call) any {
	return reply(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	})
}

// hang answers only when the caller has gone.
func hang(call) any {
	return reply(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
}

// sequence gives one answer after the other, then the last for ever.
func sequence(answers ...func(call) any) func(call) any {
	var mu sync.Mutex
	next := 0
	return func(c call) any {
		mu.Lock()
		answer := answers[min(next, len(answers)-1)]
		next++
		mu.Unlock()
		return answer(c)
	}
}

func value(v any) func(call) any { return func(call) any { return v } }

func configFor(hosts ...*fakeHost) xapi.Config {
	config := xapi.Config{Username: "root", Password: "secret", CallTimeout: 5 * time.Second}
	for _, host := range hosts {
		config.Addresses = append(config.Addresses, host.address())
		config.Fingerprints = append(config.Fingerprints, host.fingerprint())
	}
	return config
}

func dial(t *testing.T, config xapi.Config) *xapi.Client {
	t.Helper()
	client, err := xapi.Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Errorf("close: %v", err)
		}
	})
	return client
}
