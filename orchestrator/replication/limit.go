package replication

import (
	"context"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/transfer"
)

// limit holds the sending delegate to the job's limit as the hours pass, until stop. That it holds now is certain when limit
// returns without an error.
func (r *run) limit(ctx context.Context) (stop func(), err error) {
	schedule := r.request.Limit
	if len(schedule) == 0 || r.delegates.shared() {
		return func() {}, nil
	}
	sender := r.delegates.source
	holds := schedule.At(time.Now())
	if err := r.ask(ctx, sender, func() error { return sender.Control().SetLimit(ctx, holds) }); err != nil {
		return nil, err
	}
	return r.follow(ctx, holds, sender.Control().SetLimit), nil
}

// limitCopies is limit for what the orchestrator itself sends.
func (r *run) limitCopies(ctx context.Context) (limiter *transfer.Limiter, stop func()) {
	limiter = &transfer.Limiter{}
	schedule := r.request.Limit
	if len(schedule) == 0 {
		return limiter, func() {}
	}
	holds := schedule.At(time.Now())
	limiter.Set(holds)
	return limiter, r.follow(ctx, holds, func(_ context.Context, limit int64) error { limiter.Set(limit); return nil })
}

// follow changes the limit that holds now as the hours pass, until stop.
func (r *run) follow(ctx context.Context, holds int64, change func(ctx context.Context, limit int64) error) (stop func()) {
	schedule := r.request.Limit
	r.report.event("limit", "sends at %s, by %s", ratelimit.Rate(holds), schedule)
	told := true // that it can be set
	set := func(ctx context.Context, limit int64) error {
		if limit == holds {
			return nil
		}
		err := change(ctx, limit)
		switch {
		case err == nil:
			holds, told = limit, true
			r.report.event("limit", "sends at %s from now on", ratelimit.Rate(limit))
		case ctx.Err() == nil && told:
			told = false
			r.report.event("limit", "the limit of %s could not be set, %s still holds: %v; it is tried again", ratelimit.Rate(limit), ratelimit.Rate(holds), err)
		}
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { schedule.Follow(ctx, set) })
	return func() { cancel(); following.Wait() }
}
