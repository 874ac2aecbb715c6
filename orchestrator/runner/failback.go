package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// FailbackOptions are about one failback.
type FailbackOptions struct {
	Hard    bool // shut VMs down without asking their guests
	NoStart bool // leave the former sources halted
}

// Failback has the former source of a replica, by its id, take the work over again. The pair is replicated as the job in the other
// direction says; when there is no such job any more, it is pushed, without trust. That job forgets the VM,
// and is deleted with its last one.
func (r *Runner) Failback(ctx context.Context, id string, options FailbackOptions) (report.Run, error) {
	record, err := r.Store.Replica(ctx, id)
	if err != nil {
		return report.Run{}, err
	}
	source, err := r.Connect(ctx, record.SourcePool)
	if err != nil {
		return report.Run{}, err
	}
	target, err := r.Connect(ctx, record.TargetPool)
	if err != nil {
		return report.Run{}, err
	}
	request := replication.FailbackRequest{
		Replica: id, Source: source, Target: target, Hard: options.Hard, NoStart: options.NoStart,
		Run: replication.Request{Direction: report.Push},
		Forgotten: func(ctx context.Context) error {
			back, ok, err := r.reverseJob(ctx, []state.Replica{record})
			if err != nil || !ok {
				return err
			}
			return r.narrow(ctx, back, record.TargetVM)
		},
	}
	back, ok, err := r.reverseJob(ctx, []state.Replica{record})
	if err != nil {
		return report.Run{}, err
	}
	if ok {
		request.Run = (&look{definition: back.Definition, source: target, target: source}).request(record.TargetVM, "")
	}
	return r.replication(r.ObserveVM).Failback(ctx, request)
}

// narrow has a job choose a VM no more. Without it there may be nothing left: then the job goes, or is disabled while a run of it is
// under way.
func (r *Runner) narrow(ctx context.Context, j state.Job, vm string) error {
	d := j.Definition
	d.VMs = slices.DeleteFunc(slices.Clone(d.VMs), func(s job.Selector) bool { return s.UUID == vm })
	if slices.ContainsFunc(d.VMs, func(s job.Selector) bool { return !s.Exclude }) {
		_, err := r.Store.UpdateJob(ctx, j.ID, d)
		return err
	}
	err := r.Store.DeleteJob(ctx, j.ID)
	if errors.Is(err, state.ErrBusy) {
		err = r.Store.EnableJob(ctx, j.ID, false)
	}
	return err
}

// FailedBack is what became of one replica.
type FailedBack struct {
	Replica string     `json:"replica"` // id
	Run     report.Run `json:"run,omitzero"`
	Error   string     `json:"error,omitempty"`
}

// FailbackJob fails all replicas of a job back that are reversed, one after the other. One that fails does not keep the others; their
// errors are joined.
func (r *Runner) FailbackJob(ctx context.Context, j state.Job, options FailbackOptions) ([]FailedBack, error) {
	look, err := r.look(ctx, j.Definition)
	if err != nil {
		return nil, err
	}
	records, err := r.replicasOf(ctx, j, look)
	if err != nil {
		return nil, err
	}
	var all []FailedBack
	var errs []error
	for _, record := range records {
		now := replica.Failover(record.Failover.State)
		if now != replica.Reversed && now != replica.FailingBack {
			continue
		}
		if ctx.Err() != nil {
			return all, errors.Join(append(errs, context.Cause(ctx))...)
		}
		one := FailedBack{Replica: record.ID}
		one.Run, err = r.Failback(ctx, record.ID, options)
		if err != nil {
			one.Error = err.Error()
			errs = append(errs, fmt.Errorf("VM %s: %w", cmp.Or(look.named(look.to, look.target, record.TargetVM).Name, record.TargetVM), err))
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("job %s: %w", j.Definition.Name, ErrNothingToFailBack)
	}
	return all, errors.Join(errs...)
}
