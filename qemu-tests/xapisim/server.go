package xapisim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxBody bounds the body of an RPC (xapi-facts §1.1).
const maxBody = 300 << 10

// host is one host of the pool as a server: its address and certificate, its row in the database, and how far its
// toolstack is. What follows state is guarded by Pool.mu.
type host struct {
	number      int
	ref         string
	ip          net.IP
	address     string // with the port
	certificate *certificate

	state    hostState
	master   *host           // whom it takes for the coordinator: itself or another (pool.conf)
	trouble  *Error          // answered to every call but those of emergency mode
	local    map[string]bool // sessions of emergency mode, which this host alone knows
	server   *http.Server
	life     context.Context // of its toolstack: calls end with it
	end      context.CancelCauseFunc
	crashes  int                // so often it has lost its power
	booted   bool               // its hardware has started anew since the coordinator last heard of it
	revived  context.CancelFunc // of a host without power: ends the wait until it is assumed dead
	disabled disabling
}

// hostState is how far a host's toolstack is.
type hostState int

const (
	hostDown    hostState = iota
	hostBooting           // it listens and answers HOST_STILL_BOOTING
	hostJoining           // emergency mode: it waits for its coordinator
	hostServing
)

// listen opens one listener a host, on consecutive addresses and one port, so that the bare address of a HOST_IS_SLAVE
// error can be dialled at the port that the client already uses. Port 0 is any that is free on all addresses.
func listen(first net.IP, port, hosts int) ([]net.Listener, error) {
	attempts := 20
	if port != 0 {
		attempts = 1
	}
	var failed error
	for range attempts {
		listeners, err := listenOnce(first, strconv.Itoa(port), hosts)
		if err == nil {
			return listeners, nil
		}
		failed = err
	}
	return nil, fmt.Errorf("listen on %d addresses from %s: %w", hosts, first, failed)
}

func listenOnce(first net.IP, port string, hosts int) ([]net.Listener, error) {
	var listeners []net.Listener
	for n := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(nextIP(first, n).String(), port))
		if err != nil {
			for _, open := range listeners {
				err = errors.Join(err, open.Close())
			}
			return nil, err
		}
		listeners = append(listeners, l)
		if _, port, err = net.SplitHostPort(l.Addr().String()); err != nil {
			return nil, err
		}
	}
	return listeners, nil
}

func nextIP(first net.IP, n int) net.IP {
	ip := append(net.IP{}, first.To4()...)
	ip[3] += byte(n)
	return ip
}

// serve starts the host's server; Pool.stop or Pool.Close ends it. The caller holds Pool.mu, or is New.
func (p *Pool) serve(h *host, listener net.Listener) {
	h.life, h.end = context.WithCancelCause(p.ctx)
	mux := http.NewServeMux()
	mux.HandleFunc("/jsonrpc", func(w http.ResponseWriter, r *http.Request) { p.jsonrpc(h, w, r) })
	for prefix, handler := range dataHandlers {
		for _, path := range []string{prefix, prefix + "/"} { // xapi looks for the longest prefix that it knows
			mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { p.serveData(h, handler, w, r) })
		}
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { p.elsewhere(h, w, r) })
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:    log.New(io.Discard, "", 0), // clients that refuse the certificate are part of the tests
		ConnContext: connectionContext,
	}
	h.server = server
	tlsListener := &faultyListener{listener, p, &tls.Config{
		Certificates: []tls.Certificate{h.certificate.pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	}}
	p.group.Go(func() {
		_ = server.Serve(tlsListener) // always ends with http.ErrServerClosed
	})
}

// elsewhere answers what no other handler takes: a POST is a call of XML-RPC.
func (p *Pool) elsewhere(h *host, w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		p.xmlrpc(h, w, r)
	case http.MethodGet, http.MethodPut, http.MethodConnect, http.MethodOptions:
		page(w, http.StatusForbidden, "")
	default:
		page(w, http.StatusNotImplemented, r.Method)
	}
}

func (p *Pool) jsonrpc(h *host, w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
	case http.MethodOptions:
		return
	default:
		page(w, http.StatusForbidden, "")
		return
	}
	if len(r.TransferEncoding) > 0 {
		page(w, http.StatusInternalServerError, "Http.Transfer_encoding_not_supported")
		return
	}
	if r.ContentLength > maxBody {
		page(w, http.StatusInternalServerError, "Http_svr.Client_requested_size_over_limit")
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return // the client has gone
	}
	request, err := parseEnvelope(body)
	if err != nil {
		page(w, http.StatusInternalServerError, err.Error())
		return
	}
	result, err := p.carry(h, r, request)
	answer, failed := request.reply(result, err)
	if failed != nil {
		page(w, http.StatusInternalServerError, failed.Error())
		return
	}
	if isCode(err, "HOST_IS_SLAVE") && r.Header.Get("X-XenAPI-Request-Host-Certificate-Thumbprint") == "sha-256:master" {
		w.Header().Set("X-XenAPI-Response-Host-Certificate-Thumbprint", p.thumbprint(h))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Access-Control-Allow-Origin", "*")
	_, _ = w.Write(answer) // a client that has gone is no concern of the server
}

// carry has a call carried out, with what the rules for faults do to it before and after, whatever its dialect.
func (p *Pool) carry(h *host, r *http.Request, request envelope) (any, error) {
	fault := p.strike(r, request.method, request.params)
	result, err := p.dispatch(r.Context(), h, request, fault)
	p.strikeReply(r, fault)
	return result, err
}

// thumbprint is that of the certificate of the host's coordinator, for clients that pin (xapi-facts §1.5).
func (p *Pool) thumbprint(h *host) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return h.master.certificate.fingerprint
}

// pages are the texts of xapi's HTML pages that say nothing particular.
var pages = map[int]string{
	http.StatusFound:        "<h1>HTTP 302 Found</h1>",
	http.StatusBadRequest:   "<h1>HTTP 400 bad request</h1>Use a properly-formed request.",
	http.StatusUnauthorized: "<h1>HTTP 401 unauthorised</h1>Please check your credentials and retry.",
	http.StatusForbidden:    "<h1>HTTP 403 forbidden</h1>Access to the requested resource is forbidden.",
}

// additional is the page of an internal error.
func additional(detail string) string {
	return htmlPage("<h1>HTTP 500 internal server error</h1>An unexpected error occurred; please wait a while and try again. " +
		"If the problem persists, please contact your support representative.<h1> Additional information </h1>" +
		escape(detail))
}

// escape writes a text as xapi does in its pages: quotation marks by their names.
func escape(text string) string {
	return strings.NewReplacer("&#34;", "&quot;", "&#39;", "&apos;").Replace(html.EscapeString(text))
}

func htmlPage(text string) string { return "<html><body>" + text + "</body></html>" }

// page answers with one of xapi's HTML pages and closes the connection.
func page(w http.ResponseWriter, status int, detail string) {
	text := htmlPage(pages[status])
	switch status {
	case http.StatusInternalServerError:
		text = additional(detail)
	case http.StatusNotImplemented:
		text = htmlPage("<h1>HTTP 501 Method Not Implemented</h1><p>Unknown " + html.EscapeString(detail) + " not supported.<br /></p>")
	}
	w.Header().Set("Content-Type", "text/html")
	w.Header().Set("Connection", "close")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// sleep waits and tells whether the time has passed; false means that ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
