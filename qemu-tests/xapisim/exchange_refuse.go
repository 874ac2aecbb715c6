package xapisim

import (
	"context"
	"crypto/subtle"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

// refusal is an answer instead of 200. Most are pages. A bare one is a status line without a body, whose length is not
// told: what follows is whatever xapi does next, which a client that reads to the end takes for the body.
type refusal struct {
	status   int
	detail   string // on the page
	location string // of a redirect
	failure  *Error // of the task; nil leaves it as it is

	bare    bool
	line    string // of a bare one, such as "HTTP/1.1 400 Bad Request"; "" for a connection that closes without an answer
	silence bool   // then nothing comes, and the connection stays
}

// Status lines of bare refusals.
const (
	badRequest = "HTTP/1.1 400 Bad Request"
	forbidden  = "HTTP/1.1 403 Forbidden"
	notFound   = "HTTP/1.0 404 Not Found"
)

// failed is a bare refusal after which the error goes on its way, so that its page follows.
func failed(line string, e *Error) *refusal {
	return &refusal{bare: true, line: line, detail: pageText(e), failure: e}
}

// escaped is the refusal for an error that leaves a handler outside of its task. xapi's check of permissions, through which
// handlers are called, tells the client's task that it was a matter of permissions (xapi-observed; xen-api
// ocaml/xapi/xapi_http.ml, assert_credentials_ok).
func (x *exchange) escaped(e *Error) *refusal {
	return &refusal{
		status: http.StatusInternalServerError, detail: pageText(e), failure: fail("RBAC_PERMISSION_DENIED", "http/"+x.action, errorText(e)),
	}
}

// missing is what the database says of a reference that leads nowhere, where nobody has asked before.
func missing(class, ref string) *Error {
	return internal(fmt.Sprintf("Db_exn.Read_missing_uuid(%q, %q, %q)", class, "", ref))
}

// errorText is an API error as xapi writes it into other errors.
func errorText(e *Error) string { return e.Code + ": [ " + strings.Join(e.Params, "; ") + " ]" }

// pageText is an API error as it stands on pages: of one that xapi did not foresee, the exception alone.
func pageText(e *Error) string {
	if e.Code == "INTERNAL_ERROR" && len(e.Params) == 1 {
		return e.Params[0]
	}
	return errorText(e)
}

func (x *exchange) failTask(r *refusal) {
	if x.task != nil && r.failure != nil {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.finishTask(x.task, nil, r.failure)
	}
}

// refuse answers with a page.
func (x *exchange) refuse(w http.ResponseWriter, r *refusal) {
	x.failTask(r)
	switch r.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="`+x.action+`"`)
	case http.StatusFound:
		w.Header().Set("Location", r.location)
	}
	page(w, r.status, r.detail)
}

// refuseBare answers over the connection itself.
func (x *exchange) refuseBare(ctx context.Context, connection net.Conn, r *refusal) {
	x.failTask(r)
	if r.line == "" {
		return
	}
	writeHead(connection, r.line, "Connection: close", "Cache-Control: no-cache, no-store")
	if r.silence {
		_, _ = io.Copy(io.Discard, connection) // until the client gives up, or the pool
		return
	}
	if r.detail != "" {
		writeLate(connection, r.detail)
	}
	linger(ctx, connection)
}

// parameter is looked for in the query, then among the cookies.
func (x *exchange) parameter(name string) string {
	if value := x.request.URL.Query().Get(name); value != "" {
		return value
	}
	return x.cookie(name)
}

// cookie finds a cookie's value; xapi takes both ; and & between cookies.
func (x *exchange) cookie(name string) string {
	for _, header := range x.request.Header.Values("Cookie") {
		for pair := range strings.FieldsFuncSeq(header, func(r rune) bool { return r == ';' || r == '&' }) {
			if key, value, _ := strings.Cut(strings.TrimSpace(pair), "="); key == name {
				return value
			}
		}
	}
	return ""
}

// authorized checks the session of the cookie, that of the query, or HTTP Basic, in this order.
func (x *exchange) authorized() bool {
	for _, session := range []string{x.cookie("session_id"), x.request.URL.Query().Get("session_id")} {
		if session != "" {
			return x.checkSession(session) == nil
		}
	}
	name, password, given := x.request.BasicAuth()
	same := func(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	return given && same(name, x.config.Username) && same(password, x.config.Password)
}

// byRefOrUUID finds an object that a parameter names either way, or says what xapi says of neither.
func (x *exchange) byRefOrUUID(class, name string) (*object, *Error) {
	if o := x.db.find(class, name); o != nil {
		return o, nil
	}
	for _, o := range x.db.tables[class] {
		if o.uuid() == name {
			return o, nil
		}
	}
	return nil, missing(class, name)
}

// route finds a host that sees SRs: this one, or another, to which the client is sent. Without any there is an error.
func (x *exchange) route(srs ...*object) (*refusal, *Error) {
	sees := func(h *host) bool {
		return !slices.ContainsFunc(srs, func(sr *object) bool { return sr == nil || !x.plugged(sr, h.ref) })
	}
	if sees(x.host) {
		return nil, nil
	}
	for _, other := range x.hosts {
		if sees(other) {
			return &refusal{status: http.StatusFound, location: "https://" + other.address + x.request.URL.RequestURI()}, nil
		}
	}
	return nil, fail("NO_HOSTS_AVAILABLE")
}

// wantedSR is the SR that a request names: by reference, but for sr_uuid. A reference that leads nowhere is none that any
// host sees (xapi-observed).
func (x *exchange) wantedSR() (sr *object, named bool, e *Error) {
	if ref := x.parameter("sr_id"); ref != "" {
		return x.db.find("SR", ref), true, nil
	}
	uuid := x.parameter("sr_uuid")
	if uuid == "" {
		return nil, false, nil
	}
	if sr, e = x.byRefOrUUID("SR", uuid); e != nil || sr.ref == uuid {
		return nil, true, missing("SR", uuid)
	}
	return sr, true, nil
}
