package xapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/understudy-dr/understudy/image/xva"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const (
	mastersHost = "OpaqueRef:master"
	otherHost   = "OpaqueRef:other"
	probeTask   = "OpaqueRef:probe"
	importedVMs = "<value><array><data><value>OpaqueRef:vm</value></data></array></value>"
)

// content is longer than the buffers between client and host, so that a host which does not read is felt.
var content = bytes.Repeat([]byte("an appliance "), 1<<20)

// importHost is a coordinator whose pool has an SR plugged on the hosts named. Its task ends as given once the upload is over,
// however that went.
func importHost(t *testing.T, upload http.HandlerFunc, ending func(call) any, plugged ...string) *fakeHost {
	t.Helper()
	host := newFakeHost(t, "127.0.0.1:0")
	var over atomic.Bool
	host.upload = func(w http.ResponseWriter, r *http.Request) {
		if probes(r) {
			early(w)
			return
		}
		defer over.Store(true)
		upload(w, r)
	}
	pbds := map[string]any{"OpaqueRef:unplugged": map[string]any{"SR": "OpaqueRef:sr", "host": otherHost, "currently_attached": false}}
	for _, name := range plugged {
		pbds["OpaqueRef:pbd-"+name] = map[string]any{"SR": "OpaqueRef:sr", "host": name, "currently_attached": true}
	}
	host.on("PBD.get_all_records", value(pbds))
	host.on("pool.get_all_records", value(map[string]any{"OpaqueRef:pool": map[string]any{"master": mastersHost}}))
	host.on("host.get_record", value(map[string]any{"address": "127.0.0.2"}))
	host.on("task.create", func(c call) any {
		if c.Params[1] == "VM import: which host" {
			return probeTask
		}
		return "OpaqueRef:task"
	})
	for _, method := range []string{"task.destroy", "task.cancel", "task.set_status"} {
		host.on(method, value(""))
	}
	host.on("event.from", func(c call) any {
		if !over.Load() {
			time.Sleep(5 * time.Millisecond)
			return noEvents("t")(c)
		}
		return ending(c)
	})
	host.on("task.get_record", value(map[string]any{"status": "pending"}))
	return host
}

// probes reports whether an upload only asks where to go.
func probes(r *http.Request) bool {
	return r.ContentLength == 0 && r.URL.Query().Get("task_id") == probeTask
}

// countOf is how often a method was asked for with an object.
func (h *fakeHost) countOf(method, ref string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, c := range h.log {
		if c.Method == method && len(c.Params) > 1 && c.Params[1] == ref {
			n++
		}
	}
	return n
}

// early answers as a host does: before it has read anything, and on a connection that it closes at the end (xapi-facts §10.4).
func early(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()
	_ = rc.Flush()
}

// takes reads the whole upload into got.
func takes(got *bytes.Buffer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		early(w)
		_, _ = got.ReadFrom(r.Body)
	}
}

func importOptions() xapi.ImportOptions {
	return xapi.ImportOptions{SR: "OpaqueRef:sr", Body: bytes.NewReader(content), Size: int64(len(content))}
}

func TestImport(t *testing.T) {
	var got bytes.Buffer
	var query, length, encoding atomic.Value
	host := importHost(t, func(w http.ResponseWriter, r *http.Request) {
		query.Store(r.URL.RawQuery)
		length.Store(r.ContentLength)
		encoding.Store(len(r.TransferEncoding))
		takes(&got)(w, r)
	}, taskEvent("success", 1, importedVMs), mastersHost, otherHost)
	client := dial(t, configFor(host))
	options := importOptions()
	var last int64
	options.Progress = func(sent int64) {
		if sent <= last {
			t.Errorf("progress went from %d to %d", last, sent)
		}
		last = sent
	}
	refs, err := client.Import(t.Context(), options)
	if err != nil || fmt.Sprint(refs) != "[OpaqueRef:vm]" {
		t.Fatalf("%v, %v", refs, err)
	}
	if !bytes.Equal(got.Bytes(), content) || last != int64(len(content)) || length.Load() != int64(len(content)) || encoding.Load() != 0 {
		t.Errorf("%d bytes arrived, %d announced, %d told", got.Len(), length.Load(), last)
	}
	if got := query.Load(); got != "session_id=OpaqueRef%3Asession&sr_id=OpaqueRef%3Asr&task_id=OpaqueRef%3Atask" {
		t.Errorf("asked with %s", got)
	}
	if host.countOf("task.destroy", "OpaqueRef:task") != 1 || host.count("task.cancel") != 0 {
		t.Error("the task was not removed, or cancelled")
	}
}

