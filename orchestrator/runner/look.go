package runner

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

// look is what a job is carried out on: its pools, as they are at this moment.
type look struct {
	definition     job.Definition
	source, target *delegate.Pool  // without inventories, for each VM run reads them anew; one and the same when the pools are
	from, to       *inventory.Pool // of source and target
	exempt         map[string]bool // see Runner.exempt
}

// unreachable says that a pool could not be read.
type unreachable struct {
	pool string
	err  error
}

func (e *unreachable) Error() string { return fmt.Sprintf("pool %s: %v", e.pool, e.err) }
func (e *unreachable) Unwrap() error { return e.err }

// look connects to both pools and reads them.
func (r *Runner) look(ctx context.Context, d job.Definition) (*look, error) {
	source, from, err := r.read(ctx, d.Source)
	if err != nil {
		return nil, err
	}
	exempt, err := r.exempt(ctx, d)
	if err != nil {
		return nil, err
	}
	if d.Source == d.Target {
		return &look{d, source, source, from, from, exempt}, nil
	}
	target, to, err := r.read(ctx, d.Target)
	if err != nil {
		return nil, err
	}
	return &look{d, source, target, from, to, exempt}, nil
}

// exempt are the VMs that are chosen although they bear a replica's marker, by their uuids: those of replicas that do their sources' work,
// where these are in the same pool by their uuids only (false), else a job would go on with the replica in its source's place; and the
// former sources, which have become replicas themselves, for the job from them only, whose runs leave them out.
func (r *Runner) exempt(ctx context.Context, d job.Definition) (map[string]bool, error) {
	records, err := r.Store.Replicas(ctx)
	if err != nil {
		return nil, err
	}
	exempt := map[string]bool{}
	for _, record := range records {
		switch replica.Failover(record.Failover.State) {
		case replica.FailedOver, replica.Committed, replica.Reversing, replica.Reversed, replica.FailingBack:
			exempt[record.TargetVM] = record.SourcePool != record.TargetPool
			if record.SourcePool == d.Source && record.TargetPool == d.Target {
				exempt[record.SourceVM] = true
			}
		}
	}
	return exempt, nil
}

func (r *Runner) read(ctx context.Context, uuid string) (*delegate.Pool, *inventory.Pool, error) {
	known, err := r.Store.Pool(ctx, uuid)
	if err != nil {
		return nil, nil, err
	}
	connected, err := r.Connect(ctx, uuid)
	if err != nil {
		return nil, nil, &unreachable{known.Name, err}
	}
	view, err := inventory.Load(ctx, connected.API)
	if err != nil {
		return nil, nil, &unreachable{known.Name, err}
	}
	pool := *connected
	pool.Inventory = nil
	return &pool, view, nil
}

// choose resolves the job's selectors.
func (l *look) choose(installation string, uuids []string) ([]inventory.VM, []report.Finding) {
	chosen, found := choose(l.from, installation, l.exempt, l.definition.VMs)
	chosen, missing := only(chosen, uuids)
	return chosen, append(append(found, missing...), namesAlike(l.definition.NamePattern, len(chosen))...)
}

func (l *look) vm(vm inventory.VM) report.VM {
	return report.VM{UUID: vm.UUID, Name: vm.NameLabel, Pool: l.source.Name, PoolUUID: l.from.UUID}
}

// request is what package replication is asked for one VM.
func (l *look) request(vm, jobRun string) replication.Request {
	d := l.definition
	direction := d.Options.Direction
	if direction == "" {
		direction = report.Push
	}
	return replication.Request{
		Source: l.source, Target: l.target, VM: vm, SR: d.SR, DiskSRs: d.DiskSRs, Method: d.Options.Method, Direction: direction, Trust: d.Options.Trust,
		OverwriteTarget: !d.Options.KeepTarget, NetworkMap: d.Networks, NewMACs: d.Options.NewMACs, NamePattern: d.NamePattern,
		CBT: replication.CBT(d.Options.CBT), ReadBack: replication.ReadBack(d.Options.ReadBack), Limit: d.Options.Limit, JobRun: jobRun,
		Retention: d.Options.Retention, RequireRestorePoint: d.Options.RequireRestorePoint, DropVTPM: d.Options.DropVTPM,
		Consistency: d.Options.Consistency,
	}
}
