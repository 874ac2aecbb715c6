package xapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// stub answers calls by a function; a task is a call of its method.
type stub func(method string, result any, args []any) error

func (s stub) Call(_ context.Context, method string, result any, args ...any) error {
	return s(method, result, args)
}

func (s stub) Run(_ context.Context, method string, _ *string, args ...any) error {
	return s(method, nil, args)
}

func (s stub) Import(context.Context, xapi.ImportOptions) ([]xapi.Ref, error) {
	return nil, errors.New("no imports here")
}

func (s stub) ExportDisk(context.Context, xapi.DiskExport, func(io.Reader) error) error {
	return errors.New("no exports here")
}

func (s stub) ImportDisk(context.Context, xapi.DiskImport) error {
	return errors.New("no imports here")
}

func (s stub) Events(context.Context, []string, string, time.Duration) (xapi.EventBatch, error) {
	return xapi.EventBatch{}, errors.New("not asked for here")
}

func invalid(class, ref string) error {
	return fmt.Errorf("wrapped: %w", &xapi.Error{Code: "HANDLE_INVALID", Params: []string{class, ref}})
}

func TestOnlyTheObjectItselfIsGone(t *testing.T) {
	there := stub(func(string, any, []any) error { return nil })
	gone := stub(func(string, any, []any) error { return invalid("VM", "OpaqueRef:vm") })
	other := errors.New("other")
	for name, c := range map[string]struct {
		api  stub
		err  error
		gone bool
	}{
		"itself":                            {there, invalid("VM", "OpaqueRef:vm"), true},
		"another, and it is there":          {there, invalid("VDI", "OpaqueRef:vdi"), false},
		"another, and it is gone too":       {gone, invalid("VDI", "OpaqueRef:vdi"), true},
		"a task of which nothing is known":  {there, fmt.Errorf("%w: %w", xapi.ErrOutcomeUnknown, invalid("task", "OpaqueRef:t")), false},
		"something that is not about being": {gone, other, false},
	} {
		if err := xapi.UnlessGone(t.Context(), c.api, "VM", "OpaqueRef:vm", c.err); (err == nil) != c.gone || err != nil && err != c.err {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := xapi.UnlessGone(t.Context(), there, "VM", "OpaqueRef:vm", nil); err != nil {
		t.Error(err)
	}
}

func TestDestroyVDIDoesNotTakeALostTaskForTheDisk(t *testing.T) {
	api := stub(func(method string, _ any, _ []any) error {
		if method == "VDI.destroy" {
			return invalid("SR", "OpaqueRef:sr")
		}
		return nil
	})
	if err := xapi.DestroyVDI(t.Context(), api, "OpaqueRef:vdi"); !xapi.IsCode(err, "HANDLE_INVALID") {
		t.Errorf("a disk that is there was taken for destroyed: %v", err)
	}
}

func TestIsTemporary(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"booting":       {&xapi.Error{Code: "HOST_STILL_BOOTING"}, true},
		"unknown":       {fmt.Errorf("x: %w", xapi.ErrOutcomeUnknown), true},
		"proxy":         {&xapi.StatusError{Status: 503}, true},
		"not readable":  {&xapi.StatusError{Status: 500}, false},
		"password":      {errors.Join(&xapi.Error{Code: "SESSION_INVALID"}, xapi.ErrAuthentication), false},
		"certificate":   {errors.Join(xapi.ErrOutcomeUnknown, &xapi.CertificateError{}), false},
		"in use":        {&xapi.Error{Code: "VDI_IN_USE"}, false},
		"nothing wrong": {nil, false},
	} {
		if got := xapi.IsTemporary(c.err); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	host := newFakeHost(t, "127.0.0.1:0")
	client := dial(t, configFor(host))
	host.on("VM.destroy", cut)
	if err := client.Call(t.Context(), "VM.destroy", nil); !xapi.IsTemporary(err) {
		t.Errorf("a broken connection: %v", err)
	}
}

// TestAwaitTasks has a pool on which tasks of the name never cease, each of them short or one of them long.
func TestAwaitTasks(t *testing.T) {
	for name, c := range map[string]struct {
		task     func(since time.Duration) xapi.Ref // that is pending
		ended    bool
		min, max time.Duration
	}{
		"none":                 {func(time.Duration) xapi.Ref { return "" }, true, 0, 0},
		"short ones, for ever": {func(d time.Duration) xapi.Ref { return xapi.Ref(fmt.Sprint(d / time.Second)) }, true, time.Second, 2 * time.Second},
		"one, for ever":        {func(time.Duration) xapi.Ref { return "one" }, false, 30 * time.Second, 31 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				api := stub(func(_ string, result any, _ []any) error {
					tasks := map[xapi.Ref]xapi.Task{"other": {NameLabel: "Async.VM.start", Status: xapi.TaskPending}}
					if ref := c.task(time.Since(began)); ref != "" {
						tasks[ref] = xapi.Task{NameLabel: "Async.VM.clone", Status: xapi.TaskPending}
					}
					*result.(*map[xapi.Ref]xapi.Task) = tasks
					return nil
				})
				ended, err := xapi.AwaitTasks(t.Context(), api, "Async.VM.clone")
				if took := time.Since(began); err != nil || ended != c.ended || took < c.min || took > c.max {
					t.Errorf("ended %v after %v, %v", ended, took, err)
				}
			})
		})
	}
}
