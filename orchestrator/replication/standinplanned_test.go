package replication_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// starts has the source VM run, and waits until it can be shut down.
func (w *world) starts() {
	w.Helper()
	ref, _ := w.sourceVM()
	w.must(w.a.API.Run(w.Context(), "VM.start", nil, ref, false, false))
	w.waitForDrivers()
}

// waitForDrivers waits until the source VM can be shut down.
func (w *world) waitForDrivers() {
	w.Helper()
	w.waitFor(func() bool {
		_, vm := w.sourceVM()
		return slices.Contains(vm.AllowedOperations, xapi.VMOperationCleanShutdown)
	})
}

func (w *world) waitFor(so func() bool) {
	w.Helper()
	for began := time.Now(); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			w.Fatal("it does not come about")
		}
	}
}

// sourceIs checks the source VM's power and whether it is kept from being started.
func (w *world) sourceIs(power xapi.VMPowerState, blocked bool) {
	w.Helper()
	if _, vm := w.sourceVM(); vm.PowerState != power || (vm.BlockedOperations["start"] != "") != blocked {
		w.Errorf("the source is %s, blocked %v; want %s, %v", vm.PowerState, vm.BlockedOperations, power, blocked)
	}
}

// TestPlannedFailover: nothing is lost of what the source wrote until its shutdown. Whatever fails before the replica is let go has the
// source run again; both never run.
func TestPlannedFailover(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{4 * mib, 4 * mib}})
	w.request.Trust = true
	w.replicate()
	w.starts()
	request := w.failover()
	request.Planned, request.Source, request.Sync = true, w.a, w.request

	none := w.simB.Fault(xapisim.Rule{Method: "VM.assert_can_boot_here", Error: &xapisim.Error{Code: "VM_REQUIRES_NETWORK", Params: []string{"", ""}}})
	var unstarted *replication.StartError
	if _, err := w.engine.Failover(t.Context(), request); !errors.As(err, &unstarted) || len(unstarted.Reasons) != 2 {
		t.Errorf("without a host: %v", err)
	}
	none()
	w.sourceIs(xapi.Running, false)

	// It does not shut down, and goes on.
	deaf := w.simA.Fault(xapisim.Rule{Method: "VM.clean_shutdown", Error: &xapisim.Error{Code: "VM_FAILED_SHUTDOWN_ACK"}})
	var still *replication.ShutdownError
	if _, err := w.engine.Failover(t.Context(), request); !errors.As(err, &still) {
		t.Errorf("of a source that does not shut down: %v", err)
	}
	deaf()
	w.standsBy()
	w.sourceIs(xapi.Running, false)

	// It shuts down, the last run fails, and it is started again.
	failing := w.simB.Fault(xapisim.Rule{Method: "VM.snapshot", After: 1, Count: 1, Error: &xapisim.Error{Code: "INTERNAL_ERROR", Params: []string{"injected"}}})
	if run, err := w.engine.Failover(t.Context(), request); !xapi.IsCode(err, "INTERNAL_ERROR") || !strings.Contains(err.Error(), "taken back") || run.State != report.StateFailed {
		t.Errorf("with a last run that fails: run %s, %v", run.State, err)
	}
	failing()
	w.standsBy()
	w.sourceIs(xapi.Running, false)
	if w.simA.Calls("Async.VM.clean_shutdown") != 2 {
		t.Error("the source was not shut down")
	}

	// It writes until it is switched off; no host starts the replica.
	w.simA.Fault(xapisim.Rule{Method: "VM.clean_shutdown", Delay: 300 * time.Millisecond, Error: &xapisim.Error{Code: "VM_FAILED_SHUTDOWN_ACK"}})
	full := w.simB.Fault(xapisim.Rule{Method: "VM.start", Error: &xapisim.Error{Code: "NO_HOSTS_AVAILABLE"}})
	w.when(func() bool { return w.simA.Calls("Async.VM.clean_shutdown") > 2 }, func() {
		w.write(w.simA.VDIPath(w.vm.VDIs[1]), mib, []byte("the last write"))
	})
	request.Hard = true
	if run, err := w.engine.Failover(t.Context(), request); !errors.As(err, &unstarted) || len(told(run, "switched-off")) != 1 {
		t.Errorf("of a replica that cannot be started: %v, %v", err, run.Events)
	}
	w.standsIn(replica.FailingOver, xapi.Halted)
	w.sourceIs(xapi.Halted, true)
	w.equal()
	full()
	w.failsOver(request)
	w.standsIn(replica.FailedOver, xapi.Running)
	w.sourceIs(xapi.Halted, true)
	point := w.points()[0]
	held := w.content(point)
	w.works("what is given up")
	w.undo(w.a)
	w.standsBy()
	w.isAt(point, held)
	w.sourceIs(xapi.Running, false)
	w.tidy(3)
}
