package xapisim

import (
	"context"
	"time"
)

// paceKey is of the bytes a second that a call may copy on an SR.
type paceKey struct{}

// paced limits what the calls of a context copy.
func paced(ctx context.Context, bytesPerSecond int64) context.Context {
	return context.WithValue(ctx, paceKey{}, bytesPerSecond)
}

// pace is the limit of a context, 0 for none.
func pace(ctx context.Context) int64 {
	rate, _ := ctx.Value(paceKey{}).(int64)
	return rate
}

// took waits as long as a slow SR takes for n bytes, and gives ctx's error.
func took(ctx context.Context, n int64) error {
	if rate := pace(ctx); rate > 0 {
		sleep(ctx, time.Duration(float64(n)/float64(rate)*float64(time.Second)))
	}
	return ctx.Err()
}
