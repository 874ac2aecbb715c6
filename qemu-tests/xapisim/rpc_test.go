package xapisim_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

func TestEnvelopes(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	for _, test := range []struct{ request, answer string }{
		{`{"jsonrpc":"2.0","method":"foo.bar","params":[],"id":7}`,
			`{"jsonrpc":"2.0","error":{"code":1,"message":"MESSAGE_METHOD_UNKNOWN","data":["foo.bar"]},"id":7}`},
		{`{"method":"foo.bar","params":[],"id":"x"}`, `{"result":null,"error":["MESSAGE_METHOD_UNKNOWN","foo.bar"],"id":"x"}`},
		{`{"jsonrpc":"2.0","method":"VM.get_by_name_label","params":["` + c.session + `","nope"],"id":1}`, `{"jsonrpc":"2.0","result":[],"id":1}`},
		{`{"method":"VM.get_by_name_label","params":["` + c.session + `","nope"],"id":1}`, `{"result":[],"error":null,"id":1}`},
		{`{"jsonrpc":"2.0","method":"VM.get_all","params":{"session":"x"},"id":1}`,
			`{"jsonrpc":"2.0","error":{"code":1,"message":"INTERNAL_ERROR","data":["Failure(\"Expected string, got '{session:S(x)}'\")"]},"id":1}`},
		{`{"jsonrpc":"2.0","method":"VM.get_all","id":1}`,
			`{"jsonrpc":"2.0","error":{"code":1,"message":"MESSAGE_PARAMETER_COUNT_MISMATCH","data":["VM.get_all","0","-1"]},"id":1}`},
	} {
		status, answer := c.post(test.request)
		var got, want any
		if err := json.Unmarshal(answer, &got); err != nil || status != http.StatusOK {
			t.Errorf("%s: %d %s", test.request, status, answer)
			continue
		}
		if err := json.Unmarshal([]byte(test.answer), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s\n got %s\nwant %s", test.request, answer, test.answer)
		}
	}
}

func TestMalformedRequests(t *testing.T) {
	c := connect(t, newPool(t, xapisim.Config{}))
	for _, body := range []string{
		``, `{not json`, `[]`, `[{"jsonrpc":"2.0","method":"host.get_all","params":["x"],"id":1}]`, `"text"`,
		`{"jsonrpc":"2.0","method":"host.get_all","params":["x"]}`,
		`{"jsonrpc":"2.0","method":"host.get_all","params":["x"],"id":null}`,
		`{"jsonrpc":"2.0","method":"host.get_all","params":["x"],"id":1.5}`,
		`{"jsonrpc":"1.0","method":"host.get_all","params":["x"],"id":1}`,
		`{"method":"host.get_all","id":1}`,
		`{"jsonrpc":"2.0","method":"host.get_all","params":[1180591620717411303424],"id":1}`,
		`{"jsonrpc":"2.0","method":"host.get_all","params":["a\ud800b"],"id":1}`,
		`{"jsonrpc":"2.0","method":"host.get_all","params":["x"],"id":1} {}`,
		`{"jsonrpc":"2.0","method":"host.get_all","params":["` + strings.Repeat("x", 301<<10) + `"],"id":1}`,
	} {
		status, answer := c.post(body)
		if status != http.StatusInternalServerError || !strings.HasPrefix(string(answer), "<html>") {
			t.Errorf("%.80s: %d %.80s", body, status, answer)
		}
	}
	response, err := c.http.Get(c.url)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("GET: %s", response.Status)
	}
	chunked, err := c.http.Post(c.url, "application/json", io.MultiReader(strings.NewReader(`{"method":"foo.bar","params":[],"id":1}`)))
	if err != nil {
		t.Fatal(err)
	}
	_ = chunked.Body.Close()
	if chunked.StatusCode != http.StatusInternalServerError {
		t.Errorf("a chunked request: %s", chunked.Status)
	}
}

func TestSurrogatePairsAreText(t *testing.T) {
	c := connect(t, newPool(t, xapisim.Config{}))
	status, answer := c.post(`{"jsonrpc":"2.0","method":"VM.get_by_name_label","params":["` + c.session + `","\ud83d\ude00 \\ud800"],"id":1}`)
	if status != http.StatusOK || !strings.Contains(string(answer), `"result":[]`) {
		t.Errorf("%d %s", status, answer)
	}
}

func TestArguments(t *testing.T) {
	c := connect(t, newPool(t, xapisim.Config{}))
	vm := c.one("VM") // the control domain
	c.refuse("MESSAGE_PARAMETER_COUNT_MISMATCH", []string{"VM.get_record", "1", "0"}, "VM.get_record")
	c.refuse("MESSAGE_PARAMETER_COUNT_MISMATCH", []string{"VM.start", "3", "4"}, "VM.start", vm, false, false, "x")
	c.refuse("MESSAGE_METHOD_UNKNOWN", []string{"vm.get_all"}, "vm.get_all")
	c.refuse("MESSAGE_METHOD_UNKNOWN", []string{"VM.frob"}, "Async.VM.frob")
	c.refuse("Fault", []string{"No async mode for this operation (rpc: VM.get_record)"}, "Async.VM.get_record", vm)
	c.refuse("MESSAGE_REMOVED", []string{}, "VBD.get_metrics", nullRef)
	c.refuse("NOT_IMPLEMENTED", []string{"VM.send_sysrq"}, "VM.send_sysrq", vm, "x")
	c.refuse("HANDLE_INVALID", []string{"VM", nullRef}, "VM.get_record", nullRef)
	c.refuse("UUID_INVALID", []string{"VM", "x"}, "VM.get_by_uuid", "x")
	c.refuse("INTERNAL_ERROR", []string{`Failure("Expected string, got 'I(5)'")`}, "VM.get_record", 5)
	c.refuse("INTERNAL_ERROR", []string{`Failure("Expecting Rpc.Dict, but found 'N'")`}, "VM.set_other_config", vm, nil)
	c.refuse("INTERNAL_ERROR", []string{`Failure("Expected string, got 'I(1)'")`}, "VM.set_other_config", vm, map[string]int{"a": 1})
	c.refuse("INTERNAL_ERROR", []string{`Failure("Unknown tag/contents")`}, "VM.set_blocked_operations", vm, map[string]string{"frob": "x"})
	c.refuse("INTERNAL_ERROR", []string{"Db_exn.Invalid_value"}, "VM.set_name_label", vm, "a\x01b")
	c.refuse("INTERNAL_ERROR", []string{`Failure("Expected bool, got 'S(true)'")`}, "VM.set_is_a_template", vm, "true")
}

