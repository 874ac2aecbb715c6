package replication

import (
	"context"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/transfer"
)

// SeedPlan is a disk of another replica in which a new disk's content is looked for before it is sent: VMs that were made from
// one template have most of it in common.
type SeedPlan struct {
	VM           string `json:"vm"` // uuid of that replica
	Name         string `json:"name"`
	RestorePoint string `json:"restore_point"` // uuid of its newest one
	Disk         string `json:"disk"`
	VDI          string `json:"vdi"`  // uuid, of the restore point's disk
	Size         int64  `json:"size"` // virtual size in bytes

	ref xapi.Ref
}

// findSeeds finds the disks of the restore points that the request names. Naming something else is an error; what cannot be of
// use this time is a note.
func (s *subject) findSeeds(installation string) error {
	var seeds []SeedPlan
	for _, name := range s.request.Seeds {
		vm, err := s.target.Inventory.FindVM(name)
		if err != nil {
			return fmt.Errorf("seed: %w", err)
		}
		points := restorePointsOf(installation, s.target.Inventory.VMs, vm.Ref)
		if len(points) == 0 {
			return fmt.Errorf("seed: VM %s (%s) has no restore point of this installation: name a replica that was committed", vm.NameLabel, vm.UUID)
		}
		disks, err := s.target.Inventory.DisksOf(points[0].ref)
		if err != nil {
			return fmt.Errorf("seed: %w", err)
		}
		for _, d := range disks {
			sr := s.target.Inventory.SRs[d.VDI.SR]
			if !s.isTarget(d.VDI.SR) {
				s.note("seed-elsewhere", "disk %d of VM %s is on SR %s, on which the replica has no disk: it is no seed", d.Number, vm.NameLabel, sr.NameLabel)
				continue
			}
			if !inventory.Thin(sr) {
				s.note("seeds-unused", "SR %s gives a clone its full size: disk %d of VM %s is no seed", sr.NameLabel, d.Number, vm.NameLabel)
				continue
			}
			seeds = append(seeds, SeedPlan{
				VM: vm.UUID, Name: vm.NameLabel, RestorePoint: points[0].vm.UUID, Disk: diskName(d.Number),
				VDI: d.VDI.UUID, Size: d.VDI.VirtualSize, ref: d.VDIRef,
			})
		}
	}
	if len(seeds) > transfer.MaxSeeds {
		s.note("seeds-left-out", "%d disks could be seeds: the first %d are", len(seeds), transfer.MaxSeeds)
		seeds = seeds[:transfer.MaxSeeds]
	}
	s.seeds = seeds
	return nil
}

// isTarget reports whether a disk of the replica lies or will lie on an SR: the target's delegate sees that.
func (s *subject) isTarget(sr xapi.Ref) bool {
	return slices.ContainsFunc(s.disks, func(d inventory.Disk) bool { return s.diskSR(diskName(d.Number)).Ref == sr })
}

// planSeeds keeps the seeds that the plan has a use for: a disk that is there already is compared with its source, and a copy inside
// one delegate sends nothing.
func (s *subject) planSeeds() {
	if len(s.seeds) == 0 {
		return
	}
	made := slices.ContainsFunc(s.plan.Disks, func(d DiskPlan) bool { return d.Action == ActionCreate })
	if made && len(s.plan.Placement.Delegates) == 2 {
		s.plan.Seeds = s.seeds
		return
	}
	s.note("seeds-unused", "seeds serve disks that a run makes, between two delegates: this run has none, and looks into no seed")
}

// seedRun is a seed in a run.
type seedRun struct {
	plan   SeedPlan
	clone  xapi.Ref // in the target pool, for this run
	number int      // position in the target's delegate
}

// prepareSeeds clones the restore points' disks, which must stay as they are and which others may want to use.
func (r *run) prepareSeeds(ctx context.Context) error {
	api := r.target.API
	for _, plan := range r.plan.Seeds {
		ref, object, err := create(ctx, r.saga, creation{
			pool: r.target, class: classVDI, kind: replica.KindSeed, origin: plan.VDI, except: plan.ref,
			call: func(ctx context.Context, name string, creating maker) (xapi.Ref, error) {
				var label string
				if err := api.Call(ctx, "VDI.get_name_label", &label, plan.ref); err != nil {
					return "", err
				}
				return cloneNamed(ctx, api, plan.ref, label, name, creating)
			},
		})
		if err == nil {
			err = r.mark(ctx, api, classVDI, ref, replica.Marker{Kind: replica.KindSeed, Self: object.UUID, Source: plan.VDI, Disk: plan.Disk})
		}
		if err != nil {
			return fmt.Errorf("seed, disk %s of VM %s: %w", plan.Disk, plan.Name, err)
		}
		r.seeds = append(r.seeds, &seedRun{plan: plan, clone: ref})
		r.report.event("seed", "what disk %s of VM %s holds, as restore point %s has it, is copied from there and not sent", plan.Disk, plan.Name, plan.RestorePoint)
	}
	return nil
}

// plugSeeds attaches the clones to the target's delegate.
func (r *run) plugSeeds(ctx context.Context) (err error) {
	for _, s := range r.seeds {
		if s.number, err = r.delegates.target.Plug(ctx, s.clone, s.plan.Size); err != nil {
			return fmt.Errorf("seed, disk %s of VM %s: %w", s.plan.Disk, s.plan.Name, err)
		}
	}
	return nil
}

// seedsOf are the seeds for a disk, those of the same number first: they are the likeliest to be alike.
func (r *run) seedsOf(d DiskPlan) (seeds []control.Seed) {
	if d.Action != ActionCreate {
		return nil
	}
	for _, same := range []bool{true, false} {
		for _, s := range r.seeds {
			if (s.plan.Disk == d.Disk) == same {
				seeds = append(seeds, control.Seed{Device: s.number, Size: s.plan.Size})
			}
		}
	}
	return seeds
}
