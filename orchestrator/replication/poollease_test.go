package replication_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/lease"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

const (
	// leaseVariable is the lease time of a child.
	leaseVariable = "REPLICATION_TEST_LEASE"
	// shortLease is that of tests which wait for one to run out, longLease of those in which it is renewed.
	shortLease = 4 * time.Second
	longLease  = 10 * time.Second
)

// copied is another orchestrator on a copy of the state folder, as it is now. Its delegates have other addresses.
func (w *world) copied(leaseTime time.Duration) *world {
	w.Helper()
	c := *w
	c.dir = w.TempDir()
	w.must(w.store.Close())
	if out, err := exec.CommandContext(w.Context(), "cp", "-a", w.dir+"/.", c.dir).CombinedOutput(); err != nil {
		w.Fatalf("%v: %s", err, out)
	}
	w.open()
	w.connect()
	c.open()
	c.connect()
	pools, err := c.store.Pools(w.Context())
	w.must(err)
	for _, p := range pools {
		network := fmt.Sprintf("127.%d.%d.", 100+rand.N(100), rand.N(250))
		p.DelegateAddresses = network + "10-" + network + "19/8"
		w.must(c.store.UpdatePool(w.Context(), p))
	}
	for _, one := range []*world{w, &c} {
		one.engine.SetLeaseTime(leaseTime)
	}
	return &c
}

// writers are the VMs other than the replica that have its first disk attached.
func (w *world) writers(disk xapi.Ref, vm xapi.Ref) (names []string) {
	var vbds []xapi.Ref
	if err := w.b.API.Call(w.Context(), "VDI.get_VBDs", &vbds, disk); err != nil {
		return nil
	}
	for _, ref := range vbds {
		vbd, err := xapi.GetRecord[xapi.VBD](w.Context(), w.b.API, "VBD", ref)
		if err == nil && vbd.VM != vm && vbd.CurrentlyAttached {
			names = append(names, string(vbd.VM))
		}
	}
	return names
}

