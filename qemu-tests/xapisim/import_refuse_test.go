package xapisim_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// objects counts what an import makes, and the files of disks.
func objects(t *testing.T, c *client, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.raw"))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(len(files), " files")
	for _, class := range []string{"VM", "VM_metrics", "VDI", "VBD", "VIF", "network"} {
		text += fmt.Sprint(", ", len(c.call(class+".get_all_records").(map[string]any)), " ", class)
	}
	return text
}

func errorInfo(task map[string]any) []string {
	var out []string
	for _, item := range task["error_info"].([]any) {
		out = append(out, fmt.Sprint(item))
	}
	return out
}

// damage changes a copy of a file.
func damage(file []byte, f func([]byte)) []byte {
	file = bytes.Clone(file)
	f(file)
	return file
}

func TestImportRefusesBadFiles(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	file := image(t, imageContent(t, 4*mib))
	first := bytes.Index(file, []byte("Ref:0003/00000000\x00"))
	second := bytes.Index(file, []byte("Ref:0003/00000003\x00"))
	before := objects(t, c, pool.Dir())
	for name, test := range map[string]struct {
		file []byte
		want []string
	}{
		"altered data": {damage(file, func(b []byte) { b[first+512+77] ^= 1 }), []string{"IMPORT_ERROR",
			`INTERNAL_ERROR: [ Stream_vdi.Invalid_checksum("Block Ref:0003/00000000 checksum failed: original = `}},
		"a dangling reference": {bytes.Replace(file, []byte("<name>VDI</name><value>Ref:0003"), []byte("<name>VDI</name><value>Ref:0009"), 1),
			[]string{"IMPORT_ERROR_FAILED_TO_FIND_OBJECT", "Ref:0009"}},
		"a field of the wrong type": {bytes.Replace(file, []byte("<name>VCPUs_max</name><value>2"), []byte("<name>VCPUs_max</name><value>x"), 1), []string{"IMPORT_ERROR", `INTERNAL_ERROR: [ Failure("Expected int64`}},
		"a field missing":           {bytes.Replace(file, []byte("<name>VCPUs_max</name>"), []byte("<name>VCPUs_xam</name>"), 1), []string{"IMPORT_ERROR", `INTERNAL_ERROR: [ Failure("Field VCPUs_max not present in rpc") ]`}},
		"a newer xapi": {bytes.Replace(file, []byte("<name>xapi_major</name><value>1</value></member><member><name>xapi_minor</name><value>20<"),
			[]byte("<name>xapi_major</name><value>27</value></member><member><name>xapi_minor</name><value>0<"), 1), []string{"IMPORT_INCOMPATIBLE_VERSION"}},
		"no first chunk":     {slices.Concat(file[:first], file[second:]), []string{"IMPORT_ERROR", "INTERNAL_ERROR: [ Failure("}},
		"no last chunk":      {slices.Concat(file[:second], make([]byte, 1024)), []string{"IMPORT_ERROR", "INTERNAL_ERROR: [ Failure("}},
		"metadata not first": {file[first:], []string{"IMPORT_ERROR_UNEXPECTED_FILE", "ova.xml", "Ref:0003/00000000"}},
		"noise":              {imageContent(t, 2*mib), []string{"IMPORT_ERROR_PREMATURE_EOF"}},
	} {
		task := c.text("task.create", "import", "")
		query := url.Values{"session_id": {c.session}, "task_id": {task}, "sr_id": {c.one("SR", "shared")}}
		_, answer := c.put(pool.Address(), query, bytes.NewReader(test.file), int64(len(test.file)))
		if !strings.HasPrefix(answer, "HTTP/1.1 500 Internal Error\r\n") || !strings.Contains(answer, test.want[0]+": [ ") {
			t.Errorf("%s: the late answer is %q", name, answer)
		}
		record := c.finished(task)
		info := errorInfo(record)
		if record["status"] != "failure" || len(info) != len(test.want) || !strings.HasPrefix(strings.Join(info, "\n"), strings.Join(test.want, "\n")) {
			t.Errorf("%s: %v %q, want %q", name, record["status"], info, test.want)
		}
		if after := objects(t, c, pool.Dir()); after != before {
			t.Errorf("%s: %s left of what was %s", name, after, before)
		}
	}
}

