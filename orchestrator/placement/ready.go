package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

const (
	// longChain is the length from which a chain is worth a warning: reading a disk through so many volumes is slow.
	longChain = 20
	// usualPending is how many volumes await their merging for a while after every run: what its snapshot left behind.
	usualPending = 1
	// minAPIMajor and minAPIMinor are the oldest release that is supported, 7.1 (xapi-facts, release map).
	minAPIMajor, minAPIMinor = 2, 6
)

// needed are the features that a run with delegates needs in both pools, by the flag of pool.restrictions that takes them away (xapi-facts §6.8).
var needed = []struct{ flag, what string }{
	{"restrict_vm_start", "starting VMs, and with them delegates"},
}

// excluding are operations on a VM that no snapshot is let in beside, and that take their time (xapi-facts §6.2).
var excluding = []xapi.VMOperation{
	xapi.VMOperationClone, xapi.VMOperationCopy, xapi.VMOperationExport, xapi.VMOperationRevert, xapi.VMOperationMigrateSend,
	xapi.VMOperationPoolMigrate, xapi.VMOperationSuspend, xapi.VMOperationResume, xapi.VMOperationDestroy, xapi.VMOperationImport,
}

// Readiness looks for what would stop a new run although it could be placed, or should be known before it: what MakePlan finds is
// no part of it. The VM and the SRs must exist. now is compared with the dates of licences.
func Readiness(request Request, now time.Time) []report.Finding {
	var found findings
	found.pool(request.Source, !request.NoDelegates, now)
	if request.Target.UUID != request.Source.UUID {
		found.pool(request.Target, !request.NoDelegates, now)
	}
	vm := request.Source.VMs[request.SourceVM]
	found.vm(request.Source, vm)
	disks, err := request.Source.DisksOf(request.SourceVM)
	if err != nil {
		return found // MakePlan tells
	}
	found.srs(request.Source, srsOf(disks), request.NoDelegates)
	found.srs(request.Target, request.targetSRs(disks), request.NoDelegates)
	found.sourceChains(request, vm, disks)
	found.targetDisks(request, vm, disks)
	return found
}

// pool looks at licence and versions. delegates tells whether any are to be started.
func (f *findings) pool(pool *inventory.Pool, delegates bool, now time.Time) {
	subject := "pool " + pool.Name
	for _, need := range needed {
		if delegates && pool.Record.Restrictions[need.flag] == "true" {
			f.error(CodeLicence, subject, "give the pool a licence with it: no delegate runs in the pool without",
				"the licence of pool %s forbids %s (%s)", pool.Name, need.what, need.flag)
		}
	}
	versions := map[string]bool{}
	for _, ref := range sortedHosts(pool) {
		host := pool.Hosts[ref]
		name := "host " + host.NameLabel
		if at, err := time.Parse("20060102T15:04:05Z", host.LicenseParams["expiry"]); err == nil && at.Before(now) {
			f.warn(CodeLicenceEnded, name, "renew the host's licence before its pool refuses something that a run needs",
				"the licence of host %s of pool %s expired on %s", host.NameLabel, pool.Name, at.Format(time.DateOnly))
		}
		major, minor := host.APIVersionMajor, host.APIVersionMinor
		versions[fmt.Sprintf("%d.%d", major, minor)] = true
		if cmp.Or(cmp.Compare(major, minAPIMajor), cmp.Compare(minor, minAPIMinor)) < 0 {
			f.error(CodeVersion, name, "upgrade it to XenServer 7.1 or XCP-ng 7.4 at least",
				"host %s of pool %s speaks version %d.%d of the XenAPI, %d.%d is the oldest that is supported",
				host.NameLabel, pool.Name, major, minor, minAPIMajor, minAPIMinor)
		}
	}
	if len(versions) > 1 {
		f.error(CodeUpgrading, subject, "end the upgrade of the pool: until then it refuses snapshots",
			"the hosts of pool %s speak several versions of the XenAPI: %s", pool.Name, strings.Join(slices.Sorted(maps.Keys(versions)), ", "))
	}
}

func sortedHosts(pool *inventory.Pool) []xapi.Ref {
	return slices.SortedFunc(maps.Keys(pool.Hosts), func(a, b xapi.Ref) int {
		return cmp.Or(cmp.Compare(pool.Hosts[a].NameLabel, pool.Hosts[b].NameLabel), cmp.Compare(a, b))
	})
}

