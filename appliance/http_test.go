package appliance_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/appliance/control"
)

// raw makes requests that the client would not make.
func (d *delegate) raw(method, path string, body io.Reader, length int64) (status int, answer string) {
	d.t.Helper()
	transport := &http.Transport{TLSClientConfig: d.orchestrator.ClientTLS(d.identity.Fingerprint, control.ALPN), TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(d.t.Context(), method, "https://"+d.address+path, body)
	if err != nil {
		d.t.Fatal(err)
	}
	request.ContentLength = length
	response, err := transport.RoundTrip(request)
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestMalformedRequests(t *testing.T) {
	d, key := launch(t), newKey(t)
	setKey(t, key, d)
	d.plug(4, image(t, noise(1, diskSize)))
	spec := scanSpec("scan", key, diskSize)
	spec.Known = true
	d.post(spec)
	good := `{"key":"` + strings.Repeat("A", 43) + `=","id":"0011223344556677"}`
	for name, test := range map[string]struct {
		method, path, body string
		length             int64 // 0: the body's; -1: not told
		status             int
		want               string
	}{
		"not JSON":           {"POST", "/v1/tasks", "{", 0, 400, "request body"},
		"unknown field":      {"POST", "/v1/tasks", `{"id":"a","colour":"red"}`, 0, 400, "colour"},
		"something follows":  {"PUT", "/v1/key", good + "{}", 0, 400, "follows"},
		"wrong key id":       {"PUT", "/v1/key", good, 0, 400, "0011223344556677"},
		"short key":          {"PUT", "/v1/key", `{"key":"QUJD","id":"0011223344556677"}`, 0, 400, "32"},
		"large JSON":         {"PUT", "/v1/key", `{"key":"` + strings.Repeat("A", control.MaxJSON) + `"}`, 0, 413, "larger"},
		"large blocks":       {"PUT", "/v1/tasks/scan/blocks", strings.Repeat("x", control.MaxBlocks+1), 0, 413, "larger"},
		"blocks not told":    {"PUT", "/v1/tasks/scan/blocks", "x", -1, 400, "Content-Length"},
		"blocks not records": {"PUT", "/v1/tasks/scan/blocks", strings.Repeat("x", 100), 0, 400, "record"},
		"known too long":     {"PUT", "/v1/tasks/scan/known", strings.Repeat("x", 1000), 0, 400, "1000 bytes"},
		"known not told":     {"PUT", "/v1/tasks/scan/known", strings.Repeat("x", 96), -1, 400, "bytes"},
		"not announced":      {"PUT", "/v1/tasks/scan/baseline", strings.Repeat("x", 96), 0, 409, "announced no baseline"},
		"no such sink":       {"PUT", "/v1/tasks/scan/baseline?sink=1", "", 0, 404, "no number 1"},
		"sink":               {"PUT", "/v1/tasks/scan/baseline?sink=x", "", 0, 400, "query sink"},
		"wait":               {"GET", "/v1/events?wait=long", "", 0, 400, "query wait"},
		"negative wait":      {"GET", "/v1/events?wait=-1s", "", 0, 400, "query wait"},
		"after":              {"GET", "/v1/events?after=-1", "", 0, 400, "query after"},
		"no journal":         {"GET", "/v1/tasks/scan/journal", "", 0, 409, "keeps no journal"},
		"no manifest":        {"GET", "/v1/tasks/scan/wanted", "", 0, 409, "trusted by no manifest"},
		"page of nothing":    {"GET", "/v1/tasks/scan/journal?max=0", "", 0, 400, "query max"},
		"device":             {"POST", "/v1/devices/xvda/detach", "", 0, 400, "no number"},
		"method":             {"PATCH", "/v1/status", "", 0, 404, "no call"},
	} {
		t.Run(name, func(t *testing.T) {
			length := test.length
			if length == 0 {
				length = int64(len(test.body))
			}
			status, answer := d.raw(test.method, test.path, strings.NewReader(test.body), length)
			if status != test.status || !strings.Contains(answer, test.want) || !strings.Contains(answer, `"code"`) {
				t.Errorf("answer is %d %s, want %d with %q", status, answer, test.status, test.want)
			}
			if strings.Contains(answer, strings.Repeat("A", 20)) {
				t.Errorf("the answer shows the key: %s", answer)
			}
		})
	}
	if _, err := d.CancelTask(t.Context(), "scan"); err != nil {
		t.Fatal(err)
	}
}
