package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// ErrNothingToReverse says that none of a job's replicas has failed over.
var ErrNothingToReverse = errors.New("none of its replicas does its source's work: 'understudy replica list' shows how they are")

// ErrNothingToFailBack says that none of a job's replicas is reversed.
var ErrNothingToFailBack = errors.New("none of its replicas is reversed: 'understudy job reverse' comes first")

// ReverseOptions are about one reverse.
type ReverseOptions struct {
	Name      string           // of the job in the other direction, when it is made; empty: the job's, with ' (reverse)'
	Direction report.Direction // who dials in it; empty: the side that dials in the job
	SR        string           // in the source's pool, for disks that are gone; empty: where the former sources' disks are
	NoKeep    bool             // see replication.ReverseRequest
	// Used are the uuids of VMs, source or replica, whose replicas count as failed over although nobody said so and they are halted again.
	Used []string
}

// Reversed is what became of one replica.
type Reversed struct {
	Replica string     `json:"replica"` // id
	Pair    string     `json:"pair"`    // id of the replica that its former source has become; empty: it has not
	VM      report.VM  `json:"vm"`      // that does the work now
	Former  report.VM  `json:"former"`  // its former source
	Run     report.Run `json:"run,omitzero"`
	Error   string     `json:"error,omitempty"`
}

// Reverse reverses all replicas of a job that have failed over, and makes the job in the other direction, or adds what is new to the one
// that it has made before. Replicas that are reversed already are no error, so that it may be repeated. One that fails does not keep the
// others; their errors are joined. The job is made of those that are reversed, if any.
func (r *Runner) Reverse(ctx context.Context, j state.Job, options ReverseOptions) (state.Job, []Reversed, error) {
	look, err := r.look(ctx, j.Definition)
	if err != nil {
		return state.Job{}, nil, err
	}
	records, err := r.replicasOf(ctx, j, look)
	if err != nil {
		return state.Job{}, nil, err
	}
	var all []Reversed
	var pairs []state.Replica
	var errs []error
	back, known, err := r.reverseJob(ctx, records)
	if err != nil {
		return state.Job{}, nil, err
	}
	for _, record := range records {
		if !reversible(record, look, options.Used) {
			continue
		}
		one := Reversed{
			Replica: record.ID, VM: look.named(look.to, look.target, record.TargetVM), Former: look.named(look.from, look.source, record.SourceVM),
		}
		var err error
		if replica.Failover(record.Failover.State) != replica.Reversed {
			sr := options.SR
			if known {
				sr = back.Definition.SR
			} else if sr == "" && len(pairs) > 0 {
				sr = pairs[0].TargetSR // one job has one storage
			}
			one.Run, err = r.replication(nil).Reverse(ctx, replication.ReverseRequest{
				Replica: record.ID, Source: look.source, Target: look.target, SR: sr, NoKeep: options.NoKeep,
				Used: slices.Contains(options.Used, record.SourceVM) || slices.Contains(options.Used, record.TargetVM),
			})
		}
		pair := state.Replica{}
		if err == nil {
			pair, err = r.pairOf(ctx, record.ID)
		}
		if err != nil {
			one.Error = err.Error()
			errs = append(errs, fmt.Errorf("VM %s: %w", cmp.Or(one.VM.Name, one.VM.UUID), err))
		} else {
			one.Pair = pair.ID
			pairs = append(pairs, pair)
		}
		all = append(all, one)
	}
	switch {
	case len(all) == 0:
		return state.Job{}, nil, fmt.Errorf("job %s: %w", j.Definition.Name, ErrNothingToReverse)
	case len(pairs) == 0:
		return state.Job{}, all, errors.Join(errs...)
	}
	if known {
		back, err = r.widen(ctx, back, pairs)
	} else {
		back, err = r.Store.CreateJob(ctx, look.reversed(j.Definition, pairs, options))
	}
	return back, all, errors.Join(append(errs, err)...)
}