// TestImportGoesWhereTheDiskCanBeWritten has an SR that only the second host sees, and a task that the caller made.
func TestImportGoesWhereTheDiskCanBeWritten(t *testing.T) {
	var got bytes.Buffer
	coordinator := importHost(t, func(http.ResponseWriter, *http.Request) { t.Error("the coordinator was asked") },
		taskEvent("success", 1, importedVMs), otherHost)
	member := newFakeHost(t, "127.0.0.2:"+coordinator.port())
	member.upload = func(w http.ResponseWriter, r *http.Request) {
		if probes(r) {
			early(w)
			return
		}
		takes(&got)(w, r)
	}
	coordinator.on("event.from", taskEvent("success", 1, importedVMs))
	client := dial(t, configFor(coordinator, member))
	options := importOptions()
	options.Task = "OpaqueRef:task"
	if _, err := client.Import(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), content) || coordinator.count("task.create") != 1 {
		t.Errorf("%d bytes arrived", got.Len())
	}
	if got := fmt.Sprint(coordinator.last("task.destroy").Params); got != "[OpaqueRef:session OpaqueRef:task]" {
		t.Errorf("removed %s", got)
	}
}

// TestImportFollowsARedirection has a coordinator that sends uploads on, before any of the body was read; a redirection that leads
// out of the pool is not followed.
func TestImportFollowsARedirection(t *testing.T) {
	for name, c := range map[string]struct{ location, fails string }{
		"to a host with a port":   {"https://127.0.0.2:%s/import?session_id=secret&sr_id=x", ""},
		"to a host without":       {"https://127.0.0.2/import?session_id=secret", ""},
		"without encryption":      {"http://127.0.0.2:%s/import?session_id=secret", "none of HTTPS"},
		"to nowhere":              {"", "none of HTTPS"},
		"to a host of others":     {"https://127.0.0.3:%s/import?session_id=secret", "fingerprint"},
		"to one that sends it on": {"https://127.0.0.4:%s/import?session_id=secret", "sent the upload on"},
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			coordinator := importHost(t, func(http.ResponseWriter, *http.Request) { t.Error("the coordinator got the body") },
				taskEvent("success", 1, importedVMs), mastersHost)
			location := strings.ReplaceAll(c.location, "%s", coordinator.port())
			redirect := func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", location)
				w.WriteHeader(http.StatusFound)
			}
			coordinator.upload = redirect
			member := newFakeHost(t, "127.0.0.2:"+coordinator.port())
			member.upload = takes(&got)
			stranger := newFakeHostWith(t, "127.0.0.3:"+coordinator.port(), newCertificate(t))
			stranger.upload = func(http.ResponseWriter, *http.Request) { t.Error("a stranger got the body") }
			circle := newFakeHost(t, "127.0.0.4:"+coordinator.port())
			circle.upload = redirect
			coordinator.on("event.from", taskEvent("failure", 1, "", "IMPORT_ERROR"))
			if c.fails == "" {
				coordinator.on("event.from", taskEvent("success", 1, importedVMs))
			}
			_, err := dial(t, configFor(coordinator, member)).Import(t.Context(), importOptions())
			if c.fails == "" {
				if err != nil || !bytes.Equal(got.Bytes(), content) {
					t.Errorf("%d bytes arrived, %v", got.Len(), err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q", err, c.fails)
			}
			if coordinator.countOf("task.destroy", probeTask) != 1 {
				t.Error("the probe's task was not removed")
			}
		})
	}
}

