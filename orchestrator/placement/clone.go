package placement

import (
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// CloneRequest says which VM or snapshot is to be cloned, and whether the clone is to be started.
type CloneRequest struct {
	Pool  *inventory.Pool
	Of    xapi.Ref
	Start bool
	Host  xapi.Ref // that is to run it; null: any that can
}

// PlaceClone finds a host for a clone: one that is alive, sees every disk's SR and has the memory, and of those the one with the most. It
// looks for what would stop the clone or its start half-way, too; now is compared with the dates of licences. The host is zero when the
// clone is not to be started.
//
// Errors: *Infeasible, which has all findings, and those of inventory.Pool.DisksOf.
func PlaceClone(request CloneRequest, now time.Time) (host inventory.Host, found []report.Finding, err error) {
	pool, vm := request.Pool, request.Pool.VMs[request.Of]
	disks, err := pool.DisksOf(request.Of)
	if err != nil {
		return host, nil, err
	}
	var f findings
	f.srs(pool, srsOf(disks), !request.Start)
	f.cloneDisks(pool, vm, disks)
	if request.Start {
		f.pool(pool, true, now)
		host = f.cloneHost(request, vm, srsOf(disks))
	}
	if report.Errors(f) {
		return host, nil, &Infeasible{Findings: f}
	}
	return host, f, nil
}

// cloneDisks looks for room, and whether another volume may lie on each disk's chain.
func (f *findings) cloneDisks(pool *inventory.Pool, vm xapi.VM, disks []inventory.Disk) {
	chains := pool.Chains()
	needed := map[xapi.Ref]int64{}
	for _, disk := range disks {
		needed[disk.VDI.SR] += roundUp(disk.VDI.VirtualSize)
		if chain := chains.Of(disk.VDI); chain.Length >= inventory.MaxChain {
			name := diskSubject(vm, disk)
			f.error(CodeChainLong, name, "remove snapshots of the VM and let the storage merge what they leave",
				"%s lies on a chain of %d volumes, the most there can be: it cannot be cloned", name, chain.Length)
		}
	}
	for _, ref := range srsOf(disks) {
		sr := pool.SRs[ref]
		free, known := inventory.FreeSpace(sr)
		f.space(Space{
			Side: SideTarget, SRUUID: sr.UUID, SRName: sr.NameLabel, Thin: inventory.Thin(sr), Needed: needed[ref], Free: free, Known: known,
		}, sr, 0)
	}
}

// cloneHost chooses, and says of every host why it will not do when none does.
func (f *findings) cloneHost(request CloneRequest, vm xapi.VM, srs []xapi.Ref) inventory.Host {
	pool, needed := request.Pool, vm.MemoryStaticMax+vm.MemoryOverhead
	wanted := func(ref xapi.Ref) bool { return request.Host.IsNull() || ref == request.Host }
	for _, host := range pool.HostsSeeing(srs...) {
		if wanted(host.Ref) && host.FreeMemory >= needed {
			return host
		}
	}
	for _, ref := range sortedHosts(pool) {
		if !wanted(ref) {
			continue
		}
		host := pool.Hosts[ref]
		code, mend, cause := CodeHostMemory, "free memory on it", ""
		blind := slices.IndexFunc(srs, func(sr xapi.Ref) bool { return !pool.HostSees(ref, sr) })
		switch {
		case !pool.HostMetrics[host.Metrics].Live:
			code, mend, cause = CodeHostDown, "bring it back", "it is not alive"
		case !host.Enabled:
			code, mend, cause = CodeHostDisabled, "enable it", "it is in maintenance"
		case blind >= 0:
			code, mend, cause = CodeSRUnseen, "plug the SR's PBD on this host", "it does not see "+srSubject(pool.SRs[srs[blind]])
		default:
			cause = fmt.Sprintf("it has %d MiB of memory free, the clone needs %d MiB", pool.FreeMemory[ref]>>20, needed>>20)
		}
		f.error(code, "host "+host.NameLabel, mend, "host %s of pool %s cannot run a clone of VM %s: %s",
			host.NameLabel, pool.Name, vm.NameLabel, cause)
	}
	return inventory.Host{}
}
