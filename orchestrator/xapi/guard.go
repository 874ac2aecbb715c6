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
func ReadOnly(api API) API { return Guard(api, func() error { return ErrReadOnly }) }

// Guard asks before every call that may change something, by its name, whether it may be made. When may answers with an error the
// call is not made, and the error is the call's. It is asked at the last moment before the call, so that it also stops a caller
// that was held up since its decision.
func Guard(api API, may func() error) API { return guard{api, may} }

type guard struct {
	api API
	may func() error
}

// reads reports whether a method only reads: getters, and what is computed of a record.
func reads(method string) bool {
	_, message, _ := strings.Cut(method, ".")
	return strings.HasPrefix(message, "get_") || strings.HasPrefix(message, "compute_")
}

// check says why a call may not be made.
func (g guard) check(method string) error {
	if reads(method) {
		return nil
	}
	if err := g.may(); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

func (g guard) Call(ctx context.Context, method string, result any, args ...any) error {
	if err := g.check(method); err != nil {
		return err
	}
	return g.api.Call(ctx, method, result, args...)
}

func (g guard) Run(ctx context.Context, method string, result *string, args ...any) error {
	if err := g.check(method); err != nil {
		return err
	}
	return g.api.Run(ctx, method, result, args...)
}

func (g guard) Events(ctx context.Context, classes []string, token string, timeout time.Duration) (EventBatch, error) {
	return g.api.Events(ctx, classes, token, timeout)
}

func (g guard) Import(ctx context.Context, o ImportOptions) ([]Ref, error) {
	if err := g.check("importing"); err != nil {
		return nil, err
	}
	return g.api.Import(ctx, o)
}

// ExportDisk counts as a change, for it attaches the disk in the pool for as long as it takes.
func (g guard) ExportDisk(ctx context.Context, o DiskExport, read func(io.Reader) error) error {
	if err := g.check("exporting a disk"); err != nil {
		return err
	}
	return g.api.ExportDisk(ctx, o, read)
}

func (g guard) ImportDisk(ctx context.Context, o DiskImport) error {
	if err := g.check("importing a disk"); err != nil {
		return err
	}
	return g.api.ImportDisk(ctx, o)
}
