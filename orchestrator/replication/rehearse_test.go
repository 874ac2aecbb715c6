package replication_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/placement"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// verdict is what a restore point's other_config says of its last test.
func (w *world) verdict(uuid string) *replica.Verdict {
	w.Helper()
	points, err := replication.Points(w.Context(), w.store, w.record().ID, w.b)
	w.must(err)
	shown := w.details().Points
	for i, p := range points {
		if p.UUID == uuid {
			if (p.Verdict == nil) != (shown[i].Verdict == nil) {
				w.Errorf("listed as %v, shown as %v", p.Verdict, shown[i].Verdict)
			}
			return p.Verdict
		}
	}
	w.Fatalf("restore point %s is gone", uuid)
	return nil
}

// install writes the beginning of the source's disk.
func (w *world) install(text string) { w.write(w.simA.VDIPath(w.vm.VDIs[0]), 0, []byte(text)) }

// clone reads the VM of a test.
func (w *world) clone(test replication.Test) (xapi.Ref, xapi.VM) {
	w.Helper()
	ref, err := xapi.GetByUUID(w.Context(), w.b.API, "VM", test.Clone.UUID)
	w.must(err)
	vm, err := xapi.GetRecord[xapi.VM](w.Context(), w.b.API, "VM", ref)
	w.must(err)
	return ref, vm
}

// TestTestsAreJudged: each restore point gets the verdict that its own content deserves, the newest and an older one, and the clone goes
// whatever came of it. Runs trust before and after.
func TestTestsAreJudged(t *testing.T) {
	guests := &bootWorld{}
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}, guests: guests})
	w.request.Trust = true
	for _, c := range []struct {
		disk    string
		timeout time.Duration
		outcome replica.Outcome
		cause   string
	}{
		{boots, 0, replica.Booted, "reported version 8.4 on Debian"},
		{stops, 0, replica.Failed, "powered itself off"},
		{noCode, 200 * time.Millisecond, replica.Failed, "no driver and no agent"},
		{linux, 0, replica.Booted, "kernel offered"},
	} {
		w.install(c.disk)
		if run := w.replicate(); w.verdictless() && len(w.points()) > 1 && run.Disks[0].Mode != report.Trusted {
			t.Errorf("the run after a test is %s: %s", run.Disks[0].Mode, run.Disks[0].Cause)
		}
		point := w.points()[0]
		before := w.content(point)
		test := w.test(replication.TestRequest{Auto: true, Timeout: c.timeout})
		if test.Point != point.UUID || test.Found == nil || test.Found.Outcome != c.outcome || !strings.Contains(test.Found.Cause, c.cause) {
			t.Errorf("%s: %+v", c.disk, test.Found)
		}
		kept := w.verdict(point.UUID)
		if kept == nil || kept.Outcome != c.outcome || kept.Cause != test.Found.Cause || !kept.Time.Equal(test.Found.Time.Truncate(time.Second)) {
			t.Errorf("%s: kept is %+v, found %+v", c.disk, kept, test.Found)
		}
		run, err := w.store.Run(t.Context(), test.Run.ID)
		failed := c.outcome == replica.Failed
		if err != nil || run.Kind != state.RunRehearse || run.Report.RestorePoint != point.UUID || (run.Report.State == report.StateFailed) != failed || (run.Report.Error != "") != failed {
			t.Errorf("%s: the run is %+v, %v", c.disk, run, err)
		}
		if m := guests.last(); len(m.VIFs) != 0 || len(m.Disks) != 2 || m.UUID != test.Clone.UUID {
			t.Errorf("%s: machine %+v", c.disk, m)
		}
		if w.content(w.points()[0]) != before {
			t.Error("the restore point changed")
		}
	}
	points := w.points()
	w.tidy(len(points))
	// An older one, by its name, is judged anew; the verdict of the newest stays.
	test := w.test(replication.TestRequest{Auto: true, Timeout: 200 * time.Millisecond, Point: points[1].NameLabel})
	if test.Point != points[1].UUID || test.Found.Outcome != replica.Failed || w.verdict(points[0].UUID).Outcome != replica.Booted {
		t.Errorf("the older one: %+v", test)
	}
	// A crash has a message, and three restarts are a loop.
	for cause, act := range map[string]func(ref xapi.Ref, uuid string, over <-chan struct{}){
		"it crashed": func(ref xapi.Ref, uuid string, _ <-chan struct{}) {
			w.must(w.b.API.Call(t.Context(), "message.create", nil, "VM_CRASHED", 1, "VM", uuid, ""))
			w.must(w.b.API.Run(t.Context(), "VM.hard_shutdown", nil, ref))
		},
		"restarts again and again": func(ref xapi.Ref, _ string, over <-chan struct{}) {
			for {
				err := w.b.API.Run(t.Context(), "VM.hard_reboot", nil, ref)
				select {
				case <-over: // and removed, maybe in the middle of this reboot
					return
				case <-time.After(100 * time.Millisecond): // events tell of the last of several changes alone
					if err != nil && !xapi.IsGone(err, ref) && !xapi.IsCode(err, "VM_BAD_POWER_STATE", "OTHER_OPERATION_IN_PROGRESS") {
						t.Errorf("rebooting: %v", err)
					}
				}
			}
		},
		"was shut down": func(ref xapi.Ref, _ string, _ <-chan struct{}) {
			w.must(w.b.API.Run(t.Context(), "VM.hard_shutdown", nil, ref))
		},
	} {
		acted, over := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(acted)
			ref, vm := w.awaitClone()
			act(ref, vm.UUID, over)
		}()
		test := w.test(replication.TestRequest{Auto: true, Steady: 20 * time.Second})
		close(over)
		<-acted
		if test.Found == nil || test.Found.Outcome != replica.Failed || !strings.Contains(test.Found.Cause, cause) {
			t.Errorf("%s: %+v", cause, test.Found)
		}
	}
	w.tidy(len(points))
	if run := w.replicate(); run.Disks[0].Mode != report.Trusted {
		t.Errorf("the last run is %s: %s", run.Disks[0].Mode, run.Disks[0].Cause)
	}
	w.equal()
}