func (r *Runner) replication(observe func(report.Run)) *replication.Engine {
	return &replication.Engine{Store: r.Store, Log: r.Log, Observe: observe, Retention: job.DefaultRetention}
}

// pairOf reads the pair in the other direction of a replica.
func (r *Runner) pairOf(ctx context.Context, id string) (state.Replica, error) {
	record, err := r.Store.Replica(ctx, id)
	if err != nil {
		return state.Replica{}, err
	}
	pair, err := r.Store.Replica(ctx, record.Failover.Note.Reverse)
	if errors.Is(err, state.ErrNotFound) {
		err = fmt.Errorf("its reverse pair was detached; detach it, too: %w", err)
	}
	return pair, err
}

// replicasOf are the replicas of a job: of the VMs that its selectors mean, whatever these are now, and of those that its runs have had.
func (r *Runner) replicasOf(ctx context.Context, j state.Job, look *look) ([]state.Replica, error) {
	meant := map[string]bool{}
	for _, excluded := range []bool{false, true} {
		for _, s := range j.Definition.VMs {
			for _, vm := range look.from.VMs {
				if s.Exclude == excluded && !vm.IsASnapshot && s.Matches(vm.UUID, vm.NameLabel, vm.Tags) {
					meant[vm.UUID] = !excluded
				}
			}
			if s.UUID != "" && s.Exclude == excluded {
				meant[strings.ToLower(s.UUID)] = !excluded
			}
		}
	}
	runs, err := r.Store.JobRuns(ctx, j.ID, lastRuns)
	if err != nil {
		return nil, err
	}
	for _, run := range runs {
		for _, vm := range run.Report.VMs {
			if _, known := meant[vm.VM.UUID]; !known {
				meant[vm.VM.UUID] = true
			}
		}
	}
	sr, err := look.to.FindSR(j.Definition.SR)
	if err != nil {
		return nil, err
	}
	records, err := r.Store.Replicas(ctx)
	return slices.DeleteFunc(records, func(record state.Replica) bool {
		return record.SourcePool != j.Definition.Source || record.TargetPool != j.Definition.Target || record.TargetSR != sr.UUID || !meant[record.SourceVM]
	}), err
}

// lastRuns is how many runs of a job are asked for VMs that it does not mean any more, or that are gone.
const lastRuns = 20

// reversible reports whether a replica does its source's work, by what is known or by what the administrator says.
func reversible(record state.Replica, look *look, used []string) bool {
	switch replica.Failover(record.Failover.State) {
	case replica.FailedOver, replica.Committed, replica.Reversing, replica.Reversed:
		return true
	case replica.Standby:
		if slices.Contains(used, record.SourceVM) || slices.Contains(used, record.TargetVM) {
			return true
		}
		vm, err := look.to.FindVM(record.TargetVM)
		return record.TargetVM != "" && err == nil && vm.PowerState != "Halted"
	}
	return false
}

// named names a VM as its pool does.
func (l *look) named(view *inventory.Pool, pool *delegate.Pool, uuid string) report.VM {
	vm := report.VM{UUID: uuid, Pool: pool.Name, PoolUUID: view.UUID}
	if found, err := view.FindVM(uuid); err == nil {
		vm.Name = found.NameLabel
	}
	return vm
}

// reverseJob finds the job in the other direction of some replicas: one that names one of their VMs by its uuid.
func (r *Runner) reverseJob(ctx context.Context, records []state.Replica) (found state.Job, ok bool, err error) {
	jobs, err := r.Store.Jobs(ctx)
	for _, j := range jobs {
		for _, record := range records {
			if record.Failover.State != "" && names(j.Definition, record) {
				return j, true, err
			}
		}
	}
	return state.Job{}, false, err
}

// names reports whether a job replicates the VM of a replica back.
func names(d job.Definition, record state.Replica) bool {
	return d.Source == record.TargetPool && d.Target == record.SourcePool && slices.ContainsFunc(d.VMs, func(s job.Selector) bool {
		return !s.Exclude && s.UUID != "" && s.UUID == record.TargetVM
	})
}

