package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/netproto"
)

// ClientOptions say whom to call as whom.
type ClientOptions struct {
	Address  string               // of the delegate, "ip:port"
	Identity *netproto.Identity   // the orchestrator's
	Peer     netproto.Fingerprint // the delegate's, as published and matched by nonce
	// Dial connects to the delegate where its network is reached by other means than the host's own, as with one behind a
	// userspace switch; nil: by net.Dialer. It is safe for concurrent use and ends with its context.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Timeout bounds one request beside the time that it asks the delegate to wait; default 30 s.
	Timeout time.Duration
}

// Client calls one delegate. It may be used by several goroutines. An answer that is no success is an *Error; everything else
// names the delegate's address.
type Client struct {
	options   ClientOptions
	transport *http.Transport
	meter     meter
}

// NewClient returns a client; it connects with the first call.
func NewClient(o ClientOptions) *Client {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	c := &Client{options: o}
	c.transport = &http.Transport{
		DialTLSContext:      c.dial,
		DisableCompression:  true, // digests do not shrink
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     90 * time.Second,
	}
	return c
}

// Close closes idle connections. Calls in flight are ended by their contexts.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Address is the delegate's address.
func (c *Client) Address() string { return c.options.Address }

// Stats tells the bytes on the sockets so far, both ways, TLS included.
func (c *Client) Stats() Stats { return c.meter.stats() }

func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	raw, err := c.options.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(c.meter.wrap(raw), c.options.Identity.ClientTLS(c.options.Peer, ALPN))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error says more
		return nil, err
	}
	return conn, nil
}

// request is one call.
type request struct {
	method string
	path   string // below /v1/
	query  url.Values
	body   []byte
	binary bool          // the body is no JSON
	wait   time.Duration // that the delegate may take
	limit  int64         // of the answer's bytes
}

// do makes a call and returns the answer's headers and body.
func (c *Client) do(ctx context.Context, r request) (http.Header, []byte, error) {
	header, body, err := c.roundTrip(ctx, r)
	var answer *Error
	if err == nil || errors.As(err, &answer) {
		return header, body, err
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, nil, fmt.Errorf("control: delegate %s: %s %s: %w", c.options.Address, r.method, r.path, cause)
	}
	mend := "check that the delegate runs and that its TCP port can be reached from here"
	if errors.Is(err, netproto.ErrIdentity) {
		mend = "another machine answers at this address, or the delegate restarted: read its identity again"
	}
	return nil, nil, fmt.Errorf("control: delegate %s: %s %s: %w; %s", c.options.Address, r.method, r.path, err, mend)
}

func (c *Client) roundTrip(ctx context.Context, r request) (http.Header, []byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.wait+c.options.Timeout, errors.New("no answer in time"))
	defer cancel()
	target := url.URL{Scheme: "https", Host: c.options.Address, Path: "/v1/" + r.path, RawQuery: r.query.Encode()}
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, nil, err
	}
	if r.body != nil && !r.binary {
		req.Header.Set("Content-Type", "application/json")
	}
	// The shortest form of what the transport would add by itself: small requests are most of a trusted run's control bytes.
	req.Header.Set("User-Agent", "")
	answer, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, nil, withCause(ctx, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, r.limit+1))
	if err != nil {
		return nil, nil, withCause(ctx, fmt.Errorf("read the answer: %w", err))
	}
	if int64(len(body)) > r.limit {
		return nil, nil, fmt.Errorf("the answer is larger than %d bytes", r.limit)
	}
	if answer.StatusCode >= 300 {
		return nil, nil, decodeError(answer.StatusCode, body)
	}
	return answer.Header, body, nil
}

// withCause prefers the reason for which a context ended to the bare fact.
func withCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func decodeError(status int, body []byte) error {
	e := &Error{Status: status}
	if json.Unmarshal(body, e) != nil || e.Message == "" {
		e.Code, e.Message = CodeInternal, fmt.Sprintf("the delegate answered %.200q", body)
	}
	return e
}

// maxAnswer bounds a JSON answer in bytes: the status of 64 tasks with 8 sinks each stays far below.
const maxAnswer = 4 << 20

// call makes a call with JSON both ways. in and out may be nil.
func (c *Client) call(ctx context.Context, r request, in, out any) error {
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("control: %s %s: %w", r.method, r.path, err)
		}
		r.body = body
	}
	r.limit = maxAnswer
	_, body, err := c.do(ctx, r)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("control: delegate %s: answer to %s %s: %w", c.options.Address, r.method, r.path, err)
	}
	return nil
}

// after is the query of a long poll.
func after(sequence int64, wait time.Duration) url.Values {
	return url.Values{"after": {strconv.FormatInt(sequence, 10)}, "wait": {wait.String()}}
}

func taskPath(id string, rest ...string) string {
	return strings.Join(append([]string{"tasks", id}, rest...), "/")
}