// verdictless: a new restore point has none of an older one.
func (w *world) verdictless() bool {
	w.Helper()
	v := w.verdict(w.points()[0].UUID)
	if v != nil {
		w.Errorf("a new restore point is %+v", v)
	}
	return v == nil
}

// awaitClone waits until the clone of a test runs.
func (w *world) awaitClone() (found xapi.Ref, clone xapi.VM) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		vms, err := xapi.AllRecords[xapi.VM](w.Context(), w.b.API, "VM")
		if err != nil {
			w.Error(err)
			return "", clone
		}
		for ref, vm := range vms {
			marker, _, _ := replica.Read(w.store.Installation().UUID, vm.UUID, vm.OtherConfig)
			if marker.Kind == replica.KindRehearsal && vm.PowerState == xapi.Running {
				return ref, vm
			}
		}
	}
	w.Error("no clone runs")
	return "", clone
}

// TestATestStandsUntilItIsEnded: a clone that is left to the administrator is on the network asked for and has addresses of its own;
// runs go on and trust, retention keeps the restore point, recovery leaves the clone alone, and the end removes it.
func TestATestStandsUntilItIsEnded(t *testing.T) {
	guests := &bootWorld{}
	w := newWorld(t, layout{sizes: []int64{4 * mib}, guests: guests})
	w.install(boots)
	w.request.Trust, w.request.Retention = true, 1
	w.replicate()
	point := w.points()[0]
	_, standby := w.replicaVM()
	ours := w.interfaces(w.b.API, standby)

	test := w.test(replication.TestRequest{Network: "isolated", Host: "b-host1"})
	ref, vm := w.clone(test)
	if vm.PowerState != xapi.Running || vm.IsATemplate || vm.HARestartPriority != "" || vm.ResidentOn != w.hostOfB("b-host1") || test.Host != "b-host1" ||
		vm.NameLabel != test.Clone.Name || !slices.Contains(vm.Tags, replica.TagLeaveAlone) || vm.OtherConfig["auto_poweron"] != "" || test.Found != nil {
		t.Errorf("clone %+v of %+v", vm, test)
	}
	theirs := w.interfaces(w.b.API, vm)
	if len(theirs) != len(ours) || len(ours) == 0 {
		t.Errorf("interfaces %v, the replica's are %v", theirs, ours)
	}
	for device, is := range theirs {
		if is[0] != "isolated" && is[1] != "isolated" || is == ours[device] {
			t.Errorf("interface %s is %v, the replica's %v", device, is, ours[device])
		}
	}
	for range 3 { // beside it runs go on, and trust
		w.write(w.simA.VDIPath(w.vm.VDIs[0]), 2*mib, []byte(time.Now().String()))
		if run := w.replicate(); run.Disks[0].Mode != report.Trusted {
			t.Errorf("a run beside the test is %s: %s", run.Disks[0].Mode, run.Disks[0].Cause)
		}
	}
	if kept := w.points(); len(kept) != 2 || kept[1].UUID != point.UUID {
		t.Errorf("%d restore points are kept, the one tested must be among them", len(kept))
	}
	if _, err := w.engine.Recover(t.Context(), w.a, w.b); err != nil {
		t.Error(err)
	}
	if _, vm := w.clone(test); vm.PowerState != xapi.Running {
		t.Errorf("after recovery it is %s", vm.PowerState)
	}
	if tests := w.details().Tests; len(tests) != 1 || tests[0].Clone != vm.UUID || !tests[0].Left || tests[0].Point != point.UUID {
		t.Errorf("shown are %+v", tests)
	}
	if _, err := w.engine.Detach(t.Context(), replication.DetachRequest{Replica: w.record().ID, Target: w.b}); err == nil || !strings.Contains(err.Error(), "--end") {
		t.Errorf("detach: %v", err)
	}

	// Put to use it is a stranger's, whole; given back it goes.
	carrier := w.make(w.b.API, "VM.clone", w.template(), "somebody's")
	held, err := xapi.GetRecord[xapi.VBD](t.Context(), w.b.API, "VBD", vm.VBDs[0])
	w.must(err)
	disk, err := xapi.GetRecord[xapi.VDI](t.Context(), w.b.API, "VDI", held.VDI)
	w.must(err)
	w.attach(w.b.API, carrier, disk.UUID, "7")
	end := replication.EndTestRequest{Replica: w.record().ID, Target: w.b}
	if _, err := w.engine.EndTest(t.Context(), end); !errors.Is(err, replication.ErrStranger) {
		t.Errorf("the end of a clone whose disk is attached elsewhere: %v", err)
	}
	if _, vm := w.clone(test); vm.PowerState != xapi.Running || len(w.pendingRuns()) != 0 {
		t.Errorf("it is %s", vm.PowerState)
	}
	w.must(w.b.API.Call(t.Context(), "VBD.destroy", nil, w.vbdOf(carrier, disk.UUID)))
	if ended, err := w.engine.EndTest(t.Context(), end); err != nil || len(ended) != 1 || ended[0].ID != test.Run.ID {
		t.Errorf("ended %+v, %v", ended, err)
	}
	if err := w.b.API.Call(t.Context(), "VM.get_uuid", nil, ref); !xapi.IsGone(err, ref) {
		t.Errorf("the clone: %v", err)
	}
	if _, err := w.engine.EndTest(t.Context(), end); !errors.Is(err, replication.ErrNoTest) {
		t.Errorf("once more: %v", err)
	}
	w.must(w.b.API.Run(t.Context(), "VM.destroy", nil, carrier))
	if w.replicate(); len(w.points()) != 1 {
		t.Errorf("%d restore points, now that nothing is tested", len(w.points()))
	}
}