// vm looks for what is in the way of a snapshot.
func (f *findings) vm(pool *inventory.Pool, vm xapi.VM) {
	subject := "VM " + vm.NameLabel
	if host, ok := pool.Hosts[vm.ResidentOn]; ok && vm.PowerState != xapi.Halted && !pool.HostMetrics[host.Metrics].Live {
		f.error(CodeVMHostDown, subject, "bring the host back, or tell the pool that it is gone and start the VM elsewhere",
			"VM %s runs on host %s, which is not alive", vm.NameLabel, host.NameLabel)
	}
	if why, blocked := vm.BlockedOperations[xapi.VMOperationSnapshot]; blocked {
		f.error(CodeVMBlocked, subject, "unblock the operation 'snapshot' of the VM", "snapshots of VM %s are blocked: %.200q", vm.NameLabel, why)
	}
	for _, operation := range slices.Sorted(maps.Values(vm.CurrentOperations)) {
		switch {
		case slices.Contains(excluding, operation):
			f.error(CodeVMBusy, subject, "wait for its end", "VM %s cannot be snapshotted during the operation %s", vm.NameLabel, operation)
		case operation == xapi.VMOperationSnapshot || operation == xapi.VMOperationCheckpoint:
			f.warn(CodeVMSnapshot, subject, "nothing, when it is another job or a backup; else see who makes it",
				"somebody makes a snapshot of VM %s now (%s)", vm.NameLabel, operation)
		}
	}
}

// srs looks for storage that nobody sees, or that was never looked at. alive asks for a host that lives: who places delegates has
// looked for one.
func (f *findings) srs(pool *inventory.Pool, refs []xapi.Ref, alive bool) {
	for _, ref := range refs {
		sr, ok := pool.SRs[ref]
		if !ok {
			continue // MakePlan tells
		}
		seen := func(host xapi.Ref) bool { return pool.HostSees(host, ref) }
		lives := func(host xapi.Ref) bool { return seen(host) && pool.HostMetrics[pool.Hosts[host].Metrics].Live }
		switch hosts := sortedHosts(pool); {
		case alive && slices.ContainsFunc(hosts, seen) && !slices.ContainsFunc(hosts, lives):
			f.error(CodeHostDown, srSubject(sr), "bring one of them back", "no host of pool %s that has %s plugged is alive", pool.Name, srSubject(sr))
		case !slices.ContainsFunc(hosts, seen):
			f.error(CodeSRUnplugged, srSubject(sr), "plug its PBDs, and scan it", "no host of pool %s has %s plugged", pool.Name, srSubject(sr))
		}
		if _, known := inventory.FreeSpace(sr); !known {
			f.warn(CodeSRUnscanned, srSubject(sr), "scan it", "%s of pool %s does not tell its size: whether a run finds room cannot be told",
				srSubject(sr), pool.Name)
		}
	}
}

// sourceChains looks whether the source's disks can be snapshotted, which makes their chains longer by one.
func (f *findings) sourceChains(request Request, vm xapi.VM, disks []inventory.Disk) {
	chains := request.Source.Chains()
	for _, disk := range disks {
		chain := chains.Of(disk.VDI)
		name := diskSubject(vm, disk)
		switch {
		case chain.Length >= inventory.MaxChain:
			f.error(CodeChainLong, name, "remove snapshots of the VM and let the storage merge what they leave",
				"%s lies on a chain of %d volumes, the most there can be: it cannot be snapshotted", name, chain.Length)
		case chain.Length > longChain:
			f.warn(CodeChainLong, name, "remove snapshots of the VM and let the storage merge what they leave",
				"%s lies on a chain of %d volumes; from %d on it cannot be snapshotted", name, chain.Length, inventory.MaxChain)
		}
		f.coalesce(chain, name)
	}
}

// targetDisks looks at the formats of the replica's disks. Their chains matter to the restore point alone, which is not this
// package's.
func (f *findings) targetDisks(request Request, vm xapi.VM, disks []inventory.Disk) {
	for _, disk := range disks {
		ref := request.targetSR(disk.Number)
		if most := request.Target.MaxDiskSize(ref); most > 0 && disk.VDI.VirtualSize > most {
			name := diskSubject(vm, disk)
			f.error(CodeDiskTooLarge, name, "choose an SR of another format for the disk, or replicate the VM without it",
				"%s has %d GiB, a disk on %s can have %d GiB", name, (disk.VDI.VirtualSize+1<<30-1)>>30, srSubject(request.Target.SRs[ref]), most>>30)
		}
	}
}

func (f *findings) coalesce(chain inventory.Chain, name string) {
	if chain.Pending > usualPending {
		f.warn(CodeCoalesce, name, "let the storage's garbage collector finish before many more snapshots are made; see its log when it does not",
			"%s lies on %d volumes that the storage has yet to merge", name, chain.Pending)
	}
}