// TestTwoOrchestratorsRace: an orchestrator and one on a copy of its state folder replicate one VM at the same time, while calls on the lease
// are late and their answers are lost. Never do both write, and who is refused is told who is at work.
func TestTwoOrchestratorsRace(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{8 * mib}})
	w.replicate()
	c := w.copied(longLease)
	vm, record := w.replicaVM()
	disk, err := xapi.GetByUUID(t.Context(), w.b.API, "VDI", w.record().Disks[0].TargetVDI)
	w.must(err)
	calm := func() {}
	for i, rule := range []xapisim.Rule{
		{Method: "VM.add_to_other_config", Object: record.UUID, Probability: 0.3, CutReply: true},
		{Method: "VM.add_to_other_config", Object: record.UUID, Probability: 0.3, Delay: 500 * time.Millisecond},
		{Method: "VM.get_other_config", Object: record.UUID, Probability: 0.2, Slow: 300 * time.Millisecond},
		{Method: "VM.get_other_config", Object: record.UUID, Probability: 0.1, CutReply: true},
	} {
		rule.Seed = uint64(i + 1)
		remove := w.simB.Fault(rule)
		before := calm
		calm = func() { before(); remove() }
	}
	looking, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		for looking.Err() == nil {
			if now := w.writers(disk, vm); len(now) > 1 {
				t.Errorf("%v write at the same time", now)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	committed := 0
	for round := 0; round < 4 && committed == 0; round++ {
		w.write(w.simA.VDIPath(w.vm.VDIs[0]), 3*mib, fmt.Appendf(nil, "round %d", round))
		var group sync.WaitGroup
		errs := make([]error, 2)
		for i, one := range []*world{w, c} {
			group.Go(func() { _, errs[i] = one.engine.Replicate(t.Context(), one.request) })
		}
		group.Wait()
		for _, err := range errs {
			var leased *replication.LeaseError
			switch {
			case err == nil:
				committed++
			case errors.As(err, &leased):
				if !errors.Is(err, state.ErrBusy) || leased.Holder.Run == "" || leased.Holder.Until.IsZero() {
					t.Errorf("refused with %v", err)
				}
			case errors.As(err, new(*lease.LostError)), errors.Is(err, replication.ErrChanged), xapi.IsTemporary(err):
			default:
				t.Errorf("round %d: %v", round, err)
			}
		}
	}
	stop()
	watching.Wait()
	calm()
	if _, err := c.engine.Replicate(t.Context(), c.request); errors.Is(err, replication.ErrChanged) {
		c.replicate()
	} else if err != nil {
		t.Error(err)
	}
	w.equal()
	if committed == 0 {
		t.Error("no run beside another one was committed")
	}
	if _, now := w.replicaVM(); lease.Newest(now.OtherConfig).Number < 4 || !lease.Newest(now.OtherConfig).Free() {
		t.Errorf("the lease is %+v", lease.Newest(now.OtherConfig))
	}
	c.recover()
	w.recover()
	w.tidyLeases()
}

// recover is 'gc', which must find nothing that it cannot remove.
func (w *world) recover() {
	w.Helper()
	if _, err := w.engine.Recover(w.Context(), w.a, w.b); err != nil {
		w.Errorf("gc: %v", err)
	}
}

// tidyLeases checks that no delegate is left, and that no restore point has a copy of a lease.
func (w *world) tidyLeases() {
	w.Helper()
	for _, pool := range []xapi.API{w.a.API, w.b.API} {
		vms, err := xapi.AllRecords[xapi.VM](w.Context(), pool, "VM")
		w.must(err)
		for _, vm := range vms {
			marker, _, _ := replica.Read(w.store.Installation().UUID, vm.UUID, vm.OtherConfig)
			if marker.Kind == replica.KindDelegate || marker.Kind == replica.KindSnapshot {
				w.Errorf("%s (%s) is left", vm.NameLabel, marker.Kind)
			}
			if e := lease.Newest(vm.OtherConfig); e.Number > 0 && marker.Kind != replica.KindReplica {
				w.Errorf("%s (%s) has a lease: %+v", vm.NameLabel, marker.Kind, e)
			}
		}
	}
}

// stoppedChild is a child that was stopped in the middle of its transfer.
type stoppedChild struct {
	*exec.Cmd
	told output
}

// stopped starts a child, and stops it when it has begun to write.
func (w *world) stopped(leaseTime time.Duration) *stoppedChild {
	w.Helper()
	child := &stoppedChild{Cmd: exec.CommandContext(w.Context(), os.Args[0])}
	child.Env = append(os.Environ(), childVariable+"="+w.dir, leaseVariable+"="+leaseTime.String(), limitVariable+"=1MiB/s")
	child.Stdout, child.Stderr = &child.told, &child.told
	disk, err := xapi.GetByUUID(w.Context(), w.b.API, "VDI", w.record().Disks[0].TargetVDI)
	w.must(err)
	vm, _ := w.replicaVM()
	before, err := os.ReadFile(w.replicaPath(0))
	w.must(err)
	w.must(child.Start())
	w.Cleanup(func() { _ = child.Process.Kill() })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		now, err := os.ReadFile(w.replicaPath(0))
		w.must(err)
		if string(now) != string(before) {
			break
		}
		if time.Now().After(deadline) {
			w.Fatal("the child writes nothing")
		}
	}
	w.must(child.Process.Signal(syscall.SIGSTOP))
	if len(w.writers(disk, vm)) != 1 {
		w.Fatal("the child has no delegate that holds the replica's disk")
	}
	return child
}

func (w *world) wake(child *stoppedChild) {
	w.Helper()
	w.must(child.Process.Signal(syscall.SIGCONT))
}

// last waits for a child to end, and returns what it said.
func (c *stoppedChild) last() string {
	_ = c.Wait() // it always ends with an error
	return c.told.String()
}

// TestHungOrchestratorWakes: an orchestrator is stopped in the middle of a transfer, and its delegates go on. The one on a copy of its state
// folder waits until its lease has run out, and halts them before it writes. While they cannot be halted it writes nothing. The other one,
// awake again, writes nothing more, and removes what is its own.
func TestHungOrchestratorWakes(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{12 * mib}})
	w.replicate()
	c := w.copied(shortLease)
	w.fill(w.vm.VDIs[0], 12*mib, 7)
	child := w.stopped(shortLease)
	w.fill(w.vm.VDIs[0], 12*mib, 8) // what the stopped one's delegate would write is old

	remove := w.simB.Fault(xapisim.Rule{Method: "VM.hard_shutdown", Error: &xapisim.Error{Code: "INTERNAL_ERROR"}})
	began := time.Now()
	_, err := c.engine.Replicate(t.Context(), c.request)
	var fence *replication.FenceError
	if !errors.As(err, &fence) || c.record().Disks[0].State.Dirty {
		t.Fatalf("beside a delegate that cannot be halted: %v; the disk is %s", err, c.record().Disks[0].State)
	}
	if found := replication.Findings(err); len(found) != 1 || found[0].Code != replication.CodeNotHalted {
		t.Errorf("findings %v", found)
	}
	if waited := time.Since(began); waited < time.Second {
		t.Errorf("the lease of a process that may live was taken after %v", waited)
	}
	remove()
	run := c.replicate()
	if text := textOf(run, "lease-taken-over"); !strings.Contains(text, "1 delegates") {
		t.Errorf("events %v", run.Events)
	}
	c.equal()
	w.wake(child)
	if told := child.last(); !strings.Contains(told, "lease of the replica was lost") {
		t.Errorf("the stopped one said %s", told)
	}
	c.equal()
	c.tidy(2)
	c.tidyLeases()
	if runs, err := w.store.Runs(t.Context(), 1); err != nil || runs[0].Report.State != report.StateFailed {
		t.Errorf("the stopped one's run is %+v, %v", runs[0].Report.State, err)
	}
	w.replicate()
	w.equal()
}

