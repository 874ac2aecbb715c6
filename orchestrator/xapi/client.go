package xapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxCalls is how many calls a pool gets at once; maxPolls of them may be waits for events, so that waiting
	// never starves the rest (XO's client allows 20, xapi-facts §1.8).
	maxCalls = 20
	maxPolls = 10
	// maxAttempts is how often a call is sent at most whose connection breaks each time.
	maxAttempts = 4
	// retryPause is the time before a call is sent again; it doubles up to outagePause.
	retryPause = 200 * time.Millisecond
)

// API is what packages above need of a pool. *Client satisfies it.
type API interface {
	// Call runs a method; see Client.Call.
	Call(ctx context.Context, method string, result any, args ...any) error
	// Run runs a method as a task and waits for it; see Client.Run.
	Run(ctx context.Context, method string, result *string, args ...any) error
	// Events waits for changes; see Client.Events.
	Events(ctx context.Context, classes []string, token string, timeout time.Duration) (EventBatch, error)
	// Import uploads an XVA; see Client.Import.
	Import(ctx context.Context, o ImportOptions) ([]Ref, error)
	// ExportDisk reads a disk; see Client.ExportDisk.
	ExportDisk(ctx context.Context, o DiskExport, read func(io.Reader) error) error
	// ImportDisk writes to a disk; see Client.ImportDisk.
	ImportDisk(ctx context.Context, o DiskImport) error
}

// Client is a session with a pool's coordinator. It is safe for concurrent use. Its goroutines end with the calls that they
// watch over; Close ends the session and the kept connections.
type Client struct {
	config Config
	trust  *trust
	http   *http.Client
	pings  *http.Client  // a connection for each request
	calls  chan struct{} // slots of maxCalls
	polls  chan struct{} // slots of maxPolls
	nextID atomic.Uint64
	logins chan struct{} // one login at a time; a channel, so that waiting for it can be cancelled

	mu      sync.Mutex
	session session
	closed  bool
}

// session is where the coordinator was when we last logged in, and the reference it gave.
type session struct {
	address string
	ref     string
	silent  bool // the coordinator was not reached there
}

// Dial logs in at the first address that leads to the coordinator. A refused password is ErrAuthentication, a
// certificate that is not pinned a *CertificateError.
func Dial(ctx context.Context, config Config) (*Client, error) {
	config, err := config.prepared()
	if err != nil {
		return nil, err
	}
	trust := newTrust(config.Fingerprints)
	client := &Client{
		config: config,
		trust:  trust,
		http:   newHTTPClient(trust.accepts, true),
		pings:  newHTTPClient(trust.accepts, false),
		calls:  make(chan struct{}, maxCalls),
		polls:  make(chan struct{}, maxPolls),
		logins: make(chan struct{}, 1),
	}
	if err := client.renew(ctx, session{}); err != nil {
		client.http.CloseIdleConnections()
		return nil, err
	}
	return client, nil
}

// Address is the coordinator's host:port as of the last login.
func (c *Client) Address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session.address
}

// Call runs a method; the session is put before args. The result is stored in the value that result points to;
// nil discards it. Failures of the API are *Error. Arguments are encoded as JSON; maps and slices must not be nil,
// because the API knows no null.
//
// A call is repeated by itself only where that is safe. One that was refused before anything was done (the session had expired,
// the coordinator has moved, the toolstack is starting) or not sent at all goes to the coordinator that is found then, for
// Config.Outage; one whose connection broke is sent again when it may be carried out twice (the table at repeatable). Every other
// broken call is ErrOutcomeUnknown.
func (c *Client) Call(ctx context.Context, method string, result any, args ...any) error {
	raw, err := c.do(ctx, c.config.CallTimeout, c.config.Outage, method, args)
	if err != nil {
		return err
	}
	return decodeResult(method, raw, result)
}

// Close logs out and drops the connections. Waits for events end with an error. With a ctx that has ended the
// session is left behind, for the pool to expire after a day.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	closed, last := c.closed, c.session
	c.closed = true
	c.mu.Unlock()
	if closed {
		return nil
	}
	defer c.http.CloseIdleConnections()
	_, _, err := c.roundTrip(ctx, min(c.config.CallTimeout, answerTimeout), last.address, "session.logout", []any{last.ref})
	if err != nil && !IsCode(err, codeSessionInvalid) {
		return fmt.Errorf("log out of the pool: %w", err)
	}
	return nil
}

func (c *Client) current() (session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return session{}, ErrClosed
	}
	return c.session, nil
}