// TestATestDoesNotHoldUpRuns: a run begins, commits and prunes while a test is being watched; and the test while a run has the replica.
func TestATestDoesNotHoldUpRuns(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}, guests: &bootWorld{}})
	w.install(noCode)
	w.request.Trust, w.request.Retention = true, 1
	w.replicate()
	point := w.points()[0]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type outcome struct {
		test replication.Test
		err  error
	}
	ended := make(chan outcome, 1)
	go func() {
		test, err := w.engine.Test(ctx, replication.TestRequest{Replica: w.record().ID, Target: w.b, Auto: true})
		ended <- outcome{test, err}
	}()
	w.awaitClone()
	for range 2 {
		w.replicate()
	}
	if kept := w.points(); kept[len(kept)-1].UUID != point.UUID {
		t.Error("the restore point was removed under its test")
	}
	began := time.Now()
	cancel()
	o := <-ended
	if !errors.Is(o.err, context.Canceled) || o.test.Run.State != report.StateCancelled || o.test.Found != nil || time.Since(began) > 5*time.Second {
		t.Errorf("cancelled after %v: %+v, %v", time.Since(began), o.test, o.err)
	}
	if v := w.verdict(point.UUID); v != nil {
		t.Errorf("a cancelled test says %+v", v)
	}
	w.tidy(2)

	w.install(boots)
	w.replicate()
	busy, err := w.store.BeginRun(t.Context(), w.record().ID, state.RunVerify, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	w.must(err)
	if test := w.test(replication.TestRequest{Auto: true}); test.Found.Outcome != replica.Booted {
		t.Errorf("beside a run: %+v", test.Found)
	}
	busy.Report.State, busy.Report.Finished = report.StateFailed, time.Now()
	w.must(w.store.SaveReport(t.Context(), busy.Report))
}

