package replication_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/delegate"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/state/statetest"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// childVariable makes the test binary an orchestrator of its own, on this directory.
const childVariable = "REPLICATION_TEST_CHILD"

// limitVariable is the limit that it holds to.
const limitVariable = "REPLICATION_TEST_LIMIT"

// consistencyVariable is how it has the source snapshotted.
const consistencyVariable = "REPLICATION_TEST_CONSISTENCY"

// methodVariable is the method that it replicates by.
const methodVariable = "REPLICATION_TEST_METHOD"

// revertVariable has it revert the replica to this restore point instead.
const revertVariable = "REPLICATION_TEST_REVERT"

// cbtVariable says whether it uses change tracking.
const cbtVariable = "REPLICATION_TEST_CBT"

// child replicates the VM of a world.
func child(ctx context.Context, dir string) error {
	store, err := statetest.Open(ctx, dir)
	if err != nil {
		return err
	}
	known, err := store.Pools(ctx)
	if err != nil {
		return err
	}
	pools := map[string]*delegate.Pool{}
	for _, p := range known {
		client, err := xapi.Dial(ctx, poolConfig(p.Addresses, p.Fingerprints))
		if err != nil {
			return err
		}
		pools[p.Name] = &delegate.Pool{Name: p.Name, API: watchCalls(client, p.Name), Store: store}
	}
	limit, err := ratelimit.Parse(cmp.Or(os.Getenv(limitVariable), "unlimited"))
	if err != nil {
		return err
	}
	engine := &replication.Engine{Store: store, SpawnTimeout: 20 * time.Second}
	engine.SetReach(reach)
	if short := os.Getenv(leaseVariable); short != "" {
		d, err := time.ParseDuration(short)
		if err != nil {
			return err
		}
		engine.SetLeaseTime(d)
	}
	if chore := os.Getenv(choreVariable); chore != "" {
		return errors.Join(doChore(ctx, engine, chore, pools), errors.New("the child was to be killed before"))
	}
	if point := os.Getenv(revertVariable); point != "" {
		records, err := store.Replicas(ctx)
		if err == nil {
			_, err = engine.Revert(ctx, replication.RevertRequest{Replica: records[0].ID, Target: pools["b"], Point: point})
		}
		return errors.Join(err, errors.New("the child was to be killed before"))
	}
	_, err = engine.Replicate(ctx, replication.Request{
		Limit: limit, Method: report.Method(os.Getenv(methodVariable)), Source: pools["a"], Target: cmp.Or(pools["b"], pools["a"]), VM: "web", SR: "target", Direction: report.Push, OverwriteTarget: true, Trust: true,
		Consistency: report.Consistency(os.Getenv(consistencyVariable)),
		CBT:         replication.CBT(os.Getenv(cbtVariable)),
	})
	return errors.Join(err, errors.New("the child was to be killed before"))
}

// TestKilledAnywhere kills the orchestrator's process while it makes a call that the pool carries out later, and has another one clean
// up. Kills before and after calls are TestKillMatrix's.
func TestKilledAnywhere(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	moments := []struct {
		sim    *xapisim.Pool
		method string
		after  int // calls of the method that this run makes before
	}{
		{w.simA, "VM.snapshot", 0},
		{w.simA, "VDI.clone", 1},
		{w.simB, "VM.create", 0},
		{w.simB, "VM.clone", 0},
		{w.simB, "host.get_servertime", 0}, // for the lease
		{w.simB, "VM.snapshot", 0},
	}
	for _, m := range moments {
		w.killAt(m.sim, m.method, m.after)
		all, err := w.engine.Recover(t.Context(), w.a, w.b)
		if err != nil || len(all) != 1 {
			t.Fatalf("killed in %s: recovered %d runs, %v", m.method, len(all), err)
		}
		if run, err := w.store.Run(t.Context(), all[0].Run.Report.ID); err != nil || run.Report.State != report.StateInterrupted {
			t.Errorf("killed in %s: the run is %s, %v", m.method, run.Report.State, err)
		}
		w.tidy(0)
		if t.Failed() {
			t.Fatalf("killed in %s", m.method)
		}
		if record := w.record(); len(record.Disks) > 0 && record.Disks[0].State.Valid() && !record.Disks[0].State.Dirty {
			t.Fatalf("killed in %s: the replica is %s", m.method, record.Disks[0].State)
		}
	}
	// A run whose process died does not stand in the way of the next, which cleans up first.
	w.killAt(w.simB, "VBD.plug", 1)
	w.request.Trust = true
	if d := w.replicate().Disks[0]; d.Mode != report.Untrusted {
		t.Errorf("after kills the mode is %s (%s)", d.Mode, d.Cause)
	}
	w.equal()
	w.tidy(1)
}

// killAt runs a child and kills it in its call of a method. The pool carries the call out nevertheless, a little later.
func (w *world) killAt(sim *xapisim.Pool, method string, after int, environment ...string) {
	w.Helper()
	const late = 300 * time.Millisecond
	remove := sim.Fault(xapisim.Rule{Method: method, After: after, Count: 1, Delay: late})
	defer remove()
	calls := func() int { return sim.Calls(method) + sim.Calls("Async."+method) }
	before := calls()
	w.killWhen(method, func() bool { return calls() > before+after }, environment...)
}

// killWhen runs a child and kills it as soon as something is so.
func (w *world) killWhen(what string, so func() bool, environment ...string) {
	w.Helper()
	if killed, told := w.killOnce(so, environment...); !killed {
		w.Fatalf("the child ended before %s: %s", what, told)
	}
}

// killOnce is killWhen for a child that may end before; environment is what it is given besides.
func (w *world) killOnce(so func() bool, environment ...string) (killed bool, says string) {
	w.Helper()
	command := exec.CommandContext(w.Context(), os.Args[0])
	command.Env = append(append(os.Environ(), childVariable+"="+w.dir, cbtVariable+"="+string(w.request.CBT)), environment...)
	var told output
	command.Stdout, command.Stderr = &told, &told
	w.must(command.Start())
	ended := make(chan struct{})
	go func() {
		_ = command.Wait() // it is to be killed
		close(ended)
	}()
	for !so() {
		select {
		case <-ended:
			return false, told.String()
		case <-time.After(5 * time.Millisecond):
		}
	}
	w.must(command.Process.Kill())
	<-ended
	return true, ""
}

func TestBusyReplica(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib}})
	w.replicate()
	run, err := w.store.BeginRun(t.Context(), w.record().ID, state.RunVerify, report.Run{Direction: report.Push, Trust: report.TrustVerify})
	w.must(err)
	if _, err := w.engine.Replicate(t.Context(), w.request); !errors.Is(err, state.ErrBusy) {
		t.Errorf("a run beside another gave %v", err)
	}
	run.Report.State, run.Report.Finished = report.StateFailed, time.Now()
	w.must(w.store.SaveReport(t.Context(), run.Report))
}

type output struct{ text []byte } // written by one goroutine of os/exec, read after Wait

func (b *output) Write(p []byte) (int, error) {
	b.text = append(b.text, p...)
	return len(p), nil
}

func (b *output) String() string { return fmt.Sprintf("%.2000s", b.text) }