func TestImportIntoAFullSR(t *testing.T) {
	pool := newPool(t, xapisim.Config{SRs: []xapisim.SRConfig{{Name: "thick", Type: "lvm", Capacity: 6 * mib}}})
	c := connect(t, pool)
	before := objects(t, c, pool.Dir())
	if info := errorInfo(c.upload(pool, c.one("SR"), image(t, imageContent(t, 8*mib)))); len(info) != 4 || info[0] != "SR_BACKEND_FAILURE_44" {
		t.Errorf("%q", info)
	}
	if after := objects(t, c, pool.Dir()); after != before {
		t.Errorf("%s left of what was %s", after, before)
	}
}

func TestImportCredentials(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	file := image(t, imageContent(t, 2*mib))
	cookie := func(text string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Cookie", text) }
	}
	basic := func(password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth("root", password) }
	}
	for name, test := range map[string]struct {
		session string
		change  func(*http.Request)
		status  int
	}{
		"query":          {c.session, func(*http.Request) {}, 200},
		"cookie":         {"", cookie("a=b&session_id=" + c.session), 200},
		"cookie first":   {"OpaqueRef:bad", cookie("x=y; session_id=" + c.session), 200},
		"basic":          {"", basic("xenroot"), 200},
		"nothing":        {"", func(*http.Request) {}, 401},
		"bad session":    {"OpaqueRef:bad", basic("xenroot"), 401},
		"wrong password": {"", basic("xenroo"), 401},
	} {
		task := c.text("task.create", "import", "")
		query := url.Values{"task_id": {task}}
		if test.session != "" {
			query.Set("session_id", test.session)
		}
		response, answer := c.put(pool.Address(), query, bytes.NewReader(file), int64(len(file)), test.change)
		record := c.finished(task)
		if response.StatusCode != test.status || (record["status"] == "success") != (test.status == 200) {
			t.Errorf("%s: %s, %v", name, response.Status, record)
		}
		if test.status == 401 && (response.Header.Get("WWW-Authenticate") != `Basic realm="put_import"` || errorInfo(record)[0] != "SESSION_AUTHENTICATION_FAILED" ||
			answer != "<html><body><h1>HTTP 401 unauthorised</h1>Please check your credentials and retry.</body></html>") {
			t.Errorf("%s: %v %q %v", name, response.Header, answer, record)
		}
	}
}

func TestImportChoosesTheSR(t *testing.T) {
	pool := newPool(t, xapisim.Config{Hosts: 2, SRs: []xapisim.SRConfig{
		{Name: "shared", Shared: true}, {Name: "local", Host: 1}, {Name: "unplugged"}, {Name: "media", Type: "iso"},
	}})
	c := connect(t, pool)
	file := image(t, imageContent(t, 2*mib))
	refs := map[string]string{}
	for _, name := range []string{"shared", "local", "unplugged", "media"} {
		refs[name] = c.one("SR", name)
	}
	c.call("PBD.unplug", c.list("SR.get_PBDs", refs["unplugged"])[0])
	nowhere := []string{"RBAC_PERMISSION_DENIED", "http/put_import", "NO_HOSTS_AVAILABLE: [  ]"}
	for name, test := range map[string]struct {
		query  url.Values
		status int
		info   []string
	}{
		"default":      {url.Values{}, 200, nil},
		"by uuid":      {url.Values{"sr_uuid": {c.text("SR.get_uuid", refs["shared"])}}, 200, nil},
		"uuid as id":   {url.Values{"sr_id": {c.text("SR.get_uuid", refs["shared"])}}, 500, nowhere},
		"unknown":      {url.Values{"sr_id": {"OpaqueRef:bad"}}, 500, nowhere},
		"unplugged":    {url.Values{"sr_id": {refs["unplugged"]}}, 500, nowhere},
		"media":        {url.Values{"sr_id": {refs["media"]}}, 400, []string{"SR_OPERATION_NOT_SUPPORTED"}},
		"unknown flag": {url.Values{"full_restore": {"true"}}, 200, nil},
	} {
		task := c.text("task.create", "import", "")
		test.query.Set("session_id", c.session)
		test.query.Set("task_id", task)
		response, answer := c.put(pool.Address(), test.query, bytes.NewReader(file), int64(len(file)))
		if info := errorInfo(c.finished(task)); response.StatusCode != test.status || !slices.Equal(info, test.info) {
			t.Errorf("%s: %s %q, task %q", name, response.Status, answer, info)
		}
	}
	// The coordinator sends the client to the host that has the SR; that host takes the pool's session.
	task := c.text("task.create", "import", "")
	query := url.Values{"session_id": {c.session}, "task_id": {task}, "sr_id": {refs["local"]}}
	response, _ := c.put(pool.Address(), query, nil, 0)
	location, err := response.Location()
	if err != nil || response.StatusCode != http.StatusFound || location.Host != pool.Addresses()[1] || location.Path != "/import" || location.Query().Get("task_id") != task {
		t.Fatalf("%s, %v, %v", response.Status, location, err)
	}
	if got := c.text("task.get_status", task); got != "pending" {
		t.Errorf("a redirect leaves the task %s", got)
	}
	other := dial(t, pool.Addresses()[1], pool.Fingerprints()[1])
	other.put(location.Host, location.Query(), bytes.NewReader(file), int64(len(file)))
	c.imported(c.finished(task))
}