// widen has a job choose the VMs of these pairs, too.
func (r *Runner) widen(ctx context.Context, j state.Job, pairs []state.Replica) (state.Job, error) {
	d := j.Definition
	for _, pair := range pairs {
		if !slices.ContainsFunc(d.VMs, func(s job.Selector) bool { return s.UUID == pair.SourceVM }) {
			d.VMs = append(slices.Clone(d.VMs), job.Selector{UUID: pair.SourceVM})
		}
	}
	if len(d.VMs) == len(j.Definition.VMs) {
		return j, nil
	}
	return r.Store.UpdateJob(ctx, j.ID, d)
}

// reversed is the job in the other direction. Who dials stays who dials, since the lines between the pools may only be open that way.
func (l *look) reversed(d job.Definition, pairs []state.Replica, options ReverseOptions) job.Definition {
	back := job.Definition{
		Name: cmp.Or(options.Name, d.Name+" (reverse)"), Source: d.Target, Target: d.Source, SR: pairs[0].TargetSR,
		DiskSRs: l.diskSRs(pairs), Networks: l.reversedNetworks(d, pairs), NamePattern: "{vm}", Options: d.Options,
	}
	for _, pair := range pairs {
		back.VMs = append(back.VMs, job.Selector{UUID: pair.SourceVM})
	}
	if len(pairs) == 1 { // the name counts where the former source is gone and a new one is made; else it keeps its own
		if former, err := l.from.FindVM(pairs[0].TargetVM); err == nil {
			back.NamePattern = former.NameLabel
		}
	}
	back.Options.KeepTarget = false // the former sources are there
	back.Options.Direction = report.Pull
	if d.Options.Direction == report.Pull {
		back.Options.Direction = report.Push
	}
	back.Options.Direction = cmp.Or(options.Direction, back.Options.Direction)
	return back
}

// diskSRs gives the disks of the former sources that lie elsewhere than the first of them their storage, where they agree.
func (l *look) diskSRs(pairs []state.Replica) map[string]string {
	found, differ := map[string]string{}, map[string]bool{}
	for _, pair := range pairs {
		for _, d := range pair.Disks {
			for _, vdi := range l.from.VDIs {
				if vdi.UUID != d.TargetVDI {
					continue
				}
				sr := l.from.SRs[vdi.SR].UUID
				differ[d.Disk] = differ[d.Disk] || found[d.Disk] != "" && found[d.Disk] != sr
				found[d.Disk] = sr
			}
		}
	}
	maps.DeleteFunc(found, func(disk, sr string) bool { return sr == pairs[0].TargetSR || differ[disk] })
	if len(found) == 0 {
		return nil
	}
	return found
}

// reversedNetworks inverts the job's network map, by name. Where several networks of the source lead to one of the target there is no way
// back that would be right for every interface: such a rule names what does not exist, and the interfaces stay where they are.
func (l *look) reversedNetworks(d job.Definition, pairs []state.Replica) map[string]string {
	from := map[string]bool{}
	for name := range d.Networks {
		from[name] = true
	}
	for _, pair := range pairs {
		if vm, err := l.from.FindVM(pair.TargetVM); err == nil {
			for _, ref := range vm.VIFs {
				from[l.from.Networks[l.from.VIFs[ref].Network].NameLabel] = true
			}
		}
	}
	back := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		to := name
		if wanted, ruled := d.Networks[name]; ruled {
			network, err := l.to.FindNetwork(wanted)
			if err != nil {
				continue // it leads nowhere
			}
			to = l.to.Networks[network].NameLabel
		}
		back[to] = append(back[to], name)
	}
	rules := map[string]string{}
	for to, names := range back {
		if len(names) > 1 || names[0] != to {
			rules[to] = strings.Join(names, " or ")
		}
	}
	if len(rules) == 0 {
		return nil
	}
	return rules
}
