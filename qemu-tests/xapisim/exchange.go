package xapisim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// dataHandler is one of xapi's HTTP handlers that move data over the connection of their request, with HTTP only as the
// greeting (xapi-facts §1.7, §10.4 to §10.6). They all go the same way; what differs is here.
type dataHandler struct {
	method string
	action string // xapi's name of it. Rules and counts of faults go by "http/" and this.
	label  string // of the task that is made when the client gives none
	// admit finds what the request names and chooses a host. A failure is not the task's business, but see escaped.
	admit func(*exchange) *refusal
	// check is what the handler does in its task before it answers with 200; nil for nothing.
	check func(*exchange) *refusal
	// protocol is the version of HTTP in the answer; "" for 1.1. head gives its further lines; nil for none.
	protocol string
	head     func(*exchange) []string
	// run moves the data. The caller holds Pool.mu. The stream ends early when the client closes.
	run func(x *exchange, c *call, stream io.ReadWriter) (any, error)
}

var dataHandlers = map[string]dataHandler{
	"/import": {
		method: http.MethodPut, action: "put_import", label: "VM.import",
		admit: (*exchange).admitImport, check: (*exchange).checkImport, run: (*exchange).runImport,
	},
	"/export": {
		method: http.MethodGet, action: "get_export", label: "VM.export", protocol: "1.0",
		admit: (*exchange).admitExport, check: (*exchange).checkExport, head: (*exchange).headOfExport, run: (*exchange).runExport,
	},
	"/export_metadata": {
		method: http.MethodGet, action: "get_export_metadata", label: "VM.export_metadata", protocol: "1.0",
		admit: (*exchange).admitExportMetadata, check: (*exchange).checkExportMetadata, head: (*exchange).headOfMetadata,
		run: (*exchange).runExportMetadata,
	},
	"/import_raw_vdi": {
		method: http.MethodPut, action: "put_import_raw_vdi", label: "Importing raw VDI",
		admit: (*exchange).admitImportRaw, check: (*exchange).checkImportRaw, run: (*exchange).runImportRaw,
	},
	"/export_raw_vdi": {
		method: http.MethodGet, action: "get_export_raw_vdi", label: "Exporting raw VDI",
		admit: (*exchange).admitExportRaw, check: (*exchange).checkExportRaw, head: (*exchange).headOfRaw, run: (*exchange).runExportRaw,
	},
}

// exchange is one request to a data handler. What admit and check find stands in the members after task.
type exchange struct {
	*Pool
	dataHandler
	host    *host
	request *http.Request
	task    *object

	sr, vdi, vm *object
	vms         []*object
	metadata    []byte // the whole of what /export_metadata answers
}

// serveData answers a request to a data handler: everything that can be refused beforehand is refused, then 200 is sent,
// then the data move, and what comes of it stands in the task alone.
func (p *Pool) serveData(h *host, handler dataHandler, w http.ResponseWriter, r *http.Request) {
	if r.Method != handler.method {
		p.elsewhere(h, w, r)
		return
	}
	fault := p.strike(r, "http/"+handler.action, r.URL.Query())
	x := &exchange{Pool: p, dataHandler: handler, host: h, request: r}
	refused := x.enter()
	if refused != nil && !refused.bare {
		x.refuse(w, refused)
		return
	}
	connection, buffered, err := http.NewResponseController(w).Hijack()
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
	ctx, cancel := context.WithCancel(h.life)
	if refused == nil {
		p.cancels[x.task.ref] = cancel
		p.db.set(x.task, "allowed_operations", []string{"cancel"})
	}
	p.group.Go(func() {
		defer cancel()
		defer connection.Close()
		// Nothing else ends a read or a write. The late answer to a cancelled upload still goes out.
		defer context.AfterFunc(ctx, func() {
			_ = connection.SetReadDeadline(time.Unix(1, 0))
			if handler.method == http.MethodGet {
				_ = connection.SetWriteDeadline(time.Unix(1, 0))
			}
		})()
		if refused != nil {
			x.refuseBare(ctx, connection, refused)
			return
		}
		x.carryOut(ctx, &stream{Conn: connection, buffered: buffered.Reader}, fault)
	})
}

