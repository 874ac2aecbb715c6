package replication

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// Codes of the findings of this package, beside those of package placement. They are stable.
const (
	CodeReplicaExists   = "replica-exists"         // and is not to be overwritten
	CodeReplicaRunning  = "replica-running"        // it is not halted
	CodeReplicaDiverged = "replica-diverged"       // somebody used it
	CodeReplicaStranger = "replica-stranger"       // it is not known to be ours
	CodeSuspended       = "replica-suspended"      // it is in a failover state
	CodeReverting       = "revert-unfinished"      // a revert of it was interrupted
	CodeVTPM            = "vtpm"                   // the source VM has a virtual TPM
	CodeDiskElsewhere   = "disk-elsewhere"         // a disk of the replica is on another SR than wanted
	CodeControlDomain   = "held-by-control-domain" // a disk of the replica is attached to a control domain
	CodeNetworkUnmapped = "network-unmapped"       // an interface has no network in the target pool
	CodeNoAddresses     = "no-addresses"           // a pool's delegates have no usable range of addresses
	CodeNoNetwork       = "delegate-network"       // the network of a pool's delegates is gone
	CodeAddressesLeased = "addresses-leased"       // all of them are in use by runs
	CodePause           = "pause-refused"          // the source VM is to be paused for its snapshot, and cannot be
	CodeNotFound        = "not-found"              // nothing has the name or uuid given
	CodeAmbiguous       = "ambiguous"              // several have it
	CodeLeaseHeld       = "lease-held"             // another orchestrator is at work on the replica
	CodeNotHalted       = "delegate-not-halted"    // a delegate that lost its lease may still write to the replica
	CodeFailed          = "failed"                 // something else went wrong, the cause tells
)

// Findings gives everything that an error of Engine.Plan found. Of an error that is none of the documented ones it makes a finding.
func Findings(err error) []report.Finding {
	if err == nil {
		return nil
	}
	var infeasible *placement.Infeasible
	if errors.As(err, &infeasible) {
		return infeasible.Findings
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []report.Finding
		for _, one := range joined.Unwrap() {
			all = append(all, Findings(one)...)
		}
		return all
	}
	finding := report.Finding{Severity: report.SeverityError, Code: CodeFailed, Cause: err.Error(), Mend: "see the cause"}
	var missing *inventory.NotFoundError
	var ambiguous *inventory.AmbiguousError
	var leased *LeaseError
	var fence *FenceError
	switch {
	case errors.As(err, &leased):
		finding.Code, finding.Subject, finding.Mend = CodeLeaseHeld, "replica "+leased.Replica, "wait for it; use one state folder at one place only"
	case errors.As(err, &fence):
		finding.Code, finding.Subject, finding.Cause, finding.Mend = CodeNotHalted, "delegate "+fence.Delegate, fence.what(), fence.mend()
	case errors.As(err, &missing):
		finding.Code, finding.Subject, finding.Mend = CodeNotFound, "pool "+missing.Pool, "name one that exists, or its uuid"
	case errors.As(err, &ambiguous):
		finding.Code, finding.Subject, finding.Mend = CodeAmbiguous, "pool "+ambiguous.Pool, "name one of them by its uuid"
	}
	return []report.Finding{finding}
}

func (s *subject) found(severity report.Severity, code, subject, mend, cause string, args ...any) {
	s.findings = append(s.findings, report.Finding{Severity: severity, Code: code, Subject: subject, Cause: fmt.Sprintf(cause, args...), Mend: mend})
}

// refuse notes that the replica may not be written.
func (s *subject) refuse(held *HeldError) {
	code := CodeReplicaStranger
	switch {
	case held.Rung == string(replica.RungPower) && s.standby != nil && s.standby.vm.PowerState != xapi.Halted:
		code = CodeReplicaRunning
	case held.Diverged:
		code = CodeReplicaDiverged
	}
	s.refused(held, code, "replica VM "+held.VM, held.mend(), "%s", held.what())
}