// do sends a call until it has an answer or may not be sent again. outage is how long it is tried while the pool is away.
func (c *Client) do(ctx context.Context, timeout, outage time.Duration, method string, args []any) (json.RawMessage, error) {
	var away time.Time // since when the pool refuses or is not reached; zero: it is not away
	renewed, moved, broken := false, false, 0
	for repeats := 0; ; repeats++ {
		current, err := c.current()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", method, err)
		}
		var raw json.RawMessage
		sent := false
		if err = errLeft; !current.silent {
			raw, sent, err = c.roundTrip(ctx, timeout, current.address, method, append([]any{current.ref}, args...))
		}
		if err == nil {
			return raw, nil
		}
		if ctx.Err() != nil {
			return nil, explain(ctx, method, sent, err)
		}
		var stays error // why the pool is still away; nil: it is worth another attempt at once
		switch {
		case IsCode(err, codeSessionInvalid):
			if renewed {
				return nil, err // a new session is invalid, too
			}
			if stays = c.renew(ctx, current); stays == nil {
				renewed = true
			}
		case isTransport(err) && !current.silent && (!sent || errors.Is(err, errSilent)):
			c.leave(current)
			if sent && !mayRepeat(method) {
				return nil, explain(ctx, method, sent, err)
			}
			if moved {
				stays = err // a login came through, and the call did not
			}
		case IsCode(err, codeHostIsSlave), current.silent:
			stays = c.renew(ctx, current)
			if stays == nil && moved && !current.silent {
				stays = err
			}
			moved = moved || stays == nil
		case IsCode(err, awayCodes...):
			stays = err
		case isTransport(err) && mayRepeat(method) && !errors.Is(err, context.DeadlineExceeded):
			if broken++; broken == maxAttempts {
				return nil, explain(ctx, method, sent, err)
			}
			if err := pause(ctx, pauseBefore(broken)); err != nil {
				return nil, fmt.Errorf("%s: %w", method, err)
			}
		default:
			return nil, explain(ctx, method, sent, err)
		}
		if away.IsZero() {
			away = time.Now()
		}
		if stays == nil {
			continue
		}
		if !IsTemporary(stays) || time.Since(away) >= outage {
			return nil, named(method, stays)
		}
		if err := pause(ctx, pauseBefore(repeats+1)); err != nil {
			return nil, fmt.Errorf("%s: %w", method, err)
		}
	}
}

// pauseBefore is the time before the nth repetition of a call.
func pauseBefore(n int) time.Duration { return min(retryPause<<min(n-1, 10), outagePause) }

// named puts the method before an error that does not tell it.
func named(method string, err error) error {
	var failure *Error
	if errors.As(err, &failure) && failure.Method == method {
		return err
	}
	return fmt.Errorf("%s: %w", method, err)
}

// transportError is a failure below HTTP: no answer, or half of one.
type transportError struct{ err error }

func (e *transportError) Error() string { return e.err.Error() }
func (e *transportError) Unwrap() error { return e.err }

// errLeft stands for the call that is not made to a coordinator which was not reached before.
var errLeft error = &transportError{errSilent}

func isTransport(err error) bool {
	var failure *transportError
	return errors.As(err, &failure)
}

// explain adds to the failure of a call that changes things whether it may have been carried out.
func explain(ctx context.Context, method string, sent bool, err error) error {
	if !isTransport(err) {
		return err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if sent && !mayRepeat(method) {
		return fmt.Errorf("%s: %w: %w", method, ErrOutcomeUnknown, err)
	}
	return fmt.Errorf("%s: %w", method, err)
}

// roundTrip sends one request to one address. sent reports whether the host may have seen it.
func (c *Client) roundTrip(ctx context.Context, timeout time.Duration, address, method string, params []any) (raw json.RawMessage, sent bool, err error) {
	release, err := c.acquire(ctx, method)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", method, err)
	}
	defer release()

	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%s did not answer %s within %v: %w", address, method, timeout, context.DeadlineExceeded))
	defer cancel()
	ctx, stop := c.watch(ctx, address)
	defer stop()
	var wrote atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }})
	post, err := newPost(traced, address, method, params, c.nextID.Add(1))
	if err != nil {
		return nil, false, err
	}
	reply, err := c.http.Do(post)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, wrote.Load(), &transportError{err}
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		page, err := io.ReadAll(io.LimitReader(reply.Body, pageLimit))
		if err != nil {
			page = []byte(err.Error())
		}
		return nil, true, fmt.Errorf("%s: %w", method, &StatusError{Address: address, Status: reply.StatusCode, Text: pageText(page)})
	}
	answer, err := readReply(reply.Body, reply.ContentLength)
	if err != nil {
		if errors.Is(err, ErrTooLarge) {
			return nil, true, fmt.Errorf("%s: %w", method, err)
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, true, &transportError{fmt.Errorf("read the reply of %s: %w", address, err)}
	}
	raw, err = decodeReply(method, answer)
	if errors.Is(err, ErrMalformed) && ctx.Err() != nil {
		// A host that notices that the caller has gone may end its answer early, and the end be read before the
		// connection is closed: that is no answer.
		err = &transportError{context.Cause(ctx)}
	}
	return raw, true, err
}

// acquire takes the slots of a call; release gives them back.
func (c *Client) acquire(ctx context.Context, method string) (release func(), err error) {
	take := func(slots chan struct{}) error {
		select {
		case slots <- struct{}{}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	poll := method == "event.from"
	if poll {
		if err := take(c.polls); err != nil {
			return nil, err
		}
	}
	if err := take(c.calls); err != nil {
		if poll {
			<-c.polls
		}
		return nil, err
	}
	return func() {
		<-c.calls
		if poll {
			<-c.polls
		}
	}, nil
}

// pause sleeps, or returns early with the context's cause.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
