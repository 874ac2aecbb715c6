package xapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// exportMethod names a disk's export in errors and in the pool's list of tasks.
const exportMethod = "VDI export"

// DiskExport says which disk is exported, and how.
type DiskExport struct {
	VDI    Ref
	SR     Ref    // of the disk
	Base   Ref    // with the format vhd only what differs from it is sent; null: everything
	Format string // raw or vhd
}

// ExportDisk reads a disk through its pool, which attaches it, and the base, to a control domain meanwhile: for as long nobody else
// has it (xapi-facts §10.6). read is given the stream once, and may leave off wherever it has read enough; then the export is
// cancelled. ExportDisk returns when the task has ended, so that the disk is free again; that of a cancelled export is not waited for longer than
// some seconds.
//
// The host says that all is well before it has read anything. What comes of it is told by the task: where both fail, the task's
// *Error is joined with the error of read, which then has had to do with text, or nothing, in place of a disk. Further errors:
// *StatusError, *CertificateError, those of ctx.
func (c *Client) ExportDisk(ctx context.Context, o DiskExport, read func(io.Reader) error) error {
	var task Ref
	if err := c.Call(ctx, "task.create", &task, exportMethod, ""); err != nil {
		return err
	}
	streaming, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	reply, err := c.requestExport(streaming, o, task)
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", exportMethod, err), c.dropTask(ctx, task))
	}
	defer reply.Body.Close()
	host := reply.Request.URL.Host
	watched, stopWatch := c.watch(streaming, host)
	defer stopWatch()
	defer context.AfterFunc(watched, func() { stop(context.Cause(watched)) })()
	body := &steady{from: reply.Body, ctx: streaming, patience: c.config.CallTimeout, stop: stop, host: host}
	failure := read(body)
	rest, _ := io.CopyN(io.Discard, body, pageLimit)
	ended := rest < pageLimit && streaming.Err() == nil // whatever the stream ended with, its host has done with it
	reply.Body.Close()
	if ctx.Err() != nil {
		return c.abandonExport(ctx, task)
	}
	waiting := ctx
	if !ended {
		failure = errors.Join(failure, c.cancelTask(ctx, task))
		var stop context.CancelFunc
		waiting, stop = context.WithTimeout(ctx, brokenTimeout)
		defer stop()
	}
	outcome, err := c.waitTask(waiting, task)
	switch {
	case ctx.Err() != nil:
		return c.abandonExport(ctx, task)
	case err != nil && !ended:
		return failure // it was cancelled; whoever wants the disk next finds out whether it is free
	case err != nil:
		return errors.Join(failure, fmt.Errorf("%s: %w: %w", exportMethod, ErrOutcomeUnknown, err))
	}
	c.destroyTask(ctx, task)
	if ended && outcome.Status != TaskSuccess {
		return errors.Join(taskError(exportMethod, outcome), failure)
	}
	return failure
}

// steady is a stream whose host may not fall silent while it is read. A reader may take its time: what waits for it does not count.
type steady struct {
	from     io.Reader
	ctx      context.Context // of the request
	patience time.Duration
	stop     context.CancelCauseFunc
	host     string
}

func (s *steady) Read(p []byte) (int, error) {
	timer := time.AfterFunc(s.patience, func() {
		s.stop(fmt.Errorf("%s sent nothing more for %v: %w", s.host, s.patience, context.DeadlineExceeded))
	})
	n, err := s.from.Read(p)
	timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		if s.ctx.Err() != nil {
			err = context.Cause(s.ctx)
		}
		err = &transportError{fmt.Errorf("export from %s: %w", s.host, err)}
	}
	return n, err
}

func (c *Client) abandonExport(ctx context.Context, task Ref) error {
	cause := fmt.Errorf("%s: %w", exportMethod, context.Cause(ctx))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer cancel()
	err := c.cancelTask(ctx, task)
	_ = c.Call(ctx, "task.destroy", nil, task) // while it is pending the pool removes it when it has ended
	return errors.Join(cause, err)
}

// requestExport asks the hosts that have the SR for the disk, and those that they name, until one gives it.
func (c *Client) requestExport(ctx context.Context, o DiskExport, task Ref) (*http.Response, error) {
	addresses, err := c.addressesOf(ctx, o.SR)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, address := range addresses {
		reply, err := c.get(ctx, address, o, task)
		if err == nil {
			return reply, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var refused *StatusError
		if errors.As(err, &refused) {
			break // the host has decided, and its task may have ended
		}
	}
	return nil, errors.Join(failures...)
}

// get sends one request, and goes where the host sends it.
func (c *Client) get(ctx context.Context, address string, o DiskExport, task Ref) (*http.Response, error) {
	current, err := c.current()
	if err != nil {
		return nil, err
	}
	for range maxRedirects + 1 {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, exportURL(address, current.ref, o, task), nil)
		if err != nil {
			return nil, withoutURL(err)
		}
		reply, err := c.http.Do(request)
		if err != nil {
			return nil, &transportError{fmt.Errorf("export from %s: %w", address, withoutURL(err))}
		}
		if reply.StatusCode == http.StatusOK {
			return reply, nil
		}
		page, _ := io.ReadAll(io.LimitReader(reply.Body, pageLimit)) // of what was refused anyway
		reply.Body.Close()
		if reply.StatusCode != http.StatusFound {
			return nil, &StatusError{Address: address, Status: reply.StatusCode, Text: pageText(page)}
		}
		if address, err = redirected(address, reply.Header.Get("Location")); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("the hosts send the export on to one another, last to %s: try again", address)
}

func exportURL(address, session string, o DiskExport, task Ref) string {
	query := url.Values{"session_id": {session}, "task_id": {string(task)}, "vdi": {string(o.VDI)}, "format": {o.Format}}
	if !o.Base.IsNull() {
		query.Set("base", string(o.Base))
	}
	target := url.URL{Scheme: "https", Host: address, Path: "/export_raw_vdi", RawQuery: query.Encode()}
	return target.String()
}