// refused is found with an error behind it, for callers that decide on that.
func (s *subject) refused(err error, code, subject, mend, cause string, args ...any) {
	s.found(report.SeverityError, code, subject, mend, cause, args...)
	s.causes = append(s.causes, err)
}

// refuseSuspended refuses a replica that is in a failover state, but for the last run of the failover itself.
func (s *subject) refuseSuspended() bool {
	state := replica.Failover(s.record.Failover.State)
	if state == replica.Standby || s.request.failover != "" && s.request.failover == state {
		return false
	}
	err := &SuspendedError{Replica: s.record.ID, State: state}
	s.refused(err, CodeSuspended, "replica VM "+s.record.TargetVM, err.mend(), "%s", err.what())
	return true
}

func (s *subject) refuseReverting(interrupted *UnfinishedRevertError) {
	s.refused(interrupted, CodeReverting, "replica VM "+s.standby.vm.UUID, "run, or revert again",
		"a revert to restore point %s was interrupted; the next run finishes it first", interrupted.Point)
}

func (s *subject) refuseTPM() {
	err := &VTPMError{VM: s.vm.NameLabel, UUID: s.vm.UUID}
	s.refused(err, CodeVTPM, "VM "+s.vm.NameLabel, err.mend(), "%s", err.what())
}

func (s *subject) replicaExists() {
	name := fmt.Sprintf("VM %s (%s) in pool %s", s.standby.vm.NameLabel, s.standby.vm.UUID, s.target.Name)
	s.refused(fmt.Errorf("%s: %w", name, ErrReplicaExists), CodeReplicaExists, "replica VM "+s.standby.vm.NameLabel, "allow to overwrite it, or choose another SR",
		"%s exists and is not to be overwritten", name)
}

// ready gathers what else stands in the way, and completes the plan with what does not.
func (s *subject) ready(ctx context.Context, store *state.Store) error {
	s.findings = append(s.findings, placement.Readiness(s.placing(), s.started)...)
	s.pauseFindings()
	s.networkFindings()
	s.diskFindings()
	if s.request.method() != report.Standard {
		if err := s.addressFindings(ctx, store); err != nil {
			return err
		}
		s.nameStandard()
	}
	if report.Errors(s.findings) {
		return &placement.Infeasible{Findings: s.findings, Causes: s.causes}
	}
	s.plan.Findings = s.findings
	return nil
}

// nameStandard names the standard method where nothing but delegates is missing.
func (s *subject) nameStandard() {
	if !placement.WithoutDelegates(s.placing(), s.findings, s.started, CodeNoAddresses, CodeAddressesLeased) {
		return
	}
	for i := range s.findings {
		if f := &s.findings[i]; f.Severity == report.SeverityError {
			f.Mend += "; or do without delegates: --method standard has the pools copy everything"
		}
	}
}

// networkFindings tells which interfaces the replica will lack.
func (s *subject) networkFindings() {
	for _, v := range s.mapVIFs() {
		if !v.network.IsNull() {
			continue
		}
		subject := fmt.Sprintf("interface %s of VM %s", v.vif.Device, s.vm.NameLabel)
		if wanted, ruled := s.request.NetworkMap[v.from]; ruled {
			s.found(report.SeverityWarning, CodeNetworkUnmapped, subject, "name one that exists, or its uuid",
				"interface %s is on network %q, whose rule names %q: pool %s has no network of that name, or several; the replica lacks the interface, or keeps what it has at its position",
				v.vif.Device, v.from, wanted, s.target.Name)
			continue
		}
		s.found(report.SeverityWarning, CodeNetworkUnmapped, subject, "give a rule for the network",
			"interface %s is on network %q, for which pool %s has none of that name, or several: the replica lacks the interface, or keeps what it has at its position",
			v.vif.Device, v.from, s.target.Name)
	}
}