func TestSessions(t *testing.T) {
	pool := newPool(t, xapisim.Config{AuthDelay: 60 * time.Millisecond})
	c := connect(t, pool)
	before := time.Now()
	c.refuse("SESSION_AUTHENTICATION_FAILED", []string{"root", "Authentication failure"}, "session.login_with_password", "root", "wrong")
	if time.Since(before) < 60*time.Millisecond {
		t.Error("a wrong password was answered at once")
	}
	if got := c.text("session.get_this_host", c.session); got != c.one("host") {
		t.Errorf("this host is %s", got)
	}
	session := c.session
	c.call("session.logout")
	c.refuse("SESSION_INVALID", []string{session}, "VM.get_all")
	c.refuse("SESSION_INVALID", []string{session}, "session.logout")
	c.session = "garbage"
	c.refuse("SESSION_INVALID", []string{"garbage"}, "Async.VM.start", nullRef, false, false)
}

func TestIdleSessionsExpire(t *testing.T) {
	c := connect(t, newPool(t, xapisim.Config{SessionLifetime: 40 * time.Millisecond}))
	time.Sleep(60 * time.Millisecond)
	c.refuse("SESSION_INVALID", []string{c.session}, "VM.get_all")
}

func TestSupportersSendClientsToTheCoordinator(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 3})
	coordinator, port, err := net.SplitHostPort(pool.Address())
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, pool)
	addresses := map[string]bool{}
	for n, address := range pool.Addresses() {
		ip, p, err := net.SplitHostPort(address)
		if err != nil || p != port {
			t.Errorf("%s has another port, %v", address, err)
		}
		addresses[ip] = true
		if n == 0 {
			continue
		}
		supporter := dial(t, address, pool.Fingerprints()[n])
		request, err := http.NewRequest(http.MethodPost, supporter.url, strings.NewReader(`{"method":"session.login_with_password","params":["a","b"],"id":1}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-XenAPI-Request-Host-Certificate-Thumbprint", "sha-256:master")
		response, err := supporter.http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if got := response.Header.Get("X-XenAPI-Response-Host-Certificate-Thumbprint"); got != pool.Fingerprint() {
			t.Errorf("the coordinator's thumbprint is %q", got)
		}
		supporter.refuse("HOST_IS_SLAVE", []string{coordinator}, "session.login_with_password", "root", "xenroot")
		supporter.session = c.session
		supporter.refuse("HOST_IS_SLAVE", []string{coordinator}, "VM.get_all")
	}
	for _, host := range c.list("host.get_all") {
		if address := c.text("host.get_address", host); !addresses[address] {
			t.Errorf("a host claims the address %s", address)
		}
	}
}

func TestCertificates(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2})
	c := connect(t, pool)
	if prints := pool.Fingerprints(); prints[0] == prints[1] || prints[0] != pool.Fingerprint() {
		t.Errorf("fingerprints %v", prints)
	}
	for _, host := range c.list("host.get_all") {
		if pem := c.text("host.get_server_certificate", host); !strings.HasPrefix(pem, "-----BEGIN CERTIFICATE-----") {
			t.Errorf("certificate %q", pem)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for want, config := range map[string]xapisim.Config{
		"Dir":     {},
		"hosts":   {Dir: t.TempDir(), Hosts: 100},
		"garbage": {Dir: t.TempDir(), SRs: []xapisim.SRConfig{{Name: "a", Type: "ext", Garbage: true}}},
		"host 3":  {Dir: t.TempDir(), SRs: []xapisim.SRConfig{{Name: "a", Host: 3}}},
		"Address": {Dir: t.TempDir(), Address: "::1"},
	} {
		if pool, err := xapisim.New(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
			if err == nil {
				pool.Close()
			}
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, body := range []string{
		`{"jsonrpc":"2.0","method":"VM.start","params":["OpaqueRef:x",{"a":[1,2.5,null]},true],"id":1}`,
		`{"method":"VM.get_all","params":["\ud83d\ude00","20250319T04:16:24Z","RW","9223372036854775807"],"id":"x"}`,
		`[]`, `{"method":1}`, `{"jsonrpc":"2.0","method":"m","params":["\ud800"],"id":1}`, `{"method":"m","params":["1e999",1e999],"id":0}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		answers, err := xapisim.DecodeRequest(body)
		if err != nil {
			if len(answers) != 0 {
				t.Fatal("answers beside an error")
			}
			return
		}
		for _, answer := range answers {
			if !json.Valid(answer) {
				t.Fatalf("%s", answer)
			}
		}
	})
}
