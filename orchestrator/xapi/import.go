package xapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
)

// importMethod names an import in errors and in the pool's list of tasks.
const importMethod = "VM import"

// brokenTimeout is how long the end of an import's task is waited for when the upload broke.
const brokenTimeout = 5 * time.Second

// ImportTaskKey is the key, in a VM's other_config and in a VDI's sm_config, under which the pool notes the task of the import
// that made it (xapi-facts §10.4).
const ImportTaskKey = "import_task"

// ImportOptions say what is imported, and where to.
type ImportOptions struct {
	SR   Ref       // of the new disks
	Body io.Reader // an XVA; it is not read any more once Import has returned
	Size int64     // of Body in bytes: uploads of unknown length are refused (xapi-facts §10.4)
	// Task is the task that the import runs as, made by task.create. A caller who has recorded it finds what the import made by
	// ImportTaskKey, also after a crash. Null: Import makes one.
	Task Ref
	// Progress is told the bytes that were handed to the connection so far, from another goroutine, one call at a time. May be nil.
	Progress func(sent int64)
}

// Import uploads an XVA and returns the VMs that the pool made of it, templates included. The host says that all is well before
// it has read anything: what came of it is told by the task, which is removed in the end. A failed import leaves no objects in
// the pool.
//
// The upload goes to a host that has the SR plugged, the coordinator if possible, or to the one that this host names: it is asked
// by an empty upload first, because a body that flows cannot be sent again (xapi-facts §14.9). When ctx ends the connection is closed, the task
// is asked to stop and Import returns within a second; the pool may take longer to remove what it has made so far, or have finished.
// Errors: *Error with the cause of the task's failure, ErrOutcomeUnknown when the task does not end, *StatusError,
// *CertificateError.
func (c *Client) Import(ctx context.Context, o ImportOptions) ([]Ref, error) {
	if o.Body == nil || o.Size <= 0 {
		return nil, fmt.Errorf("%s: nothing to upload, %d bytes", importMethod, o.Size)
	}
	if o.Task.IsNull() {
		if err := c.Call(ctx, "task.create", &o.Task, importMethod, ""); err != nil {
			return nil, err
		}
	}
	where := url.Values{"sr_id": {string(o.SR)}}
	task, err := c.upload(ctx, destination{what: importMethod, path: "/import", query: where, probe: where, sr: o.SR},
		o.Task, &upload{source: o.Body, size: o.Size, report: o.Progress})
	if err != nil {
		return nil, err
	}
	return parseTaskRefs(task.Result)
}

// upload sends a body to the pool under a task, and returns the task once it has succeeded. The body is not read any more then.
func (c *Client) upload(ctx context.Context, to destination, ref Ref, body *upload) (Task, error) {
	addresses, failure := c.addressesOf(ctx, to.sr)
	if failure == nil {
		failure = c.uploadTo(ctx, addresses, to, ref, body)
	}
	body.stop()
	if !body.requested.Load() { // no host knows of the task: it would stay for a day
		return Task{}, errors.Join(fmt.Errorf("%s: %w", to.what, failure), c.dropTask(ctx, ref))
	}
	if ctx.Err() != nil {
		return Task{}, c.abandon(ctx, to.what, ref)
	}
	return c.outcome(ctx, to.what, ref, failure)
}

// outcome asks the task what came of an upload. failure is what went wrong with it, if anything.
func (c *Client) outcome(ctx context.Context, what string, ref Ref, failure error) (Task, error) {
	waiting := ctx
	if failure != nil {
		// A host that has lost its client without noticing waits for the rest for ever.
		failure = errors.Join(failure, c.cancelTask(ctx, ref))
		var stop context.CancelFunc
		waiting, stop = context.WithTimeout(ctx, brokenTimeout)
		defer stop()
	}
	task, err := c.waitTask(waiting, ref)
	if ctx.Err() != nil {
		return task, c.abandon(ctx, what, ref)
	}
	if err != nil {
		return task, fmt.Errorf("%s: %w: %w", what, ErrOutcomeUnknown, errors.Join(failure, err))
	}
	c.destroyTask(ctx, ref)
	switch {
	case task.Status == TaskSuccess:
		return task, nil
	case task.Status != TaskFailure && task.Status != TaskCancelled:
		return task, fmt.Errorf("%s: its task ended as %q, which is no status known", what, task.Status)
	case failure != nil:
		return task, fmt.Errorf("%w: %w", taskError(what, task), failure)
	}
	return task, taskError(what, task)
}

