package placement_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// twoPools are a source of two hosts, where the VM's disks are local to the first, and a target of two.
func twoPools() (builder, builder, placement.Request) {
	source := newPool("source")
	source.sr("local", "ext", 100*gib, 50*gib)
	source.sr("nfs", "nfs", 100*gib, 50*gib)
	source.host("s1", 4*gib, "local", "nfs")
	source.host("s2", 8*gib, "nfs")
	source.image("image", "1.0", "nfs")
	source.vm("vm", 10*gib, "local", "local")
	target := newPool("target")
	target.sr("store", "nfs", 100*gib, 0)
	target.host("t1", 4*gib, "store")
	target.host("t2", 8*gib, "store")
	target.image("timage", "1.0", "store")
	return source, target, placement.Request{Source: source.Pool, SourceVM: "vm", Target: target.Pool, TargetSR: "store", Direction: placement.Push}
}

func mustPlan(t *testing.T, request placement.Request) placement.Plan {
	t.Helper()
	plan, err := placement.MakePlan(request)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestOneDelegateASide(t *testing.T) {
	_, _, request := twoPools()
	plan := mustPlan(t, request)
	var got []string
	for _, delegate := range plan.Delegates {
		text := fmt.Sprintf("%s on %s of %s from %s %s:", delegate.Side, delegate.HostName, delegate.PoolName, delegate.TemplateUUID, delegate.TemplateVersion)
		for _, attachment := range delegate.Attachments {
			text += fmt.Sprintf(" %d/%s/%s@%d", attachment.Disk, attachment.Side, attachment.SRUUID, attachment.UserDevice)
		}
		got = append(got, text)
	}
	want := []string{
		"source on s1 of source from uuid-image 1.0: 0/source/uuid-local@4 1/source/uuid-local@5",  // the local SR binds its host
		"target on t2 of target from uuid-timage 1.0: 0/target/uuid-store@4 1/target/uuid-store@5", // the most free memory
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if plan.Dialer != placement.SideSource || len(plan.Disks) != 2 || plan.Disks[1].VDIUUID != "uuid-vm-1" || plan.Disks[1].Size != 10*gib {
		t.Errorf("plan %+v", plan)
	}
	request.Direction = placement.Pull
	if plan := mustPlan(t, request); plan.Dialer != placement.SideTarget {
		t.Errorf("a pull is dialled by %s", plan.Dialer)
	}
}

func TestOneDelegateForBothSides(t *testing.T) {
	source, _, request := twoPools()
	request.Target, request.TargetSR = source.Pool, "nfs"
	plan := mustPlan(t, request)
	if len(plan.Delegates) != 1 || plan.Dialer != placement.SideBoth {
		t.Fatalf("plan %+v", plan)
	}
	one := plan.Delegates[0]
	if one.Side != placement.SideBoth || one.HostName != "s1" || len(one.Attachments) != 4 || one.Attachments[3].UserDevice != 7 || one.Attachments[3].Side != placement.SideTarget {
		t.Errorf("delegate %+v", one)
	}
	// No host sees both: two delegates in one pool.
	source.sr("remote", "nfs", 100*gib, 0)
	source.host("s3", 8*gib, "remote", "nfs")
	request.TargetSR = "remote"
	plan = mustPlan(t, request)
	if len(plan.Delegates) != 2 || plan.Delegates[0].HostName != "s1" || plan.Delegates[1].HostName != "s3" || plan.Dialer != placement.SideSource {
		t.Errorf("plan %+v", plan)
	}
}

// TestOnePool: within a pool one delegate is enough wherever a host sees both SRs, and then nobody dials; between local SRs of two hosts
// there are two, and the direction counts.
func TestOnePool(t *testing.T) {
	for name, c := range map[string]struct{ from, to, hosts string }{
		"local to shared":          {"local-1", "shared", "both:h1"},
		"shared to local":          {"shared", "local-2", "both:h2"},
		"local to local":           {"local-1", "other-1", "both:h1"},
		"one local SR":             {"local-2", "local-2", "both:h2"},
		"one shared SR":            {"shared", "shared", "both:h2"}, // the most free memory
		"local to another's local": {"local-1", "local-2", "source:h1 target:h2"},
		"back":                     {"local-2", "local-1", "source:h2 target:h1"},
		"two places, local":        {"local-1,shared", "local-2", "source:h1 target:h2"},
		"two places, shared":       {"local-1,shared", "shared", "both:h1"},
	} {
		pool := newPool("pool")
		for _, sr := range []string{"local-1", "other-1", "local-2"} {
			pool.sr(sr, "ext", 100*gib, 0)
		}
		pool.sr("shared", "nfs", 100*gib, 0)
		pool.host("h1", 4*gib, "local-1", "other-1", "shared")
		pool.host("h2", 8*gib, "local-2", "shared")
		pool.image("image", "1.0", "shared")
		pool.vm("vm", gib, strings.Split(c.from, ",")...)
		for direction, dialer := range map[placement.Direction]placement.Side{placement.Push: placement.SideSource, placement.Pull: placement.SideTarget} {
			plan := mustPlan(t, placement.Request{Source: pool.Pool, SourceVM: "vm", Target: pool.Pool, TargetSR: xapi.Ref(c.to), Direction: direction})
			var hosts []string
			for _, d := range plan.Delegates {
				hosts = append(hosts, fmt.Sprintf("%s:%s", d.Side, d.HostName))
			}
			if len(hosts) == 1 {
				dialer = placement.SideBoth
			}
			if got := strings.Join(hosts, " "); got != c.hosts || plan.Dialer != dialer {
				t.Errorf("%s, %s: on %s, dialled by %s; want %s by %s", name, direction, got, plan.Dialer, c.hosts, dialer)
			}
		}
	}
}

// TestAHostThatSeesTheDisksButNoImage: it serves neither side, although it sees both SRs.
func TestAHostThatSeesTheDisksButNoImage(t *testing.T) {
	source, _, request := twoPools()
	source.sr("remote", "nfs", 100*gib, 0)
	source.host("s2", 2*gib, "nfs", "remote")
	source.host("s3", 64*gib, "local", "remote")
	request.Target, request.TargetSR = source.Pool, "remote"
	plan := mustPlan(t, request)
	if len(plan.Delegates) != 2 || plan.Delegates[0].HostName != "s1" || plan.Delegates[1].HostName != "s2" {
		t.Errorf("plan %+v", plan)
	}
	source.image("image-too", "1.0", "remote")
	if plan := mustPlan(t, request); len(plan.Delegates) != 1 || plan.Delegates[0].HostName != "s3" || plan.Delegates[0].TemplateUUID != "uuid-image-too" {
		t.Errorf("plan %+v", plan)
	}
}

func TestManyDisksNeedTwoDelegates(t *testing.T) {
	source, _, request := twoPools()
	var srs []string
	for range 126 {
		srs = append(srs, "nfs")
	}
	source.vm("vm", gib, srs...)
	request.Target, request.TargetSR = source.Pool, "nfs"
	if plan := mustPlan(t, request); len(plan.Delegates) != 2 {
		t.Errorf("%d delegates for 252 attachments", len(plan.Delegates))
	}
	source.vm("vm", gib, append(srs, srs...)...)
	wantFinding(t, request, "VM vm has 252 disks, a delegate takes 250", "detach")
}

func TestNewestImageWins(t *testing.T) {
	source, _, request := twoPools()
	source.image("newer", "1.10", "nfs")
	source.image("older", "1.9", "local")
	source.sr("elsewhere", "ext", gib, 0)
	source.image("newest-but-unseen", "2.0", "elsewhere")
	if plan := mustPlan(t, request); plan.Delegates[0].TemplateUUID != "uuid-newer" {
		t.Errorf("took %s", plan.Delegates[0].TemplateUUID)
	}
}

func TestTheHostWithMostMemoryWinsWhicheverImageItSees(t *testing.T) {
	for want, free := range map[string]int64{"t1": 16 * gib, "t2": gib} {
		_, target, request := twoPools()
		delete(target.VMs, "timage")
		for _, host := range []string{"t1", "t2"} {
			target.sr("local-"+host, "ext", 100*gib, 0)
			target.host(host, 8*gib, "store", "local-"+host)
			target.image("image-on-"+host, "1.0", "local-"+host)
		}
		target.FreeMemory["t1"] = free
		if got := mustPlan(t, request).Delegates[1]; got.HostName != want || got.TemplateUUID != "uuid-image-on-"+want {
			t.Errorf("took %s on %s, not %s", got.TemplateUUID, got.HostName, want)
		}
	}
}

func TestTwoDelegatesDoNotTakeTheSameMemory(t *testing.T) {
	pool := newPool("pool")
	pool.sr("one", "ext", 100*gib, 0)
	pool.host("h", 300*mib, "one") // room for one delegate
	pool.image("image", "1", "one")
	var srs []string
	for range 130 {
		srs = append(srs, "one")
	}
	pool.vm("vm", 16*mib, srs...)
	request := placement.Request{Source: pool.Pool, SourceVM: "vm", Target: pool.Pool, TargetSR: "one", Direction: placement.Push}
	wantFinding(t, request, "host h of pool pool cannot run the target delegate: it has 40 MiB of memory free, a delegate needs 260 MiB", "free memory")
	pool.FreeMemory["h"] = 520 * mib
	mustPlan(t, request)
}

// wantFinding checks that a request is impossible, for a cause that contains the text.
func wantFinding(t *testing.T, request placement.Request, cause, mend string) {
	t.Helper()
	plan, err := placement.MakePlan(request)
	var infeasible *placement.Infeasible
	if !errors.As(err, &infeasible) {
		t.Errorf("want %q, got %+v, %v", cause, plan, err)
		return
	}
	for _, finding := range infeasible.Findings {
		if strings.Contains(finding.Cause, cause) && strings.Contains(finding.Mend, mend) && strings.Contains(err.Error(), cause) {
			return
		}
	}
	t.Errorf("want %q (%q), got %v", cause, mend, err)
}

func TestInfeasible(t *testing.T) {
	for name, c := range map[string]struct {
		spoil       func(source, target builder)
		cause, mend string
	}{
		"unplugged": {func(source, _ builder) { delete(source.PBDs, "s1-local") },
			"host s1 of pool source cannot run the source delegate: it does not see SR local (uuid-local)", "plug"},
		"maintenance": {func(_, target builder) {
			for ref, host := range target.Hosts {
				host.Enabled = false
				target.Hosts[ref] = host
			}
		}, "host t2 of pool target cannot run the target delegate: it is in maintenance", "enable"},
		"dead":     {func(source, _ builder) { source.HostMetrics["s1"] = xapi.HostMetrics{} }, "host s1 of pool source cannot run the source delegate: it is not alive", "back"},
		"no hosts": {func(_, target builder) { clear(target.Hosts) }, "pool target has no host", "inventory"},
		"no image": {func(_, target builder) { delete(target.VMs, "timage") }, "pool target has no delegate image", "deploy"},
		"image unseen": {func(source, _ builder) { delete(source.PBDs, "s1-nfs") },
			"host s1 of pool source cannot run the source delegate: it does not see SR nfs (uuid-nfs) with the delegate image", "deploy"},
		"memory":        {func(source, _ builder) { source.FreeMemory["s1"] = 100 * mib }, "it has 100 MiB of memory free, a delegate needs 260 MiB", "free memory"},
		"no disk":       {func(source, _ builder) { source.vm("vm", 0) }, "VM vm has no disk", "attach"},
		"empty disk":    {func(source, _ builder) { source.vm("vm", 0, "local") }, "disk 0 (vm-0) of VM vm has the size 0", "scan"},
		"missing disk":  {func(source, _ builder) { source.VDIs["vm-1"] = xapi.VDI{SR: "local", VirtualSize: gib, Missing: true} }, "disk 1 () of VM vm is missing", "scan"},
		"shared disk":   {func(source, _ builder) { source.VDIs["vm-1"] = xapi.VDI{SR: "local", VirtualSize: gib, Sharable: true} }, "is sharable", "detach"},
		"dangling SR":   {func(source, _ builder) { delete(source.SRs, "local") }, "on an SR that does not exist", "scan"},
		"thin and full": {func(_, target builder) { target.sr("store", "nfs", 100*gib, 91*gib) }, "SR store (uuid-store) has 9216 MiB free, less than 10 %", "enlarge"},
		"thick and short": {func(_, target builder) { target.sr("store", "lvm", 100*gib, 85*gib) },
			"SR store (uuid-store) has 15360 MiB free, the target side needs 20480 MiB", "thin"},
		"thick source": {func(source, _ builder) { source.sr("local", "lvm", 100*gib, 61*gib) },
			"SR local (uuid-local) has 39936 MiB free, the source side needs 40960 MiB", "thin"},
	} {
		t.Run(name, func(t *testing.T) {
			source, target, request := twoPools()
			c.spoil(source, target)
			wantFinding(t, request, c.cause, c.mend)
		})
	}
}

func TestRequestsThatMakeNoSense(t *testing.T) {
	for name, spoil := range map[string]func(*placement.Request){
		"VM":        func(r *placement.Request) { r.SourceVM = "x" },
		"SR":        func(r *placement.Request) { r.TargetSR = "x" },
		"direction": func(r *placement.Request) { r.Direction = "" },
	} {
		_, _, request := twoPools()
		spoil(&request)
		var infeasible *placement.Infeasible
		if _, err := placement.MakePlan(request); err == nil || errors.As(err, &infeasible) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSpace(t *testing.T) {
	source, target, request := twoPools()
	if got := mustPlan(t, request).Space[0]; !got.Thin || got.Needed != 20*gib {
		t.Errorf("a thin source needs %+v", got)
	}
	source.sr("local", "lvm", 100*gib, 50*gib)
	target.sr("store", "lvm", 100*gib, 50*gib)
	request.Existing = map[int]xapi.Ref{0: "r0", 1: "r1"}
	for sr, pool := range map[xapi.Ref]builder{"store": target, "local": source} {
		pool.VDIs["r0"] = xapi.VDI{SR: sr, VirtualSize: 10 * gib}
		pool.VDIs["r1"] = xapi.VDI{SR: sr, VirtualSize: 4 * gib}
	}
	want := []placement.Space{
		{Side: placement.SideSource, SRUUID: "uuid-local", SRName: "local", Needed: 40 * gib, Free: 50 * gib, Known: true},
		{Side: placement.SideTarget, SRUUID: "uuid-store", SRName: "store", Needed: 6 * gib, Free: 50 * gib, Known: true},
	}
	if got := mustPlan(t, request).Space; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	// One SR for both sides is counted once.
	request.Target, request.TargetSR = source.Pool, "local"
	if got := mustPlan(t, request).Space; len(got) != 1 || got[0].Side != placement.SideBoth || got[0].Needed != 46*gib {
		t.Errorf("got %+v", got)
	}
	// An SR that does not tell its size is no obstacle, but the plan says so.
	source.sr("local", "lvm", -1, -1)
	if got := mustPlan(t, request).Space; len(got) != 1 || got[0].Known {
		t.Errorf("got %+v", got)
	}
}

// TestDisksOnSeveralSRs: each goes where it is wanted, but for one that exists, which stays where it is.
func TestDisksOnSeveralSRs(t *testing.T) {
	_, target, request := twoPools()
	target.sr("fast", "ext", 100*gib, 0)
	target.sr("old", "ext", 100*gib, 0)
	target.host("t1", 4*gib, "store", "fast", "old")
	request.DiskSRs = map[int]xapi.Ref{1: "fast"}
	plan := mustPlan(t, request)
	one := plan.Delegates[1]
	if one.HostName != "t1" || one.Attachments[0].SRUUID != "uuid-store" || one.Attachments[1].SRUUID != "uuid-fast" || plan.Disks[1].TargetSR != "uuid-fast" {
		t.Errorf("plan %+v", plan)
	}
	space := func(plan placement.Plan) (text string) {
		for _, s := range plan.Space {
			text += fmt.Sprintf("%s %d GiB, ", s.SRName, s.Needed/gib)
		}
		return text
	}
	if got := space(plan); got != "local 20 GiB, store 10 GiB, fast 10 GiB, " {
		t.Errorf("space: %s", got)
	}
	target.VDIs["r1"] = xapi.VDI{SR: "old", VirtualSize: 7 * gib}
	request.Existing = map[int]xapi.Ref{1: "r1"}
	plan = mustPlan(t, request)
	if got := space(plan); got != "local 20 GiB, store 10 GiB, old 3 GiB, " || plan.Delegates[1].Attachments[1].SRUUID != "uuid-old" || plan.Disks[1].Existing != 7*gib {
		t.Errorf("space: %s; plan %+v", got, plan)
	}
	delete(target.PBDs, "t1-old")
	wantFinding(t, request, "host t1 of pool target cannot run the target delegate: it does not see SR old (uuid-old)", "plug")
	request.DiskSRs[0] = "nowhere"
	var infeasible *placement.Infeasible
	if _, err := placement.MakePlan(request); err == nil || errors.As(err, &infeasible) {
		t.Errorf("an SR that does not exist: %v", err)
	}
}

func TestPlanIsAValue(t *testing.T) {
	_, _, request := twoPools()
	plan := mustPlan(t, request)
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	var back placement.Plan
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(plan, back) {
		t.Errorf("%s came back as %+v, %v", text, back, err)
	}
	if again := mustPlan(t, request); !reflect.DeepEqual(plan, again) {
		t.Error("the same request gave another plan")
	}
}

// drawPool makes a pool with random storage, plugs and memory.
func drawPool(t *rapid.T, name string) builder {
	pool := newPool(name)
	var srs []string
	for i := range rapid.IntRange(1, 4).Draw(t, "srs") {
		sr := fmt.Sprintf("%s-sr%d", name, i)
		srs = append(srs, sr)
		pool.sr(sr, rapid.SampledFrom([]string{"nfs", "lvm"}).Draw(t, "type"), 100*gib, rapid.Int64Range(-1, 100).Draw(t, "used")*gib)
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "hosts") {
		host := fmt.Sprintf("%s-host%d", name, i)
		var plugged []string
		for _, sr := range srs {
			if rapid.IntRange(0, 3).Draw(t, "plugged") < 3 {
				plugged = append(plugged, sr)
			}
		}
		pool.host(host, (1024-rapid.Int64Range(0, 824).Draw(t, "less memory"))*mib, plugged...)
		if rapid.IntRange(0, 9).Draw(t, "down") == 9 {
			pool.HostMetrics[xapi.Ref(host)] = xapi.HostMetrics{}
		}
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "images") {
		pool.image(fmt.Sprintf("%s-image%d", name, i), rapid.SampledFrom([]string{"1.0", "1.1", "x"}).Draw(t, "version"), rapid.SampledFrom(srs).Draw(t, "image SR"))
	}
	disks := rapid.SliceOfN(rapid.SampledFrom(srs), 1, 3).Draw(t, "disks")
	if rapid.IntRange(0, 4).Draw(t, "many") == 4 {
		disks = slices.Repeat(disks[:1], 130)
	}
	pool.vm("vm", 16*mib, disks...)
	return pool
}

// TestEveryPlanIsFeasible: whatever MakePlan returns, each delegate's host is up, sees every SR of its disks and its
// image, has the memory of all delegates on it, and no position is used twice; and every disk is read once and
// written once.
func TestEveryPlanIsFeasible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source := drawPool(t, "a")
		target := source
		if rapid.Bool().Draw(t, "two pools") {
			target = drawPool(t, "b")
		}
		sr := rapid.SampledFrom(sortedKeys(target.Pool)).Draw(t, "target SR")
		request := placement.Request{Source: source.Pool, SourceVM: "vm", Target: target.Pool, TargetSR: sr, Direction: placement.Push}
		plan, err := placement.MakePlan(request)
		var infeasible *placement.Infeasible
		switch {
		case errors.As(err, &infeasible) && len(infeasible.Findings) > 0:
			return
		case err != nil:
			t.Fatalf("neither a plan nor findings: %v", err)
		}
		memory := map[xapi.Ref]int64{}
		handled := map[string]int{}
		for _, delegate := range plan.Delegates {
			pool := map[string]*inventory.Pool{source.UUID: source.Pool, target.UUID: target.Pool}[delegate.PoolUUID]
			if !pool.HostUsable(delegate.HostRef) {
				t.Fatalf("host %s is down", delegate.HostName)
			}
			if memory[delegate.HostRef] += delegate.Memory; memory[delegate.HostRef] > pool.FreeMemory[delegate.HostRef] {
				t.Fatalf("host %s lacks memory", delegate.HostName)
			}
			needed := []string{pool.SRs[pool.VDIs[xapi.Ref(pool.VMs[delegate.TemplateRef].NameLabel+"-0")].SR].UUID}
			positions := map[int]bool{}
			for _, attachment := range delegate.Attachments {
				if positions[attachment.UserDevice] || attachment.UserDevice < 4 || attachment.UserDevice > 254 {
					t.Fatalf("position %d", attachment.UserDevice)
				}
				positions[attachment.UserDevice] = true
				needed = append(needed, attachment.SRUUID)
				handled[fmt.Sprint(attachment.Side, attachment.Disk)]++
			}
			for _, uuid := range needed {
				if !pool.HostSees(delegate.HostRef, xapi.Ref(strings.TrimPrefix(uuid, "uuid-"))) {
					t.Fatalf("host %s does not see %s", delegate.HostName, uuid)
				}
			}
		}
		for _, disk := range plan.Disks {
			if handled[fmt.Sprint(placement.SideSource, disk.Number)] != 1 || handled[fmt.Sprint(placement.SideTarget, disk.Number)] != 1 {
				t.Fatalf("disk %d is handled %v", disk.Number, handled)
			}
		}
		if len(handled) != 2*len(plan.Disks) || (len(plan.Delegates) == 1) != (plan.Dialer == placement.SideBoth) {
			t.Fatalf("plan %+v", plan)
		}
	})
}

func sortedKeys(pool *inventory.Pool) []xapi.Ref {
	var refs []xapi.Ref
	for i := range len(pool.SRs) {
		for ref := range pool.SRs {
			if strings.HasSuffix(string(ref), fmt.Sprintf("sr%d", i)) {
				refs = append(refs, ref)
			}
		}
	}
	return refs
}