// TestTestsThatCannotBegin: what would stop a test half-way is found before anything is made.
func TestTestsThatCannotBegin(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{16 * mib}, target: "lvm", capacity: 50 * mib})
	w.replicate()
	request := replication.TestRequest{Replica: w.record().ID, Target: w.b, Auto: true}
	clones := w.simB.Calls("Async.VM.clone")
	finds := func(name, code string, change func(*replication.TestRequest)) {
		t.Helper()
		one := request
		if change != nil {
			change(&one)
		}
		_, err := w.engine.Test(t.Context(), one)
		found := replication.Findings(err)
		if !slices.ContainsFunc(found, func(f report.Finding) bool { return f.Code == code && f.Mend != "" }) {
			t.Errorf("%s: %v, %+v", name, err, found)
		}
	}
	finds("an SR without room for a full-size clone", placement.CodeSpace, nil)
	w.must(w.simB.Restrict("VM_start"))
	finds("a licence that forbids to start VMs", placement.CodeLicence, nil)
	w.must(w.simB.Restrict())
	finds("no such network", replication.CodeNotFound, func(r *replication.TestRequest) { r.Network = "nowhere" })
	finds("no such host", replication.CodeNotFound, func(r *replication.TestRequest) { r.Host = "nowhere" })
	var refused *replication.TestError
	none := request
	none.Point = "nonsense"
	if _, err := w.engine.Test(t.Context(), none); !errors.As(err, &refused) {
		t.Errorf("no such restore point: %v", err)
	}
	none = request
	none.NoStart = true
	if _, err := w.engine.Test(t.Context(), none); err == nil {
		t.Error("what is not started was to be judged")
	}
	if n := w.simB.Calls("Async.VM.clone") - clones; n != 0 {
		t.Errorf("%d clones were made", n)
	}
	w.tidy(1)
}

// hostOfB is a host of the target pool.
func (w *world) hostOfB(name string) xapi.Ref {
	w.Helper()
	var refs []xapi.Ref
	w.must(w.b.API.Call(w.Context(), "host.get_by_name_label", &refs, name))
	return refs[0]
}

// vbdOf is what joins a disk with a VM.
func (w *world) vbdOf(vm xapi.Ref, disk string) xapi.Ref {
	w.Helper()
	vbds, err := xapi.AllRecords[xapi.VBD](w.Context(), w.b.API, "VBD")
	w.must(err)
	vdi, err := xapi.GetByUUID(w.Context(), w.b.API, "VDI", disk)
	w.must(err)
	for ref, vbd := range vbds {
		if vbd.VM == vm && vbd.VDI == vdi {
			return ref
		}
	}
	w.Fatal("no such VBD")
	return ""
}