// TestCopyOfARunThatGoesOn: the copy of a state folder, taken in the middle of a run, believes on another host that the run's process is gone.
// Neither the next run there nor 'gc' touches what the run has made, for as long as it renews its lease.
func TestCopyOfARunThatGoesOn(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{12 * mib}})
	w.replicate()
	w.fill(w.vm.VDIs[0], 12*mib, 7)
	child := w.stopped(longLease)
	c := w.copied(longLease)
	w.wake(child)
	w.must(statetest.GiveAway(t.Context(), c.dir, statetest.Elsewhere))
	c.store.SetClock(func() time.Time { return time.Now().Add(2 * state.LeaseTime) })
	c.request.Trust = true // as the child's
	if run, err := c.engine.Replicate(t.Context(), c.request); !errors.As(err, new(*replication.LeaseError)) || run.ID != "" {
		t.Errorf("the copy's run %q: %v", run.ID, err)
	}
	if _, err := c.engine.Recover(t.Context(), c.a, c.b); !errors.As(err, new(*replication.LeaseError)) {
		t.Errorf("the copy's gc: %v", err)
	}
	child.last()
	if runs, err := w.store.Runs(t.Context(), 1); err != nil || runs[0].Report.State != report.StateCommitted {
		t.Errorf("the run was disturbed: %+v, %v", runs[0].Report, err)
	}
	w.equal()
	c.recover()
	w.tidy(2)
}

// TestChoresBesideARun: while one orchestrator is at work on a replica, none on a copy of its state folder reverts, resyncs or detaches it.
func TestChoresBesideARun(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{24 * mib}})
	w.replicate()
	c := w.copied(longLease)
	w.fill(w.vm.VDIs[0], 24*mib, 7)
	w.request.Limit = ratelimit.Schedule{{BytesPerSecond: 2 * mib}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := w.engine.Replicate(ctx, w.request)
		ended <- err
	}()
	_, vm := w.replicaVM()
	for number := lease.Newest(vm.OtherConfig).Number; lease.Newest(vm.OtherConfig).Number == number; _, vm = w.replicaVM() {
		time.Sleep(5 * time.Millisecond)
	}
	details, err := replication.Show(t.Context(), c.store, c.record().ID, c.a, c.b)
	if err != nil || details.Lease == nil || !details.Lease.Held || details.Lease.Process != w.store.Owner().String() {
		t.Errorf("shown as %+v, %v", details.Lease, err)
	}
	id := c.record().ID
	for what, do := range map[string]func() (report.Run, error){
		"revert": func() (report.Run, error) {
			return c.engine.Revert(t.Context(), replication.RevertRequest{Replica: id, Target: c.b, Point: replication.Newest})
		},
		"detach": func() (report.Run, error) {
			return c.engine.Detach(t.Context(), replication.DetachRequest{Replica: id, Target: c.b})
		},
	} {
		if run, err := do(); !errors.As(err, new(*replication.LeaseError)) || run.State != report.StateFailed {
			t.Errorf("%s beside a run: %s, %v", what, run.State, err)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the run ended with %v", err)
	}
}

// TestForeignInstallation: to another installation the replica is a stranger. It makes one of its own, and neither touches the other's.
func TestForeignInstallation(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	_, before := w.replicaVM()
	other := *w
	other.dir = t.TempDir()
	secrets, err := state.LoadOrCreateSecrets(other.dir+"/state", other.dir+"/key", func(string) string { return "" })
	w.must(err)
	other.store, err = state.Open(t.Context(), other.dir+"/state", secrets)
	w.must(err)
	t.Cleanup(func() { _ = other.store.Close() })
	other.engine = &replication.Engine{Store: other.store, SpawnTimeout: 20 * time.Second}
	other.connect()
	other.replicate()
	other.equal()
	if _, after := w.replicaVM(); other.record().TargetVM == w.record().TargetVM || fmt.Sprint(after.OtherConfig) != fmt.Sprint(before.OtherConfig) {
		t.Errorf("the other installation's replica is %s; ours has %v, had %v", other.record().TargetVM, after.OtherConfig, before.OtherConfig)
	}
	w.replicate()
	w.equal()
}