func TestImportRefusesChunkedBodies(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	task := c.text("task.create", "import", "")
	response, _ := c.put(pool.Address(), url.Values{"session_id": {c.session}, "task_id": {task}}, strings.NewReader("x"), -1)
	if info := errorInfo(c.finished(task)); response.StatusCode != http.StatusForbidden || !slices.Equal(info, []string{"IMPORT_ERROR_CANNOT_HANDLE_CHUNKED"}) {
		t.Errorf("%s, task %q", response.Status, info)
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		response, _ := c.put(pool.Address(), nil, nil, 0, func(r *http.Request) { r.Method = method })
		if want := map[string]int{http.MethodGet: 403, http.MethodPost: 500}[method]; response.StatusCode != want {
			t.Errorf("%s: %s", method, response.Status)
		}
	}
	if response, _ := c.put(pool.Address(), url.Values{"session_id": {c.session}, "task_id": {"OpaqueRef:bad"}}, nil, 0); response.StatusCode != 500 {
		t.Errorf("an unknown task: %s", response.Status)
	}
}

// open sends the head of a request over a connection of its own; a negative length is not told.
func (c *client) open(pool *xapisim.Pool, method, path string, query url.Values, length int64) *tls.Conn {
	c.t.Helper()
	raw, err := net.Dial("tcp", pool.Address())
	if err != nil {
		c.t.Fatal(err)
	}
	connection := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // the fingerprint is not the point here
	c.t.Cleanup(func() { connection.Close() })
	query.Set("session_id", c.session)
	lines := method + " " + path + "?" + query.Encode() + " HTTP/1.1\r\nHost: x\r\n"
	if length >= 0 {
		lines += fmt.Sprintf("Content-Length: %d\r\n", length)
	}
	if _, err := io.WriteString(connection, lines+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
	return connection
}

// head reads the head of an answer and gives its first line.
func head(t *testing.T, connection io.Reader) string {
	t.Helper()
	var text []byte
	for b := make([]byte, 1); !bytes.HasSuffix(text, []byte("\r\n\r\n")); text = append(text, b...) {
		if _, err := io.ReadFull(connection, b); err != nil {
			t.Fatalf("%q, %v", text, err)
		}
	}
	line, _, _ := strings.Cut(string(text), "\r\n")
	return line
}

// begin sends the beginning of an upload over a connection of its own and gives it open, the answer's head read.
func (c *client) begin(pool *xapisim.Pool, task string, sent []byte) *tls.Conn {
	c.t.Helper()
	connection := c.open(pool, "PUT", "/import", url.Values{"task_id": {task}, "sr_id": {c.one("SR", "shared")}}, int64(len(sent)))
	if got := head(c.t, connection); got != "HTTP/1.1 200 OK" { // before a byte of the body is sent
		c.t.Fatal(got)
	}
	if _, err := connection.Write(sent); err != nil {
		c.t.Fatal(err)
	}
	return connection
}

// A truncated file on an open connection is waited for, Content-Length or not, until the client closes.
func TestTruncatedImportHangs(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	file := image(t, imageContent(t, 4*mib))
	cut := bytes.Index(file, []byte("Ref:0003/00000003\x00")) + 100
	before := objects(t, c, pool.Dir())
	for _, half := range []bool{true, false} {
		task := c.text("task.create", "import", "")
		connection := c.begin(pool, task, file[:cut])
		eventually(t, "the objects", func() bool {
			return c.call("task.get_other_config", task).(map[string]any)["object_creation"] == "complete"
		})
		vm := c.one("VM", "Understudy delegate")
		if operations := c.call("VM.get_current_operations", vm).(map[string]any); operations[task] != "import" {
			t.Errorf("current operations %v", operations)
		}
		eventually(t, "the first chunk", func() bool { return fmt.Sprint(c.call("task.get_progress", task)) == "0.25" })
		time.Sleep(20 * time.Millisecond)
		if got := c.text("task.get_status", task); got != "pending" {
			t.Errorf("the task is %s", got)
		}
		closing := connection.Close
		if half {
			closing = connection.CloseWrite
		}
		if err := closing(); err != nil {
			t.Fatal(err)
		}
		if info := errorInfo(c.finished(task)); !slices.Equal(info, []string{"IMPORT_ERROR_PREMATURE_EOF"}) {
			t.Errorf("%q", info)
		}
		if half {
			if answer, err := io.ReadAll(connection); err != nil || !strings.Contains(string(answer), "IMPORT_ERROR_PREMATURE_EOF") {
				t.Errorf("%q, %v", answer, err)
			}
		}
		if after := objects(t, c, pool.Dir()); after != before {
			t.Errorf("%s left of what was %s", after, before)
		}
	}
}

func TestImportIsCancelled(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	file := image(t, imageContent(t, 4*mib))
	before := objects(t, c, pool.Dir())
	task := c.text("task.create", "import", "")
	c.begin(pool, task, file[:mib])
	eventually(t, "leave to cancel", func() bool { return slices.Equal(c.list("task.get_allowed_operations", task), []string{"cancel"}) })
	c.call("task.cancel", task)
	record := c.finished(task)
	if record["status"] != "cancelled" || !slices.Equal(errorInfo(record), []string{"TASK_CANCELLED", task}) {
		t.Errorf("%v", record)
	}
	if after := objects(t, c, pool.Dir()); after != before {
		t.Errorf("%s left of what was %s", after, before)
	}
}

// Close does not wait for a client that keeps its connection.
func TestCloseEndsImports(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	c.begin(pool, c.text("task.create", "import", ""), image(t, imageContent(t, 4*mib))[:mib])
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	closed := make(chan struct{})
	go func() { pool.Close(); close(closed) }()
	select {
	case <-closed:
	case <-ctx.Done():
		t.Fatal("Close hangs")
	}
}

func TestFaultsOfImports(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	file := image(t, imageContent(t, 4*mib))
	before := objects(t, c, pool.Dir())
	query := func(task string) url.Values {
		return url.Values{"session_id": {c.session}, "task_id": {task}}
	}
	pool.Fault(xapisim.Rule{Method: "http/put_import", Count: 1, CutAfter: 2 * mib})
	task := c.text("task.create", "import", "")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+pool.Address()+"/import?"+query(task).Encode(), bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if response, err := c.http.Do(request); err == nil {
		_, _ = io.Copy(io.Discard, response.Body) // however the cut shows
		response.Body.Close()
	}
	if info := errorInfo(c.finished(task)); !slices.Equal(info, []string{"IMPORT_ERROR_PREMATURE_EOF"}) {
		t.Errorf("cut: %q", info)
	}
	pool.Fault(xapisim.Rule{Method: "http/put_import", Count: 1, Error: &xapisim.Error{Code: "SR_BACKEND_FAILURE_40", Params: []string{"", "text", ""}}})
	task = c.text("task.create", "import", "")
	c.put(pool.Address(), query(task), bytes.NewReader(file), int64(len(file)))
	if info := errorInfo(c.finished(task)); info[0] != "SR_BACKEND_FAILURE_40" {
		t.Errorf("error: %q", info)
	}
	pool.Fault(xapisim.Rule{Method: "http/put_import", Count: 1, Cut: true})
	task = c.text("task.create", "import", "")
	request.URL.RawQuery = query(task).Encode()
	request.Body = io.NopCloser(bytes.NewReader(file))
	if response, err := c.http.Do(request); err == nil {
		response.Body.Close()
		t.Errorf("a cut connection answers %s", response.Status)
	}
	if got := c.text("task.get_status", task); got != "pending" {
		t.Errorf("the task is %s", got)
	}
	if after := objects(t, c, pool.Dir()); after != before {
		t.Errorf("%s left of what was %s", after, before)
	}
}
