package xapisim_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// recordedPage is the answer to a request that is no call.
type recordedPage struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    any               `json:"body"`
}

// silence is how long the answer to a request that the recorded server never answered is waited for.
const silence = 200 * time.Millisecond

// playHTTP makes a request that is no call. Bodies are not in the record: they are made by what the name of the request
// and its answer imply.
func (r *replay) playHTTP(record *recorded) []string {
	method, target, _ := strings.Cut(record.HTTP.Line, " ")
	parsed, err := url.Parse(target)
	r.check(err)
	r.prepareHTTP(record, parsed.Query())
	r.unrecorded(record)
	var want recordedPage
	if len(record.Response) > 0 {
		r.check(decodeJSON(record.Response, &want))
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	if record.Exception != "" {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { time.AfterFunc(silence, cancel) }})
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(r.c.url, "/jsonrpc")+fmt.Sprint(r.translate(target)), r.body(record))
	r.check(err)
	if strings.Contains(record.Name, "truncated") {
		rest, end := io.Pipe() // which never comes
		defer func() { _ = end.Close() }()
		request.Body, request.ContentLength = io.NopCloser(io.MultiReader(request.Body, rest)), int64(record.HTTP.BodyLength)+1
	}
	r.authenticate(record, request)
	response, err := r.c.http.Do(request)
	c := &comparison{replay: r}
	var got []byte
	if err == nil {
		defer response.Body.Close()
		got, err = io.ReadAll(response.Body)
	}
	if record.Exception != "" {
		silent := ctx.Err() != nil // whatever a read says of a connection that both sides are closing
		c.same("silence", strings.Contains(record.Exception, "Timeout"), silent)
		if !silent && err == nil {
			return []string{fmt.Sprintf("answer %s, want %s", response.Status, record.Exception)}
		}
		r.giveUp(fmt.Sprint(r.translate(parsed.Query().Get("task_id"))))
		return c.join()
	}
	if err != nil {
		return []string{err.Error()}
	}
	c.page(want, response, got)
	return c.join()
}

func (c *comparison) page(want recordedPage, response *http.Response, got []byte) {
	c.same("status", fmt.Sprint(want.Status), fmt.Sprint(response.StatusCode))
	for name, value := range want.Headers {
		given := response.Header.Get(name)
		switch {
		case name == "connection" && response.Close:
			given = "close"
		case name == "connection" && given == "":
			given = "keep-alive" // what HTTP/1.1 means when it is not said
		case name == "content-length" && want.Status == http.StatusOK:
			continue // dates and references are of one length, but what else a pool draws is not
		}
		c.same("header "+name, value, given)
	}
	switch body := want.Body.(type) {
	case string:
		c.body(body, got)
	default:
		var v any
		if err := decodeJSON(got, &v); err != nil {
			v = string(got)
		}
		c.same("body", want.Body, v)
	}
}

// body compares what the record holds of a body: it shows binary ones by their first bytes, each as one character.
func (c *comparison) body(want string, got []byte) {
	runes := []rune(want)
	if len(got) > len(runes) && len(runes) >= 1000 {
		got = got[:len(runes)]
	}
	var text strings.Builder
	for _, b := range got {
		text.WriteRune(rune(b))
	}
	c.sameText("body", want, text.String())
}

// prepareHTTP brings the pool into the state in which a request can have had its answer.
func (r *replay) prepareHTTP(record *recorded, query url.Values) {
	if session := query.Get("session_id"); opaque.MatchString(session) && r.known[session] == "" {
		r.bind(session, r.c.text("session.login_with_password", "root", "xenroot", "1.0", "replay"))
	}
	unknown := map[string]string{}
	for key, class := range map[string]string{"vdi": "VDI", "sr_id": "SR", "ref": "VM", "task_id": "task"} {
		ref := query.Get(key)
		if !opaque.MatchString(ref) {
			ref = r.byUUID(class, ref)
		}
		if r.known[ref] != "" || !opaque.MatchString(ref) {
			continue
		}
		if class == "task" { // the handler was to finish it
			fields := map[string]any{}
			for name, v := range r.first[ref].fields {
				fields[name] = v
			}
			for name, v := range map[string]any{"status": "pending", "result": "", "error_info": []any{}, "finished": "19700101T00:00:00Z",
				"progress": 0.0, "other_config": map[string]any{}} {
				fields[name] = v
			}
			fields["progress"] = "0.0"
			r.first[ref] = seen{"task", fields}
		}
		delete(r.made, ref)
		unknown[ref] = class
	}
	r.introduce(unknown, nil)
}

// giveUp waits until the server knows that a client has gone, which only the task tells.
func (r *replay) giveUp(task string) {
	if opaque.MatchString(task) {
		eventually(r.t, "the end of a request that its client gave up", func() bool { return r.c.call("task.get_status", task) != "pending" })
	}
}

// byUUID finds the recorded reference of an object by its uuid.
func (r *replay) byUUID(class, uuid string) string {
	for ref, s := range r.first {
		if uuid != "" && s.class == class && s.fields["uuid"] == uuid {
			return ref
		}
	}
	return ""
}

func (r *replay) authenticate(record *recorded, request *http.Request) {
	switch {
	case strings.HasSuffix(record.Name, "basic_auth"):
		request.SetBasicAuth("root", "xenroot")
	case strings.HasSuffix(record.Name, "basic_auth_bad"):
		request.SetBasicAuth("root", "wrong")
	case strings.HasSuffix(record.Name, "cookie"):
		request.AddCookie(&http.Cookie{Name: "session_id", Value: r.c.session})
	}
}

// body makes the body of a request.
func (r *replay) body(record *recorded) io.Reader {
	length := record.HTTP.BodyLength
	if record.HTTP.Body != "" || length == 0 {
		return strings.NewReader(fmt.Sprint(r.translate(record.HTTP.Body)))
	}
	if !strings.Contains(record.HTTP.Line, "/import") || strings.Contains(record.HTTP.Line, "/import_raw_vdi") {
		return bytes.NewReader(make([]byte, length))
	}
	xva := r.exported()
	switch _, kind, _ := strings.Cut(strings.TrimPrefix(record.Name, "http."), "."); kind {
	case "garbage":
		return strings.NewReader(strings.Repeat("garbage", length/len("garbage")))
	case "bad_checksum":
		at := bytes.Index(xva, []byte(".xxhash"))
		xva[at-at%512+512] ^= 1 // the first digit of the first checksum
	case "gzip":
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, err := w.Write(xva)
		r.check(errors.Join(err, w.Close()))
		return &packed
	case "zstd":
		w, err := zstd.NewWriter(nil)
		r.check(err)
		return bytes.NewReader(w.EncodeAll(xva, nil))
	}
	return bytes.NewReader(xva[:min(length, len(xva))])
}

// exported is an XVA that a running xapi wrote.
func (r *replay) exported() []byte {
	file, err := os.Open("../../image/xva/testdata/exported-by-xapi.xva.gz")
	r.check(err)
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	r.check(err)
	text, err := io.ReadAll(unpacked)
	r.check(err)
	return text
}
