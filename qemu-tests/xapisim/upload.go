package xapisim

import (
	"context"
	"crypto/subtle"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// putImport is xapi's name for the handler of PUT /import. Rules and counts of faults go by it.
const putImport = "http/put_import"

// upload is one PUT /import (xapi-facts §1.7, §10.4).
type upload struct {
	*Pool
	host    *host
	request *http.Request
	task    *object
	sr      *object
}

// serveImport answers PUT /import: everything that can be refused without the body is refused with a status, then 200 is
// sent, then the body is read, and what comes of it stands in the task alone.
func (p *Pool) serveImport(h *host, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut {
		elsewhere(w, r)
		return
	}
	fault := p.faults.take(putImport)
	if fault.Delay > 0 && !sleep(r.Context(), fault.Delay) {
		return
	}
	if fault.Cut {
		panic(http.ErrAbortHandler)
	}
	u := &upload{Pool: p, host: h, request: r}
	if refusal := u.admit(); refusal != nil {
		u.refuse(w, refusal)
		return
	}
	connection, body, err := http.NewResponseController(w).Hijack()
	if err != nil {
		page(w, http.StatusInternalServerError, err.Error())
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil { // Close waits for what it knows of
		connection.Close()
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	p.cancels[u.task.ref] = cancel
	p.db.set(u.task, "allowed_operations", []string{"cancel"})
	p.group.Go(func() {
		defer cancel()
		defer connection.Close()
		u.run(ctx, connection, body.Reader, fault)
	})
}

// refusal is an answer before the body is read.
type refusal struct {
	status   int
	detail   string // on the page
	location string // of a redirect
	failure  *Error // of the task; nil leaves it pending
}

// admit checks a request in xapi's order: credentials, task, encoding, SR, host.
func (u *upload) admit() *refusal {
	u.mu.Lock()
	defer u.mu.Unlock()
	query := u.request.URL.Query()
	taskRef := u.parameter("task_id")
	u.task = u.db.find("task", taskRef)
	if !u.authorized() {
		return &refusal{status: http.StatusUnauthorized, failure: fail("SESSION_AUTHENTICATION_FAILED")}
	}
	if u.task == nil && taskRef != "" {
		return &refusal{status: http.StatusInternalServerError, detail: fmt.Sprintf("Db_exn.Read_missing_uuid(%q, %q, %q)", "task", "", taskRef)}
	}
	if len(u.request.TransferEncoding) > 0 {
		return &refusal{status: http.StatusForbidden, failure: fail("IMPORT_ERROR_CANNOT_HANDLE_CHUNKED")}
	}
	switch { // by reference, but for sr_uuid; a uuid in sr_id is taken for a reference (xapi-observed)
	case query.Has("sr_id"):
		u.sr = u.db.find("SR", query.Get("sr_id"))
	case query.Has("sr_uuid"):
		for _, sr := range u.db.all("SR") {
			if sr.uuid() == query.Get("sr_uuid") {
				u.sr = sr
			}
		}
	default:
		ref := u.db.all("pool")[0].text("default_SR")
		if u.sr = u.db.find("SR", ref); u.sr == nil {
			return u.failed(http.StatusInternalServerError, fail("DEFAULT_SR_NOT_FOUND", ref))
		}
	}
	for _, option := range []string{"restore", "force"} {
		if query.Get(option) == "true" {
			return u.failed(http.StatusInternalServerError, fail("NOT_IMPLEMENTED", "import with "+option+"=true"))
		}
	}
	if u.sr != nil && u.sr.text("content_type") == "iso" {
		return u.failed(http.StatusBadRequest, fail("SR_OPERATION_NOT_SUPPORTED", u.sr.ref))
	}
	return u.route()
}

// parameter is looked for in the query, then among the cookies.
func (u *upload) parameter(name string) string {
	if value := u.request.URL.Query().Get(name); value != "" {
		return value
	}
	return u.cookie(name)
}

// cookie finds a cookie's value; xapi takes both ; and & between cookies.
func (u *upload) cookie(name string) string {
	for _, header := range u.request.Header.Values("Cookie") {
		for pair := range strings.FieldsFuncSeq(header, func(r rune) bool { return r == ';' || r == '&' }) {
			if key, value, _ := strings.Cut(strings.TrimSpace(pair), "="); key == name {
				return value
			}
		}
	}
	return ""
}

// authorized checks the session of the cookie, that of the query, or HTTP Basic, in this order.
func (u *upload) authorized() bool {
	for _, session := range []string{u.cookie("session_id"), u.request.URL.Query().Get("session_id")} {
		if session != "" {
			return u.checkSession(session) == nil
		}
	}
	name, password, given := u.request.BasicAuth()
	same := func(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	return given && same(name, u.config.Username) && same(password, u.config.Password)
}

// failed is a refusal for an API error, which page and task tell.
func (u *upload) failed(status int, e *Error) *refusal {
	return &refusal{status: status, detail: errorText(e), failure: e}
}

// errorText is an API error as xapi writes it on pages and into other errors.
func errorText(e *Error) string { return e.Code + ": [ " + strings.Join(e.Params, "; ") + " ]" }

// route finds a host that can write to the SR: this one, or another, to which the client is sent. An SR that no host has,
// or that does not exist, is answered in a roundabout way (xapi-observed).
func (u *upload) route() *refusal {
	if u.sr != nil && u.plugged(u.sr, u.host.ref) {
		if u.task == nil {
			u.task = u.newTask("VM.import", "", nil)
		}
		return nil
	}
	for _, other := range u.hosts {
		if u.sr != nil && u.plugged(u.sr, other.ref) {
			return &refusal{status: http.StatusFound, location: "https://" + other.listener.Addr().String() + u.request.URL.RequestURI()}
		}
	}
	text := errorText(fail("NO_HOSTS_AVAILABLE"))
	return &refusal{status: http.StatusInternalServerError, detail: text, failure: fail("RBAC_PERMISSION_DENIED", putImport, text)}
}

func (u *upload) refuse(w http.ResponseWriter, r *refusal) {
	if u.task != nil && r.failure != nil {
		u.mu.Lock()
		u.finishTask(u.task, nil, r.failure)
		u.mu.Unlock()
	}
	switch r.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="put_import"`)
	case http.StatusFound:
		w.Header().Set("Location", r.location)
	}
	page(w, r.status, r.detail)
}

// lingering is how long a connection is kept after the outcome, so that an answer is not lost to a client that still
// sends.
const lingering = 2 * time.Second

// run sends the early answer and imports. What has gone wrong follows as a second HTTP answer inside the first one's body.
func (u *upload) run(ctx context.Context, connection net.Conn, buffered io.Reader, fault Rule) {
	body := &uploadBody{Reader: buffered, left: fault.CutAfter, connection: connection}
	// A read cannot be cancelled otherwise. Writes are as short as an answer.
	defer context.AfterFunc(ctx, func() { _ = connection.SetReadDeadline(time.Unix(1, 0)) })()
	_, _ = fmt.Fprintf(connection, "HTTP/1.1 200 OK\r\nconnection: close\r\ntask-id: %s\r\ncontent-type: application/octet-stream\r\n\r\n", u.task.ref)

	u.mu.Lock()
	c := &call{Pool: u.Pool, ctx: ctx, client: ctx, task: u.task.ref}
	var result any
	var err error
	if fault.Error != nil {
		err = fault.Error
	} else {
		result, err = c.importXVA(body, u.sr)
	}
	if ctx.Err() != nil {
		err = ctx.Err() // whatever it looked like: a cancelled read is one of a connection that timed out
	}
	delete(u.cancels, u.task.ref)
	u.finishTask(u.task, result, err)
	u.mu.Unlock()

	if err != nil && !fault.CutReply {
		text := additional(errorText(asError(err)))
		_, _ = fmt.Fprintf(connection, "HTTP/1.1 500 Internal Error\r\ncontent-length: %d\r\ncontent-type: text/html\r\nconnection: close\r\n"+
			"cache-control: no-cache, no-store\r\n\r\n%s", len(text), text)
	}
	linger(ctx, connection)
}

// linger ends the sending side and reads on until the client closes. A close with unread bytes would make the network
// throw away the answer.
func linger(ctx context.Context, connection net.Conn) {
	if half, ok := connection.(interface{ CloseWrite() error }); ok && ctx.Err() == nil && half.CloseWrite() == nil {
		if connection.SetReadDeadline(time.Now().Add(lingering)) == nil && ctx.Err() == nil {
			_, _ = io.Copy(io.Discard, connection)
		}
	}
}

// uploadBody is the body as xapi reads it: whatever comes over the connection, Content-Length or not, until the client
// closes. A connection that breaks has ended too.
type uploadBody struct {
	io.Reader
	left       int64 // bytes until a fault cuts the connection; 0 for no fault
	connection net.Conn
}

func (b *uploadBody) Read(p []byte) (int, error) {
	switch {
	case b.left < 0:
		return 0, io.EOF
	case b.left > 0:
		p = p[:min(int64(len(p)), b.left)]
	}
	n, err := b.Reader.Read(p)
	if b.left > 0 {
		if b.left -= int64(n); b.left == 0 {
			b.left = -1
			_ = b.connection.Close()
		}
	}
	if err != nil {
		err = io.EOF
	}
	return n, err
}
