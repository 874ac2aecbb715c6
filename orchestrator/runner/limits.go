package runner

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/job"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// perSR is how many VMs of a job are read from, or written to, one SR at a time. Each has up to four disks under way, each with a
// deep queue: more of them make a storage slower for everybody who uses it, and no run faster.
const perSR = 4

// needs is what the run of one VM takes up.
type needs struct {
	srs       []string       // keys of the SRs, in either pool
	addresses map[string]int // of delegates, by pool uuid; none where there are no delegates
}

// needsOf tells what the run of a VM takes up. A VM or an SR that is not there takes up what it is called: its run says what is wrong.
func (l *look) needsOf(uuid string) needs {
	var n needs
	var refs []xapi.Ref // of the SRs that are there
	add := func(pool *inventory.Pool, ref xapi.Ref, name string) {
		if sr, ok := pool.SRs[ref]; ok {
			refs, name = append(refs, ref), sr.UUID
		}
		if key := pool.UUID + "/" + name; !slices.Contains(n.srs, key) {
			n.srs = append(n.srs, key)
		}
	}
	if vm, err := l.from.FindVM(uuid); err == nil {
		disks, _ := l.from.DisksOf(vm.Ref) // its run tells of an error
		for _, d := range disks {
			add(l.from, d.VDI.SR, string(d.VDI.SR))
		}
	}
	for _, name := range append(slices.Collect(maps.Values(l.definition.DiskSRs)), l.definition.SR) {
		sr, _ := l.to.FindSR(name) // its run tells of an error
		add(l.to, sr.Ref, name)
	}
	if l.definition.Options.Method == report.Standard {
		return n
	}
	n.addresses = map[string]int{l.from.UUID: 1, l.to.UUID: 1}
	if l.from == l.to && len(l.from.HostsSeeing(refs...)) == 0 {
		n.addresses[l.from.UUID] = 2 // a delegate a side
	}
	return n
}

// limits are what the VM runs of a job share.
type limits struct {
	parallel int
	running  map[string]needs // by the VM's uuid
}

func newLimits(o job.Options) *limits {
	return &limits{parallel: cmp.Or(o.Parallel, job.DefaultParallel), running: map[string]needs{}}
}

// room reports whether one more VM may be at work.
func (l *limits) room() bool { return len(l.running) < l.parallel }

// storage reports whether the SRs that a run needs have room for it.
func (l *limits) storage(n needs) bool {
	at := map[string]int{}
	for _, other := range l.running {
		for _, sr := range other.srs {
			at[sr]++
		}
	}
	for _, sr := range n.srs {
		if at[sr] >= perSR {
			return false
		}
	}
	return true
}

// addresses reports whether there are as many addresses as a run needs, of those that are free beside the runs at work, by pool. Without
// any at work one is enough: how many are needed is known for certain when the run is placed.
func (l *limits) addresses(n needs, free map[string]int) bool {
	for pool, wanted := range n.addresses {
		left, counted := free[pool]
		for _, other := range l.running {
			left -= other.addresses[pool]
		}
		if len(l.running) == 0 {
			wanted = 1
		}
		if counted && left < wanted {
			return false
		}
	}
	return true
}

// freeAddresses counts the addresses of the job's pools that nobody but its own runs at work holds. A pool that gives addresses out by
// itself, or whose range cannot be read, of which the run tells, is not among them.
func (x *execution) freeAddresses(ctx context.Context) (map[string]int, error) {
	ours := map[string]bool{}
	for _, vm := range x.book.copy().VMs {
		if _, running := x.limits.running[vm.VM.UUID]; running {
			ours[vm.Run] = true
		}
	}
	free := map[string]int{}
	for _, pool := range []string{x.look.from.UUID, x.look.to.UUID} {
		record, err := x.Store.Pool(ctx, pool)
		if err != nil {
			return nil, err
		}
		ranges, err := placement.ParseAddresses(record.DelegateAddresses)
		if err != nil || ranges.Len() == 0 {
			continue
		}
		leases, err := x.Store.Leases(ctx, pool)
		if err != nil {
			return nil, err
		}
		free[pool] = ranges.Len()
		for _, lease := range leases {
			if address, err := netip.ParseAddr(lease.Address); err == nil && ranges.Contains(address) && !ours[lease.Run] {
				free[pool]--
			}
		}
	}
	return free, nil
}
