package xapisim_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestFaultsOfObjects: a rule hits the calls that name its object, or one that belongs to it.
func TestFaultsOfObjects(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	web, err := pool.AddVM(xapisim.VMConfig{Name: "web", Disks: []xapisim.DiskConfig{{Size: 2 * mib, Name: "root", SR: "shared"}, {Size: 2 * mib, Name: "data", SR: "local"}}})
	if err != nil {
		t.Fatal(err)
	}
	other, err := pool.AddVM(xapisim.VMConfig{Name: "other", Disks: []xapisim.DiskConfig{{Size: 2 * mib, SR: "local"}}})
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, pool)
	shared, local := c.one("SR", "shared"), c.one("SR", "local")
	root, data := c.one("VDI", "root"), c.one("VDI", "data")
	vbd := map[string]string{}
	for _, ref := range c.list("VM.get_VBDs", web.Ref) {
		vbd[c.text("VBD.get_VDI", ref)] = ref
	}
	disk := func(sr string) map[string]any {
		return map[string]any{"SR": sr, "virtual_size": 1, "type": "user", "sharable": false, "read_only": false, "other_config": map[string]string{}}
	}
	for _, test := range []struct {
		object, method string
		argument       any
		hit            bool
	}{
		{"web", "VM.get_record", web.Ref, true},
		{web.Ref, "VM.get_record", web.Ref, true},
		{web.UUID, "VM.get_record", web.Ref, true},
		{"web", "VM.get_by_uuid", web.UUID, true},
		{"web", "VM.get_record", other.Ref, false},
		{"web", "VM.get_all", nil, false},
		{"web", "VBD.get_record", vbd[data], true},
		{"data", "VBD.get_record", vbd[data], true},
		{"data", "VBD.get_record", vbd[root], false},
		{web.VDIs[1], "VDI.get_record", data, true},
		{"shared", "VDI.get_record", root, true},
		{"shared", "VDI.get_record", data, false},
		{"shared", "VBD.get_record", vbd[root], true},
		{"shared", "VM.get_record", web.Ref, true},
		{"shared", "VM.get_record", other.Ref, false},
		{"shared", "SR.get_record", shared, true},
		{"shared", "VDI.create", disk(shared), true},
		{"shared", "VDI.create", disk(local), false},
		{"shared", "PBD.get_record", c.list("SR.get_PBDs", shared)[0], true},
		{"pool-host0", "PBD.get_record", c.list("SR.get_PBDs", shared)[0], true},
		{"Pool-wide network 0", "VIF.get_record", c.list("VM.get_VIFs", web.Ref)[0], true},
		{"nobody", "VM.get_record", web.Ref, false},
	} {
		remove := pool.Fault(xapisim.Rule{Object: test.object, Error: &xapisim.Error{Code: "HIT"}})
		var arguments []any
		if test.argument != nil {
			arguments = append(arguments, test.argument)
		}
		_, err := c.try(test.method, arguments...)
		if e, ok := errors.AsType[*apiError](err); (ok && e.code == "HIT") != test.hit {
			t.Errorf("a rule for %s and %s(%v): %v", test.object, test.method, test.argument, err)
		}
		remove()
	}
}

// TestFaultsByChance: a seed hits the same calls each time, another seed others, about as many as it should.
func TestFaultsByChance(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	const calls = 60
	hits := func(seed uint64, probability float64) string {
		defer pool.Fault(xapisim.Rule{Method: "pool.*", Probability: probability, Seed: seed, Error: &xapisim.Error{Code: "HIT"}})()
		var out strings.Builder
		for range calls {
			_, err := c.try("pool.get_all")
			fmt.Fprint(&out, map[bool]string{true: "-", false: "x"}[err == nil])
		}
		return out.String()
	}
	first, again, another := hits(1, 0.3), hits(1, 0.3), hits(2, 0.3)
	if first != again || first == another {
		t.Errorf("hits\n%s\n%s\n%s", first, again, another)
	}
	if n := strings.Count(first, "x"); n < calls/10 || n > calls/2 {
		t.Errorf("%d hits of %d calls", n, calls)
	}
	if certain := hits(3, 1); certain != strings.Repeat("x", calls) {
		t.Errorf("hits %s", certain)
	}
}

// TestFaultsAdd: delays of several rules add up, the first ending strikes, and a rule that had to stand back keeps its turn.
func TestFaultsAdd(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	for _, rule := range []xapisim.Rule{
		{Method: "*.get_all", Delay: 20 * time.Millisecond},
		{Method: "SR.get_all", Delay: 20 * time.Millisecond, Count: 1, Error: &xapisim.Error{Code: "FIRST"}},
		{Method: "SR.*", Count: 1, Error: &xapisim.Error{Code: "SECOND"}},
	} {
		pool.Fault(rule)
	}
	before := time.Now()
	c.refuse("FIRST", nil, "SR.get_all")
	if took := time.Since(before); took < 40*time.Millisecond {
		t.Errorf("took %s", took)
	}
	c.refuse("SECOND", nil, "SR.get_all")
	c.call("SR.get_all")
}