func TestImportFailures(t *testing.T) {
	page := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			w.Header().Set("Location", "https://elsewhere/import?session_id=secret")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<html><b>a cause</b></html>")
		}
	}
	ended := taskEvent("failure", 1, "", "IMPORT_ERROR_SOME_CHECKSUMS_FAILED")
	for name, c := range map[string]struct {
		upload http.HandlerFunc
		ending func(call) any
		change func(*xapi.ImportOptions)
		texts  []string
	}{
		"the task failed": {takes(new(bytes.Buffer)), ended, nil, []string{"VM import: IMPORT_ERROR_SOME_CHECKSUMS_FAILED"}},
		"a late answer": {
			func(w http.ResponseWriter, r *http.Request) {
				takes(new(bytes.Buffer))(w, r)
				_, _ = io.WriteString(w, "\r\nHTTP/1.1 500 Internal Server Error\r\n\r\n<html>no space</html>")
			}, ended, nil, []string{"SOME_CHECKSUMS_FAILED", "500 Internal Server Error", "no space"},
		},
		"refused": {page(http.StatusBadRequest), ended, nil, []string{"SOME_CHECKSUMS_FAILED"}},
		"moved":   {page(http.StatusFound), ended, nil, []string{"SOME_CHECKSUMS_FAILED", "try again"}},
		"cut": {
			func(w http.ResponseWriter, r *http.Request) {
				early(w)
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
				panic(http.ErrAbortHandler)
			}, ended, nil, []string{"SOME_CHECKSUMS_FAILED", "upload to 127.0.0.1"},
		},
		"a body that breaks": {
			takes(new(bytes.Buffer)), ended, func(o *xapi.ImportOptions) {
				o.Body = io.MultiReader(bytes.NewReader(content[:5<<20]), iotest.ErrReader(errors.New("the disk is gone")))
			}, []string{"the disk is gone", "SOME_CHECKSUMS_FAILED"},
		},
		"a body that is too short": {
			takes(new(bytes.Buffer)), ended, func(o *xapi.ImportOptions) { o.Size++ }, []string{"ended after", io.ErrUnexpectedEOF.Error()},
		},
		"a result without VMs": {takes(new(bytes.Buffer)), taskEvent("success", 1, "<value></value>"), nil, []string{"names no VM"}},
		"a broken result":      {takes(new(bytes.Buffer)), taskEvent("success", 1, "<value><arr"), nil, []string{"malformed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := importHost(t, c.upload, c.ending, mastersHost)
			options := importOptions()
			if c.change != nil {
				c.change(&options)
			}
			_, err := dial(t, configFor(host)).Import(t.Context(), options)
			if err == nil {
				t.Fatal("no error")
			}
			for _, text := range c.texts {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q does not tell %q", err, text)
				}
			}
			if strings.Contains(err.Error(), "session") {
				t.Errorf("%q tells the session", err)
			}
			if host.countOf("task.destroy", "OpaqueRef:task") != 1 {
				t.Error("the task was not removed")
			}
		})
	}
}

// TestImportWhoseAnswerIsLost has everything sent, and the connection cut before the end was said: the task decides.
func TestImportWhoseAnswerIsLost(t *testing.T) {
	host := importHost(t, func(w http.ResponseWriter, r *http.Request) {
		early(w)
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}, taskEvent("success", 1, importedVMs), mastersHost)
	if refs, err := dial(t, configFor(host)).Import(t.Context(), importOptions()); err != nil || len(refs) != 1 {
		t.Errorf("%v, %v", refs, err)
	}
}

func TestImportThatNobodyTakes(t *testing.T) {
	host := importHost(t, takes(new(bytes.Buffer)), nil, otherHost) // 127.0.0.2 does not listen on this port
	client := dial(t, configFor(host))
	if _, err := client.Import(t.Context(), importOptions()); err == nil || !strings.Contains(err.Error(), "127.0.0.2") {
		t.Errorf("got %v", err)
	}
	if got := fmt.Sprint(host.last("task.set_status").Params); got != "[OpaqueRef:session OpaqueRef:task cancelled]" || host.countOf("task.destroy", probeTask) != 1 || host.countOf("task.destroy", "OpaqueRef:task") != 1 {
		t.Errorf("the task that nothing works on stays: %s", got)
	}
	options := importOptions()
	options.SR = "OpaqueRef:another"
	if _, err := client.Import(t.Context(), options); err == nil || !strings.Contains(err.Error(), "plug its PBD") {
		t.Errorf("got %v", err)
	}
	options.Size = 0
	if _, err := client.Import(t.Context(), options); err == nil {
		t.Error("an import of nothing")
	}
}