// enter checks a request in xapi's order: credentials, what it names, the host, the task, and the rest.
func (x *exchange) enter() *refusal {
	x.mu.Lock()
	defer x.mu.Unlock()
	given := x.parameter("task_id")
	x.task = x.db.find("task", given)
	if !x.authorized() {
		return &refusal{status: http.StatusUnauthorized, failure: fail("SESSION_AUTHENTICATION_FAILED")}
	}
	if refused := x.admit(x); refused != nil {
		return refused
	}
	if x.task == nil && given != "" {
		return x.escaped(missing("task", given))
	}
	if x.task == nil {
		x.task = x.newTask(x.label, "", nil)
	}
	if x.check == nil {
		return nil
	}
	return x.check(x)
}

// carryOut sends the early answer and moves the data. What has gone wrong follows as a second HTTP answer inside the first
// one's body.
func (x *exchange) carryOut(ctx context.Context, s *stream, fault Rule) {
	lines := []string{"HTTP/" + cmp.Or(x.protocol, "1.1") + " 200 OK", "Connection: close", "Cache-Control: no-cache, no-store", "task-id:" + x.task.ref}
	if x.head == nil {
		lines = append(lines, "content-type: application/octet-stream")
	} else {
		lines = append(lines, x.head(x)...)
	}
	writeHead(s.Conn, lines...)

	x.mu.Lock()
	c := &call{Pool: x.Pool, ctx: ctx, client: ctx, task: x.task.ref}
	var result any
	var err error
	if fault.Error != nil {
		err = fault.Error
	} else {
		result, err = x.run(x, c, s)
	}
	if ctx.Err() != nil {
		err = ctx.Err() // whatever it looked like: a cancelled read is one of a connection that timed out
	}
	delete(x.cancels, x.task.ref)
	x.finishTask(x.task, result, err)
	x.mu.Unlock()

	if fault.HangReply {
		_, _ = io.Copy(io.Discard, s.Conn) // until the client or the pool has gone
	}
	if fault.CutReply || fault.HangReply {
		return
	}
	if err != nil {
		writeLate(s.Conn, pageText(asError(err)))
	}
	linger(ctx, s.Conn)
}

// writeHead writes the head of an answer. A client that has gone is no concern of the server.
func writeHead(w io.Writer, lines ...string) {
	_, _ = io.WriteString(w, strings.Join(lines, "\r\n")+"\r\n\r\n")
}

// writeLate writes the answer to an error behind whatever has been sent.
func writeLate(w io.Writer, detail string) {
	text := additional(detail)
	writeHead(w, "HTTP/1.1 500 Internal Error", fmt.Sprintf("content-length: %d", len(text)), "content-type: text/html",
		"connection: close", "cache-control: no-cache, no-store")
	_, _ = io.WriteString(w, text)
}

// lingering is how long a connection is kept after the outcome, so that an answer is not lost to a client that still
// sends.
const lingering = 2 * time.Second

// linger ends the sending side and reads on until the client closes. A close with unread bytes would make the network
// throw away the answer.
func linger(ctx context.Context, connection net.Conn) {
	if half, ok := connection.(interface{ CloseWrite() error }); ok && ctx.Err() == nil && half.CloseWrite() == nil {
		if connection.SetReadDeadline(time.Now().Add(lingering)) == nil && ctx.Err() == nil {
			_, _ = io.Copy(io.Discard, connection)
		}
	}
}

// stream is the data as xapi sees them: whatever comes over the connection, Content-Length or not, until the client
// closes. A connection that breaks has ended too.
type stream struct {
	net.Conn
	buffered io.Reader
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.buffered.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

// CloseWrite ends the sending side.
func (s *stream) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