// diskFindings tells where the replica's disks are not as they should be.
func (s *subject) diskFindings() {
	for _, name := range sortedDisks(s.standbyDisks) {
		disk := s.standbyDisks[name]
		subject := fmt.Sprintf("disk %s of the replica (VDI %s)", name, disk.VDI.UUID)
		if is, wanted := s.diskSR(name), s.wantedSR(name); is.Ref != wanted.Ref {
			s.found(report.SeverityWarning, CodeDiskElsewhere, subject,
				"move it there yourself with its replica detached, or want it where it is: a run moves no disk",
				"%s is on SR %s, not on SR %s: it is replicated to where it is", subject, is.NameLabel, wanted.NameLabel)
		}
		for _, ref := range disk.VDI.VBDs {
			vbd := s.target.Inventory.VBDs[ref]
			if holder := s.target.Inventory.VMs[vbd.VM]; holder.IsControlDomain {
				severity := report.SeverityWarning // it can neither write nor keep the delegate from it
				if vbd.CurrentlyAttached || vbd.Mode == xapi.ModeRW {
					severity = report.SeverityError
				}
				s.found(severity, CodeControlDomain, subject,
					fmt.Sprintf("when nothing uses it there, 'xe vbd-unplug uuid=%s' and 'xe vbd-destroy uuid=%s'", vbd.UUID, vbd.UUID),
					"%s is attached to %s, as transfers leave it that were broken off", subject, holder.NameLabel)
			}
		}
	}
}

// addressFindings tells where the run's delegates would get no address. What an earlier run of this replica still holds counts as
// free: it is removed, or goes on, before a new run asks.
func (s *subject) addressFindings(ctx context.Context, store *state.Store) error {
	wanted := map[string]int{s.source.Inventory.UUID: 1, s.target.Inventory.UUID: 1}
	if delegates := s.plan.Placement.Delegates; len(delegates) > 0 {
		clear(wanted)
		for _, d := range delegates {
			wanted[d.PoolUUID]++
		}
	}
	for i, pool := range []*delegate.Pool{s.source, s.target} {
		uuid := pool.Inventory.UUID
		if i == 1 && uuid == s.source.Inventory.UUID {
			continue
		}
		mend := fmt.Sprintf("run 'understudy pool add %s' again with --delegate-addresses; its replicas stay", pool.Name)
		subject := "pool " + pool.Name
		record, err := store.Pool(ctx, uuid)
		if err != nil && !errors.Is(err, state.ErrNotFound) {
			return err
		}
		if _, err := pool.Inventory.FindNetwork(record.DelegateNetwork); err != nil && record.DelegateNetwork != "" {
			s.found(report.SeverityError, CodeNoNetwork, subject,
				fmt.Sprintf("run 'understudy pool add %s' again with --delegate-network; its replicas stay", pool.Name), "the network of the delegates is gone: %v", err)
		}
		ranges, err := placement.ParseAddresses(record.DelegateAddresses)
		switch {
		case record.DelegateAddresses == "":
			s.found(report.SeverityError, CodeNoAddresses, subject, mend, "no addresses are given for the delegates of pool %s", pool.Name)
			continue
		case err != nil:
			s.found(report.SeverityError, CodeNoAddresses, subject, mend, "addresses for the delegates of pool %s: %v", pool.Name, err)
			continue
		case ranges.DHCP() != "":
			continue // whether the server has one left is known when it is asked
		}
		leases, err := store.Leases(ctx, uuid)
		if err != nil {
			return err
		}
		taken := 0
		for _, lease := range leases {
			address, err := netip.ParseAddr(lease.Address)
			if err == nil && ranges.Contains(address) && (lease.Replica == "" || lease.Replica != s.record.ID) {
				taken++
			}
		}
		if free := ranges.Len() - taken; free < wanted[uuid] {
			s.found(report.SeverityError, CodeAddressesLeased, subject, "wait for runs to end, see 'understudy delegate list', or widen the range: "+mend,
				"of the %d addresses for delegates of pool %s runs hold %d, and %d more are needed", ranges.Len(), pool.Name, taken, wanted[uuid])
		}
	}
	return nil
}
