package xapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// ErrReadOnly says that a call would have changed something in a pool that is only to be looked at. It was not made.
var ErrReadOnly = errors.New("nothing is to be changed here")

// ReadOnly lets calls through that change nothing, by their names, and answers every other with ErrReadOnly. What is decided
// on the way to a change is decided as ever, so that it serves to see what code would do.
func ReadOnly(api API) API { return readOnly{api} }

type readOnly struct{ api API }

// reads reports whether a method only reads: getters, and what is computed of a record.
func reads(method string) bool {
	_, message, _ := strings.Cut(method, ".")
	return strings.HasPrefix(message, "get_") || strings.HasPrefix(message, "compute_")
}

func (r readOnly) Call(ctx context.Context, method string, result any, args ...any) error {
	if !reads(method) {
		return fmt.Errorf("%s: %w", method, ErrReadOnly)
	}
	return r.api.Call(ctx, method, result, args...)
}

func (r readOnly) Run(ctx context.Context, method string, result *string, args ...any) error {
	if !reads(method) {
		return fmt.Errorf("%s: %w", method, ErrReadOnly)
	}
	return r.api.Run(ctx, method, result, args...)
}

func (r readOnly) Events(ctx context.Context, classes []string, token string, timeout time.Duration) (EventBatch, error) {
	return r.api.Events(ctx, classes, token, timeout)
}

func (r readOnly) Import(context.Context, ImportOptions) ([]Ref, error) {
	return nil, fmt.Errorf("importing: %w", ErrReadOnly)
}

// ExportDisk is refused, for it attaches the disk in the pool for as long as it takes.
func (r readOnly) ExportDisk(context.Context, DiskExport, func(io.Reader) error) error {
	return fmt.Errorf("exporting a disk: %w", ErrReadOnly)
}

func (r readOnly) ImportDisk(context.Context, DiskImport) error {
	return fmt.Errorf("importing a disk: %w", ErrReadOnly)
}
