package replication

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

// SetLine has delegates dial one another by what line makes of their addresses.
func (e *Engine) SetLine(line func(address string) (string, error)) { e.line = line }

// SetReach has reach told of every border of a recorded step.
func (e *Engine) SetReach(reach func(border string)) { e.reach = reach }

// SetLeaseTime shortens the leases of replicas.
func (e *Engine) SetLeaseTime(d time.Duration) { e.leaseTime = d }

// Coarser marks whole units.
var Coarser = coarser

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
	return r.carry(ctx, r.execute)
}
