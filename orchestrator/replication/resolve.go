package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// subject is a request with everything that it is decided on, as it was at one moment.
type subject struct {
	started        time.Time
	request        Request
	source, target *delegate.Pool // with the inventories of this look
	vm             inventory.VM
	disks          []inventory.Disk // of the source, by number
	sr             inventory.SR
	diskSRs        map[string]inventory.SR // where single disks are wanted instead

	record       state.Replica // its ID is empty when the replica is not recorded yet
	standby      *standby      // the replica in the pool; nil: there is none
	standbyDisks map[string]inventory.Disk
	evidence     replica.Evidence // of the replica as it is before the run
	decision     replica.Decision
	restsOn      []report.Host // that an unfinished run wrote to the replica on
	seeds        []SeedPlan    // of the request
	notes        []Note
	findings     []report.Finding
	causes       []error               // behind some of the findings
	unplaced     *placement.Infeasible // why delegates cannot be placed; nil: they can
	plan         Plan
}

func diskName(number int) string { return strconv.Itoa(number) }

// resolve takes one consistent look at both pools and decides everything on it. Nothing is changed.
func (e *Engine) resolve(ctx context.Context, request Request) (*subject, error) {
	if err := request.validate(); err != nil {
		return nil, err
	}
	if _, err := e.retention(request); err != nil {
		return nil, err
	}
	s := &subject{started: time.Now(), request: request}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	if err := s.find(); err != nil {
		return nil, err
	}
	if err := s.findReplica(ctx, e.Store); err != nil {
		return nil, err
	}
	s.findDisks()
	if err := s.place(); err != nil {
		return nil, err
	}
	if err := s.judge(ctx, e.Store); err != nil {
		return nil, err
	}
	if err := s.findSeeds(e.Store.Installation().UUID); err != nil {
		return nil, err
	}
	s.describe()
	s.planRestorePoint(e.Store.Installation().UUID)
	s.plan.Notes = s.notes
	return s, s.ready(ctx, e.Store)
}

// look reads both pools.
func (s *subject) look(ctx context.Context) error {
	source, target := *s.request.Source, *s.request.Target
	var err error
	if source.Inventory, err = inventory.Load(ctx, source.API); err != nil {
		return fmt.Errorf("pool %s: %w", source.Name, err)
	}
	if s.request.Target == s.request.Source {
		target.Inventory = source.Inventory
	} else if target.Inventory, err = inventory.Load(ctx, target.API); err != nil {
		return fmt.Errorf("pool %s: %w", target.Name, err)
	}
	s.source, s.target = &source, &target
	return nil
}

// find finds the VM and the SRs, and reports all that are wrong.
func (s *subject) find() error {
	var errs [3]error
	s.vm, errs[0] = s.source.Inventory.FindVM(s.request.VM)
	s.sr, errs[1] = s.target.Inventory.FindSR(s.request.SR)
	s.diskSRs = map[string]inventory.SR{}
	for _, disk := range slices.Sorted(maps.Keys(s.request.DiskSRs)) {
		sr, err := s.target.Inventory.FindSR(s.request.DiskSRs[disk])
		if err != nil {
			errs[2] = errors.Join(errs[2], fmt.Errorf("disk %s: %w", disk, err))
		}
		s.diskSRs[disk] = sr
	}
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	disks, err := s.source.Inventory.DisksOf(s.vm.Ref)
	if err != nil {
		return err
	}
	s.disks = disks
	if len(s.vm.VTPMs) == 0 {
		return nil
	}
	if !s.request.DropVTPM {
		s.refuseTPM()
		return nil
	}
	s.note("vtpm-dropped", "VM %s has a virtual TPM, whose content cannot be read: its replica has none, as was asked for", s.vm.NameLabel)
	return nil
}

// wantedSR is where the request wants a disk of the replica.
func (s *subject) wantedSR(disk string) inventory.SR {
	if sr, ok := s.diskSRs[disk]; ok {
		return sr
	}
	return s.sr
}

// diskSR is where a disk of the replica lies or, while there is none, will lie.
func (s *subject) diskSR(disk string) inventory.SR {
	if standby, ok := s.standbyDisks[disk]; ok {
		if sr, ok := s.target.Inventory.SRs[standby.VDI.SR]; ok {
			return inventory.SR{Ref: standby.VDI.SR, SR: sr}
		}
	}
	return s.wantedSR(disk)
}

func (s *subject) note(cause, format string, args ...any) {
	s.notes = append(s.notes, Note{Cause: cause, Text: fmt.Sprintf(format, args...)})
}