// abandon gives up an upload whose caller has left.
func (c *Client) abandon(ctx context.Context, what string, task Ref) error {
	cause := fmt.Errorf("%s: %w", what, context.Cause(ctx))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	if err := c.cancelTask(ctx, task); err != nil {
		return errors.Join(cause, err)
	}
	_ = c.Call(ctx, "task.destroy", nil, task) // while it is pending the pool removes it when it has ended
	return cause
}

// dropTask removes a task that nothing works on.
func (c *Client) dropTask(ctx context.Context, task Ref) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	err := c.Call(ctx, "task.set_status", nil, task, TaskCancelled) // a pending task would only be marked for removal
	return errors.Join(err, c.Call(ctx, "task.destroy", nil, task))
}

// lateFailure is the beginning of an answer that comes inside the body of the one before it, when an import fails after the host
// had said that all is well (xapi-observed, import and export).
var lateFailure = regexp.MustCompile(`HTTP/1\.[01] [45]\d\d[^\r\n]*`)

// put sends the body to one host and returns when the host has closed the connection.
func (c *Client) put(ctx context.Context, address string, to destination, task Ref, body *upload) error {
	current, err := c.current()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := c.config.CallTimeout
	watchdog := time.AfterFunc(stall, func() {
		cancel(fmt.Errorf("%s took nothing more for %v: %w", address, stall, context.DeadlineExceeded))
	})
	defer watchdog.Stop()
	body.moves(func() { watchdog.Reset(stall) })
	ctx, stop := c.watch(ctx, address)
	defer stop()

	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:      func(got httptrace.GotConnInfo) { patient(got.Conn, stall) }, // the host closes it in the end
		WroteHeaders: func() { body.requested.Store(true) },
	})
	request, err := http.NewRequestWithContext(traced, http.MethodPut, to.url(address, current.ref, task, to.query), body)
	if err != nil {
		return err
	}
	request.ContentLength = body.size
	explain := func(err error) error {
		switch failed := body.failed(); {
		case failed != nil:
			return failed
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		}
		return &transportError{fmt.Errorf("upload to %s: %w", address, err)}
	}
	reply, err := c.http.Do(request)
	if err != nil {
		return explain(withoutURL(err))
	}
	defer reply.Body.Close()
	page, err := io.ReadAll(io.LimitReader(reply.Body, pageLimit))
	if err == nil {
		_, err = io.Copy(io.Discard, reply.Body)
	}
	switch {
	case reply.StatusCode == http.StatusFound:
		return fmt.Errorf("%s sent the upload on to another host, which it did not when it was asked before: try again", address)
	case reply.StatusCode != http.StatusOK:
		return &StatusError{Address: address, Status: reply.StatusCode, Text: pageText(page)}
	case err != nil || body.failed() != nil:
		return explain(err)
	}
	if late := lateFailure.FindIndex(page); late != nil {
		return fmt.Errorf("%s broke off: %s", address, pageText(page[late[0]:]))
	}
	return nil
}

// upload is the body of one: it counts, and is not read any more after stop.
type upload struct {
	size      int64
	report    func(int64)
	requested atomic.Bool // a host may know of the request

	mu      sync.Mutex
	source  io.Reader
	moved   func()
	sent    int64
	err     error // of source
	stopped bool
}

// Read gives no more than size bytes.
func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.stopped:
		return 0, errors.New("the upload has ended")
	case u.sent == u.size:
		return 0, io.EOF
	}
	n, err := u.source.Read(p[:min(int64(len(p)), u.size-u.sent)])
	u.sent += int64(n)
	if n > 0 {
		u.moved()
		if u.report != nil {
			u.report(u.sent)
		}
	}
	switch {
	case err == nil || u.sent == u.size:
		return n, nil
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("the upload ended after %d of %d bytes: %w", u.sent, u.size, io.ErrUnexpectedEOF)
	}
	u.err = err
	return n, err
}

// Close is the transport's; the source belongs to the caller.
func (u *upload) Close() error { return nil }

func (u *upload) moves(moved func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.moved = moved
}

func (u *upload) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stopped = true
}

func (u *upload) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}
