package xapisim_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/understudy-dr/understudy/qemu-tests/worlds/standin"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestMain(m *testing.M) {
	standin.RunIfGuest()
	goleak.VerifyTestMain(m)
}

const (
	mib     = 1 << 20
	nullRef = "OpaqueRef:NULL"
)

// newPool builds a pool with short delays; the test ends with it closed.
func newPool(t *testing.T, config xapisim.Config) *xapisim.Pool {
	t.Helper()
	config.Name, config.Dir = "pool", t.TempDir()
	if config.SRs == nil {
		config.SRs = []xapisim.SRConfig{{Name: "shared", Shared: true}, {Name: "local"}}
	}
	if config.AuthDelay == 0 {
		config.AuthDelay = time.Millisecond
	}
	if config.EventDelay == 0 {
		config.EventDelay = time.Millisecond
	}
	pool, err := xapisim.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// apiError is an error of the XenAPI as a client sees it.
type apiError struct {
	code   string
	params []string
}

func (e *apiError) Error() string { return fmt.Sprint(e.code, e.params) }

// client speaks JSON-RPC 2.0 to one address. It is the tests' own, so that simulator and product cannot agree on a
// mistake.
type client struct {
	t       *testing.T
	url     string
	http    *http.Client
	session string
}

func dial(t *testing.T, address, fingerprint string) *client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, // pinned below
		VerifyConnection: func(state tls.ConnectionState) error {
			if sum := sha256.Sum256(state.PeerCertificates[0].Raw); hex.EncodeToString(sum[:]) != fingerprint {
				return errors.New("another certificate")
			}
			return nil
		},
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{t: t, url: "https://" + address + "/jsonrpc", http: &http.Client{Transport: transport}}
}

// connect logs in at the coordinator.
func connect(t *testing.T, pool *xapisim.Pool) *client {
	t.Helper()
	c := dial(t, pool.Address(), pool.Fingerprint())
	c.session = c.text("session.login_with_password", "root", "xenroot", "1.0", "test")
	return c
}

// post sends a body and gives the answer as it came.
func (c *client) post(body string) (status int, answer []byte) {
	c.t.Helper()
	response, err := c.http.Post(c.url, "application/json", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return response.StatusCode, answer
}

// raw makes a call with exactly these arguments.
func (c *client) raw(method string, args ...any) (any, error) {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": args, "id": 1})
	if err != nil {
		return nil, err
	}
	response, err := c.http.Post(c.url, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", method, response.Status)
	}
	decoder := json.NewDecoder(response.Body)
	decoder.UseNumber()
	var answer struct {
		Result any `json:"result"`
		Error  *struct {
			Message string   `json:"message"`
			Data    []string `json:"data"`
		} `json:"error"`
	}
	if err := decoder.Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != nil {
		return nil, &apiError{answer.Error.Message, answer.Error.Data}
	}
	return answer.Result, nil
}

// try makes a call with the session put first.
func (c *client) try(method string, args ...any) (any, error) {
	if strings.HasPrefix(method, "session.login") {
		return c.raw(method, args...)
	}
	return c.raw(method, append([]any{c.session}, args...)...)
}

// call is try for calls that must succeed.
func (c *client) call(method string, args ...any) any {
	c.t.Helper()
	result, err := c.try(method, args...)
	if err != nil {
		c.t.Fatalf("%s%v: %v", method, args, err)
	}
	return result
}

func (c *client) text(method string, args ...any) string {
	c.t.Helper()
	text, ok := c.call(method, args...).(string)
	if !ok {
		c.t.Fatalf("%s gives no string", method)
	}
	return text
}

func (c *client) list(method string, args ...any) []string {
	c.t.Helper()
	items, ok := c.call(method, args...).([]any)
	if !ok {
		c.t.Fatalf("%s gives no array", method)
	}
	out := []string{}
	for _, item := range items {
		out = append(out, fmt.Sprint(item))
	}
	return out
}

func (c *client) record(class, ref string) map[string]any {
	c.t.Helper()
	record, ok := c.call(class+".get_record", ref).(map[string]any)
	if !ok {
		c.t.Fatalf("%s.get_record gives no object", class)
	}
	return record
}

// refuse wants an API error of a code, and of these parameters if any are given.
func (c *client) refuse(code string, params []string, method string, args ...any) {
	c.t.Helper()
	result, err := c.try(method, args...)
	e, ok := errors.AsType[*apiError](err)
	if !ok || e.code != code || params != nil && !slices.Equal(e.params, params) {
		c.t.Errorf("%s%v: %v, %v; want %s%v", method, args, result, err, code, params)
	}
}

// one is the only object of a class, or the one of a name.
func (c *client) one(class string, name ...string) string {
	c.t.Helper()
	var refs []string
	if len(name) > 0 {
		refs = c.list(class+".get_by_name_label", name[0])
	} else {
		refs = c.list(class + ".get_all")
	}
	if len(refs) != 1 {
		c.t.Fatalf("%d objects of class %s", len(refs), class)
	}
	return refs[0]
}

// eventually waits for a condition that a guest or a goroutine brings about.
func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !met(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain waited for: " + what)
		}
	}
}

// newVDI creates a disk; newVBD gives it to a VM.
func (c *client) newVDI(sr string, size int64, otherConfig ...string) string {
	c.t.Helper()
	config := map[string]string{}
	for _, key := range otherConfig {
		config[key] = "set"
	}
	return c.text("VDI.create", map[string]any{
		"name_label": "disk", "SR": sr, "virtual_size": size, "type": "user", "sharable": false, "read_only": false, "other_config": config,
	})
}

func (c *client) newVBD(vm, vdi, device, mode string) string {
	c.t.Helper()
	return c.text("VBD.create", vbd(vm, vdi, device, mode))
}

func vbd(vm, vdi, device, mode string) map[string]any {
	return map[string]any{
		"VM": vm, "VDI": vdi, "userdevice": device, "bootable": false, "mode": mode, "type": "Disk", "empty": vdi == nullRef,
		"other_config": map[string]string{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]string{},
	}
}

// addVM puts a VM into a pool and gives its reference.
func addVM(t *testing.T, pool *xapisim.Pool, config xapisim.VMConfig) string {
	t.Helper()
	added, err := pool.AddVM(config)
	if err != nil {
		t.Fatal(err)
	}
	return added.Ref
}