// findReplica looks the replica up in the state database and, when it has been forgotten there, by the markers in the pool;
// never by name.
func (s *subject) findReplica(ctx context.Context, store *state.Store) error {
	s.record = state.Replica{
		SourcePool: s.source.Inventory.UUID, SourceVM: s.vm.UUID, TargetPool: s.target.Inventory.UUID, TargetSR: s.sr.UUID,
	}
	record, err := store.FindReplica(ctx, s.record.SourcePool, s.record.SourceVM, s.record.TargetPool, s.record.TargetSR)
	switch {
	case err == nil:
		s.record = record
		s.obeyOverride()
	case !errors.Is(err, state.ErrNotFound):
		return err
	default:
		s.adopt(store.Installation().UUID)
	}
	s.standby = findStandby(s.target.Inventory, s.record)
	if s.standby == nil && s.record.TargetVM != "" {
		s.note("replica-gone", "the replica VM %s is gone: a new one is made", s.record.TargetVM)
	}
	if s.standby != nil && !s.request.OverwriteTarget {
		s.replicaExists()
	}
	return nil
}

// obeyOverride has an administrator's word about the replica count for more than the request.
func (s *subject) obeyOverride() {
	switch s.record.Trust {
	case state.TrustNever:
		s.request.Trust = false
	case state.TrustAlways:
		if !s.request.Trust {
			s.note("trusted", "an administrator trusts this replica: 'understudy replica trust --reset' takes that back")
		}
		s.request.Trust = true
	}
}

// adopt finds a replica that the state database has lost. Nothing is known of its content then.
func (s *subject) adopt(installation string) {
	var found []string
	for ref, vm := range s.target.Inventory.VMs {
		marker, owner, _ := replica.Read(installation, vm.UUID, vm.OtherConfig)
		if owner != replica.Ours || marker.Kind != replica.KindReplica || marker.Source != s.vm.UUID || vm.IsASnapshot {
			continue
		}
		disks, err := s.target.Inventory.DisksOf(ref)
		if err == nil && slices.ContainsFunc(disks, func(d inventory.Disk) bool { return d.VDI.SR == s.wantedSR(diskName(d.Number)).Ref }) {
			found = append(found, vm.UUID)
		}
	}
	switch len(found) {
	case 0:
	case 1:
		s.record.TargetVM = found[0]
		s.note("replica-adopted", "the state database does not know the replica VM %s, its marker is ours: it is taken over and scanned", found[0])
	default:
		slices.Sort(found)
		s.refuse(&HeldError{VM: found[0], Rung: string(replica.RungOwnership),
			Cause: fmt.Sprintf("the state database knows none, and VMs %v all bear the marker of this replica", found)})
	}
}

// findDisks finds the disks of the replica that are of use.
func (s *subject) findDisks() {
	s.standbyDisks = map[string]inventory.Disk{}
	if s.standby == nil {
		return
	}
	numbers := map[string]bool{}
	for _, d := range s.disks {
		numbers[diskName(d.Number)] = true
	}
	for name, disk := range s.standby.disks {
		if numbers[name] {
			s.standbyDisks[name] = disk
		} else if !slices.ContainsFunc(s.record.Disks, func(d state.Disk) bool { return d.Disk == name }) {
			s.note("foreign-disk", "the replica VM has a disk %s (VDI %s) that its source has not and that is not ours: it is left alone", name, disk.VDI.UUID)
		}
	}
}

// judge decides whether the replica may be written, and what it is taken for.
func (s *subject) judge(ctx context.Context, store *state.Store) error {
	if s.dialling() == report.Pull && s.request.Trust {
		s.note("trust-ignored", "trust was asked for and is ignored: it is not available for pull. What the replica holds already is read and compared")
	}
	if s.refuseSuspended() || s.standby == nil {
		return nil
	}
	g := gatherer{pool: s.target.Inventory, installation: store.Installation().UUID, record: s.record, standby: s.standby}
	evidence, err := s.evidenceOf(ctx, store, g, s.standbyDisks)
	if err != nil {
		return err
	}
	s.evidence = evidence
	if s.decision = replica.Trust(evidence); s.decision.Writable {
		return s.noteUnfinished(ctx, store)
	}
	if s.decision.Rung == replica.RungOwnership {
		if interrupted, err := unfinishedRevert(ctx, store, s.record); err != nil {
			return err
		} else if interrupted != nil {
			s.refuseReverting(interrupted)
			return nil // what stands there is what the revert made
		}
	}
	s.refuse(s.held(s.standby.vm.UUID, s.decision))
	return nil // whatever else is wrong is found too
}

