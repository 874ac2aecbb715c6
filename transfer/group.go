package transfer

import (
	"context"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/errgroup"
)

// group runs the stages of a transfer. A stage that panics fails the transfer
// with its stack as the cause, not the process with its other disks.
type group struct{ errgroup *errgroup.Group }

func newGroup(ctx context.Context) (group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	return group{g}, ctx
}

// Go runs f. The first error ends the group's context.
func (g group) Go(f func() error) {
	g.errgroup.Go(func() (err error) {
		defer guard(&err)
		return f()
	})
}

// Wait returns the first error when all have ended.
func (g group) Wait() error { return g.errgroup.Wait() }

// guard makes an error of a panic.
func guard(err *error) {
	if cause := recover(); cause != nil {
		*err = fmt.Errorf("%w: %v\n%s", ErrDefect, cause, debug.Stack())
	}
}