// TestImportToASimulatedPool has an SR that only the second host sees, whose certificate the coordinator tells.
func TestImportToASimulatedPool(t *testing.T) {
	pool, err := xapisim.New(xapisim.Config{
		Name: "pool", Dir: t.TempDir(), Hosts: 2, EventDelay: -1, SRs: []xapisim.SRConfig{{Name: "local", Host: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var image bytes.Buffer
	if err := xva.Write(&image, xva.Appliance{
		Name: "appliance", Version: "1.0", Memory: 256 << 20, VCPUs: 1, Disk: xva.Disk{Size: 4 << 20, Content: bytes.NewReader(content[:4<<20])},
	}); err != nil {
		t.Fatal(err)
	}
	run := func(image []byte) (*xapi.Client, []xapi.Ref, error) {
		client := dial(t, xapi.Config{Addresses: pool.Addresses()[:1], Username: "root", Password: "xenroot", Fingerprints: pool.Fingerprints()[:1]})
		srs, err := xapi.AllRecords[xapi.SR](t.Context(), client, "SR")
		if err != nil {
			t.Fatal(err)
		}
		for ref := range srs { // there is one
			refs, err := client.Import(t.Context(), xapi.ImportOptions{SR: ref, Body: bytes.NewReader(image), Size: int64(len(image))})
			return client, refs, err
		}
		return nil, nil, errors.New("the pool has no SR")
	}
	client, refs, err := run(image.Bytes())
	if err != nil || len(refs) != 1 {
		t.Fatal(refs, err)
	}
	if vm, err := xapi.GetRecord[xapi.VM](t.Context(), client, "VM", refs[0]); err != nil || !vm.IsATemplate || vm.OtherConfig[xapi.ImportTaskKey] == "" {
		t.Errorf("%+v, %v", vm, err)
	}
	spoilt := bytes.Clone(image.Bytes())
	spoilt[len(spoilt)/2] ^= 1
	if _, _, err := run(spoilt); !xapi.IsCode(err, "IMPORT_ERROR") || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a spoilt image: %v", err)
	}
	if tasks, err := xapi.AllRecords[xapi.Task](t.Context(), client, "task"); err != nil || len(tasks) != 0 {
		t.Errorf("tasks %v are left, %v", tasks, err)
	}
}

// crawls reads far more slowly than it is sent to, until the client has gone.
func crawls(w http.ResponseWriter, r *http.Request) {
	early(w)
	for {
		if _, err := io.CopyN(io.Discard, r.Body, 256<<10); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sleeps reads nothing until test has ended.
func sleeps(test context.Context) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		early(w)
		<-test.Done()
	}
}

// TestCancelAnImport leaves while the host hardly reads, and while only the task is waited for.
func TestCancelAnImport(t *testing.T) {
	for name, upload := range map[string]http.HandlerFunc{
		"while it is sent":       crawls,
		"while its task goes on": takes(new(bytes.Buffer)),
	} {
		t.Run(name, func(t *testing.T) {
			host := importHost(t, upload, noEvents("t"), mastersHost)
			client := dial(t, configFor(host))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			options := importOptions()
			time.AfterFunc(200*time.Millisecond, cancel)
			began := time.Now()
			_, err := client.Import(ctx, options)
			if !errors.Is(err, context.Canceled) || time.Since(began) > 1200*time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(began))
			}
			if host.count("task.cancel") != 1 || host.countOf("task.destroy", "OpaqueRef:task") != 1 {
				t.Error("the task was not cancelled and removed")
			}
		})
	}
}

// TestAnImportThatStalls has a host that stops reading and keeps the connection.
func TestAnImportThatStalls(t *testing.T) {
	end, cancel := context.WithCancel(t.Context())
	defer cancel()
	host := importHost(t, sleeps(end), nil, mastersHost)
	host.on("event.from", taskEvent("cancelled", 1, ""))
	config := configFor(host)
	config.CallTimeout = 300 * time.Millisecond
	_, err := dial(t, config).Import(t.Context(), importOptions())
	if !xapi.IsCode(err, "TASK_CANCELLED") || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "took nothing more") {
		t.Errorf("got %v", err)
	}
}
