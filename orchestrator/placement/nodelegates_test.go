package placement_test

import (
	"errors"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// withoutDelegates takes from two pools all that delegates need.
func withoutDelegates() (builder, builder, placement.Request) {
	source, target, request := twoPools()
	delete(source.VMs, "image")
	for _, pool := range []builder{source, target} {
		for ref := range pool.Hosts {
			pool.FreeMemory[ref] = 0
			edit(pool.Hosts, ref, func(h *xapi.Host) { h.Enabled, h.APIVersionMajor, h.APIVersionMinor = false, 2, 21 })
		}
	}
	target.Record.Restrictions = map[string]string{"restrict_vm_start": "true"}
	request.NoDelegates = true
	return source, target, request
}

// TestNoDelegates: what they would need is no matter, what the disks need is.
func TestNoDelegates(t *testing.T) {
	source, target, request := withoutDelegates()
	plan := mustPlan(t, request)
	if len(plan.Delegates) != 0 || plan.Delegates == nil || plan.Dialer != placement.SideBoth || len(plan.Disks) != 2 {
		t.Errorf("planned %+v", plan)
	}
	if found := placement.Readiness(request, time.Now()); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
	source.HostMetrics["s1"] = xapi.HostMetrics{} // it alone has the SR
	if found := placement.Readiness(request, time.Now()); len(found) != 1 || found[0].Code != placement.CodeHostDown {
		t.Errorf("found %+v", found)
	}

	source.sr("local", "lvm", 100*gib, 50*gib)
	if got := plannedSpace(t, request); got != [2]int64{20 * gib, 20 * gib} {
		t.Errorf("a thick source, read without clones, and a new target need %d", got)
	}
	request.Existing = map[int]xapi.Ref{0: "r0", 1: "r1"}
	target.VDIs["r0"] = xapi.VDI{SR: "store", VirtualSize: 10 * gib}
	target.VDIs["r1"] = xapi.VDI{SR: "store", VirtualSize: 10 * gib}
	if got := plannedSpace(t, request); got != [2]int64{20 * gib, 20 * gib} {
		t.Errorf("a thin target, written anew over its restore point, needs %d", got)
	}
	target.sr("store", "nfs", 100*gib, 75*gib)
	wantFinding(t, request, "has 25600 MiB free, a copy writes 20480 MiB anew, and 10 % of it are to stay free", "restore points")
	target.sr("store", "lvm", 100*gib, 75*gib)
	if got := plannedSpace(t, request); got != [2]int64{20 * gib, 0} {
		t.Errorf("a thick target that is there needs %d", got)
	}
}

func plannedSpace(t *testing.T, request placement.Request) (needed [2]int64) {
	t.Helper()
	for i, s := range mustPlan(t, request).Space {
		needed[i] = s.Needed
	}
	return needed
}

// TestWithoutDelegates: only where nothing else is amiss would their absence help.
func TestWithoutDelegates(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(source, target builder)
		want  bool
	}{
		"no delegate can run": {func(builder, builder) {}, true},
		"nor is there room":   {func(_, target builder) { target.sr("store", "lvm", 100*gib, 99*gib) }, false},
		"nor a host alive":    {func(_, target builder) { clear(target.HostMetrics) }, false},
	} {
		source, target, request := withoutDelegates()
		request.NoDelegates = false
		c.spoil(source, target)
		_, err := placement.MakePlan(request)
		var infeasible *placement.Infeasible
		if !errors.As(err, &infeasible) {
			t.Fatalf("%s: %v", name, err)
		}
		found := append(infeasible.Findings, report.Finding{Severity: report.SeverityError, Code: "no-addresses"})
		if got := placement.WithoutDelegates(request, found, time.Now(), "no-addresses"); got != c.want {
			t.Errorf("%s: %t, of %+v", name, got, found)
		}
		if placement.WithoutDelegates(request, found, time.Now()) {
			t.Errorf("%s: a code that nobody named was taken for one of delegates", name)
		}
	}
}