// request makes a call with a deadline, on a connection of its own.
func (c *client) request(t *testing.T, patience time.Duration, method string) (body string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	text := fmt.Sprintf(`{"jsonrpc": "2.0", "id": 1, "method": %q, "params": [%q]}`, method, c.session)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := c.http.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return string(answer), err
}

// TestHalfOpen: requests that are never answered, answers that stop in their middle, connections that are never served.
func TestHalfOpen(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	const patience = 100 * time.Millisecond
	late := func(what, body string, err error) {
		t.Helper()
		if !errors.Is(err, context.DeadlineExceeded) || strings.HasSuffix(body, "}") {
			t.Errorf("%s: %q, %v", what, body, err)
		}
	}
	network := c.one("network")
	defer pool.Fault(xapisim.Rule{Method: "VM.get_all", Count: 1, Hang: true})()
	body, err := c.request(t, patience, "VM.get_all")
	late("not carried out", body, err)
	if body, err = c.request(t, time.Minute, "VM.get_all"); err != nil || !strings.HasSuffix(body, "}") {
		t.Errorf("the next: %s, %v", body, err)
	}

	defer pool.Fault(xapisim.Rule{Method: "network.get_all_records", Count: 1, HangReply: true})()
	body, err = c.request(t, patience, "network.get_all_records")
	late("in the middle", body, err)
	if body, err = c.request(t, time.Minute, "network.get_all_records"); err != nil || !strings.Contains(body, network) {
		t.Errorf("the next: %s, %v", body, err)
	}

	defer pool.Fault(xapisim.Rule{Method: "connection", Count: 1, Hang: true})()
	body, err = c.request(t, patience, "VM.get_all")
	late("never served", body, err)
	defer pool.Fault(xapisim.Rule{Method: "connection", Count: 1, Cut: true})()
	if _, err := c.request(t, time.Minute, "VM.get_all"); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a connection that is cut: %v", err)
	}
	if _, err = c.request(t, time.Minute, "VM.get_all"); err != nil {
		t.Error(err)
	}
	if n := pool.Calls("connection"); n < 5 {
		t.Errorf("%d connections", n)
	}
}

// TestCloseEndsHalfOpen: a pool that closes waits for no client of a half-open connection.
func TestCloseEndsHalfOpen(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	pool.Fault(xapisim.Rule{Method: "VM.get_all", Hang: true})
	pool.Fault(xapisim.Rule{Method: "VM.get_all_records", HangReply: true})
	ended := make(chan error, 3)
	for _, method := range []string{"VM.get_all", "VM.get_all_records"} {
		go func() {
			_, err := c.request(t, time.Minute, method)
			ended <- err
		}()
		eventually(t, method, func() bool { return pool.Calls(method) == 1 })
	}
	accepted := pool.Calls("connection")
	pool.Fault(xapisim.Rule{Method: "connection", Hang: true})
	go func() {
		raw, err := tls.Dial("tcp", pool.Address(), &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			raw.Close()
		}
		ended <- err
	}()
	eventually(t, "the connection", func() bool { return pool.Calls("connection") == accepted+1 })
	pool.Close()
	for range 3 {
		if err := <-ended; err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
	}
}

// TestSlowStorage: calls that take their time, copies and uploads by the byte.
func TestSlowStorage(t *testing.T) {
	pool := newPool(t, xapisim.Config{})
	c := connect(t, pool)
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, imageContent(t, 2*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.AddVM(xapisim.VMConfig{Name: "web", Disks: []xapisim.DiskConfig{{Name: "root", From: file, SR: "shared"}}}); err != nil {
		t.Fatal(err)
	}
	shared, local, root := c.one("SR", "shared"), c.one("SR", "local"), c.one("VDI", "root")
	atLeast := func(what string, want time.Duration, f func()) {
		t.Helper()
		before := time.Now()
		if f(); time.Since(before) < want {
			t.Errorf("%s took %s, want %s", what, time.Since(before), want)
		}
	}
	remove := pool.Fault(xapisim.Rule{Method: "SR.scan", Object: "shared", Slow: 50 * time.Millisecond})
	atLeast("a call", 50*time.Millisecond, func() { c.call("SR.scan", shared) })
	task := c.text("Async.SR.scan", shared)
	if status := c.text("task.get_status", task); status != "pending" {
		t.Errorf("the task is %s", status)
	}
	c.finish(task)
	remove()

	defer pool.Fault(xapisim.Rule{Method: "VDI.copy", Object: "shared", BytesPerSecond: 20 * mib})()
	atLeast("a copy", 80*time.Millisecond, func() { c.call("VDI.copy", root, local) })

	image := image(t, imageContent(t, 2*mib))
	defer pool.Fault(xapisim.Rule{Method: "http/*", BytesPerSecond: 20 * mib})()
	atLeast("an upload", 80*time.Millisecond, func() {
		task := c.text("task.create", "import", "")
		c.put(pool.Address(), map[string][]string{"session_id": {c.session}, "task_id": {task}}, strings.NewReader(string(image)), int64(len(image)))
		if record := c.finished(task); record["status"] != "success" {
			t.Errorf("%v", record)
		}
	})
}