func (s *subject) held(vm string, d replica.Decision) *HeldError {
	return &HeldError{Replica: s.record.ID, VM: vm, Rung: string(d.Rung), Cause: d.Cause, Diverged: d.Diverged}
}

// place has the delegates placed. That it cannot be done is found later, after what is amiss with the replica.
func (s *subject) place() (err error) {
	s.plan.Placement, err = placement.MakePlan(s.placing())
	if errors.As(err, &s.unplaced) {
		return nil
	}
	return err
}

// dialling is the direction; empty where one delegate serves both sides, or there is none, so that nobody dials.
func (s *subject) dialling() report.Direction {
	if len(s.plan.Placement.Delegates) == 1 || s.request.method() == report.Standard {
		return ""
	}
	return s.request.Direction
}

// describe completes the plan.
func (s *subject) describe() {
	s.plan = Plan{
		Method: s.request.method(), Direction: s.request.Direction, Trust: s.request.trust(), Consistency: s.request.consistency(), ReplicaID: s.record.ID, SR: s.sr.UUID, SRName: s.sr.NameLabel,
		VM: report.VM{UUID: s.vm.UUID, Name: s.vm.NameLabel, Pool: s.source.Name, PoolUUID: s.source.Inventory.UUID},
		Replica: report.VM{Name: replicaName(s.request.NamePattern, s.vm.NameLabel), Pool: s.target.Name,
			PoolUUID: s.target.Inventory.UUID},
		Disks: s.diskPlans(), Removed: s.removed(), Placement: s.plan.Placement, Limit: s.request.Limit,
	}
	if s.standby != nil {
		s.plan.Replica.UUID, s.plan.Replica.Name = s.standby.vm.UUID, s.standby.vm.NameLabel
	}
	if s.request.Trust && s.plan.Method == report.Standard {
		s.note("trust-unused", "the standard method writes everything: there is nothing to trust")
	}
	if s.unplaced != nil {
		s.findings = append(s.findings, s.unplaced.Findings...)
	}
	if len(s.plan.Placement.Delegates) == 1 {
		s.noteOneDelegate()
	}
	s.planSeeds()
}

// noteOneDelegate tells what was asked for and is of no effect where one delegate serves both sides.
func (s *subject) noteOneDelegate() {
	host := s.plan.Placement.Delegates[0].HostName
	if s.request.Direction == report.Pull {
		s.note("direction", "pull means nothing here: one delegate, on host %s, copies from disk to disk, and nobody dials", host)
	}
	if len(s.request.Limit) > 0 {
		s.note("limit", "the limit of %s has no effect: one delegate, on host %s, copies from disk to disk, and nothing goes over a line", s.request.Limit, host)
	}
}

// placing is what is to be placed.
func (s *subject) placing() placement.Request {
	request := placement.Request{
		Source: s.source.Inventory, SourceVM: s.vm.Ref, Target: s.target.Inventory, TargetSR: s.sr.Ref, DiskSRs: map[int]xapi.Ref{},
		Direction: placement.Direction(s.request.Direction), Existing: map[int]xapi.Ref{}, NoDelegates: s.request.method() == report.Standard,
	}
	for disk, sr := range s.diskSRs {
		request.DiskSRs[numberOf(disk)] = sr.Ref
	}
	for _, disk := range s.standbyDisks {
		request.Existing[disk.Number] = disk.VDIRef
	}
	return request
}

// removed are the recorded disks that the source has no more.
func (s *subject) removed() []string {
	var names []string
	for _, d := range s.record.Disks {
		if !slices.ContainsFunc(s.disks, func(source inventory.Disk) bool { return diskName(source.Number) == d.Disk }) {
			names = append(names, d.Disk)
		}
	}
	return names
}

// recordedSize is the logical size that the state database knows of a disk; 0 when it knows none.
func (s *subject) recordedSize(disk string) int64 {
	for _, d := range s.record.Disks {
		if d.Disk == disk {
			return d.LogicalSize
		}
	}
	return 0
}

// freshBaseline says what a disk that this run makes on an SR is taken for.
func freshBaseline(sr xapi.SR) (Baseline, string) {
	if inventory.ReadsAsZero(sr) {
		return BaselineZero, fmt.Sprintf("the disk is made in this run, and a new disk of an SR of type %s reads as zeroes", sr.Type)
	}
	return BaselineScan, fmt.Sprintf("the disk is made in this run, and it is not known that a new disk of an SR of type %s reads as zeroes", sr.Type)
}
