package replication

import (
	"context"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

// ReplicateWith is Replicate with something that happens between the look at the pools and the run.
func (e *Engine) ReplicateWith(ctx context.Context, request Request, between func()) (report.Run, error) {
	s, err := e.resolve(ctx, request)
	if err != nil {
		return report.Run{}, err
	}
	between()
	r, err := e.begin(ctx, s)
	if err != nil {
		return report.Run{}, err
	}
	return r.finish(ctx, r.execute(ctx))
}
