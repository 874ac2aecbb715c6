package replication_test

import (
	"maps"
	"strings"

	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/state"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// reversals kills a reverse again and again, each time further on, and then a failback. Each goes on where it was; the two VMs never both
// run, and what the former source held is kept once.
func (m *matrix) reversals() {
	x, vm := m.sourceVM()
	if vm.PowerState == xapi.Running {
		m.must(m.a.API.Run(m.Context(), "VM.hard_shutdown", nil, x))
	}
	m.replicate()
	m.fallsOver()
	m.onB(0, 2*mib, "on the other side")
	m.further("reverse", replica.Reversing, state.RunReverse,
		"after record reversing", "after record the pair", "after a: VM.snapshot 1", "after keep the former source", "before record reversed")
	m.reversed()
	kept := len(m.snapshots(m.a.API, replica.KindDiverged))
	if kept != 1 {
		m.Errorf("what the former source held is kept %d times", kept)
	}

	m.onB(1, 1*mib, "and on its other disk")
	m.further("failback", replica.FailingBack, state.RunFailback,
		"after shut down", "before take over", "after a: VM.start 1", "after take over", "before record standby")
	if run, err := m.failsBack(nil); err != nil {
		m.Fatalf("failback: %v\n%v", err, run.Events)
	}
	m.isNow(replica.Standby)
	m.oneWorks()
	m.same()
	if _, vm := m.sourceVM(); vm.PowerState != xapi.Running {
		m.Errorf("the former source is %s", vm.PowerState)
	}
	m.change()
	m.replicate()
	m.equal()
	m.must(m.a.API.Run(m.Context(), "VM.hard_shutdown", nil, x))
	vms, err := xapi.AllRecords[xapi.VM](m.Context(), m.a.API, "VM")
	m.must(err)
	maps.DeleteFunc(vms, func(_ xapi.Ref, vm xapi.VM) bool { return vm.SnapshotOf != x }) // what was kept is an ordinary snapshot now
	m.removeSnapshots(m.a.API, vms)
}

// further kills a child at borders that come one after the other, and has gc look at every second of what it leaves.
func (m *matrix) further(verb string, now replica.Failover, kind state.RunKind, borders ...string) {
	m.Helper()
	for i, border := range borders {
		m.dieAt(border, choreVariable+"="+string(kind))
		then := "again"
		if i%2 == 1 {
			then = "gc"
			m.recover()
		}
		m.isNow(now)
		m.oneWorks()
		m.suspended()
		when, step, _ := strings.Cut(border, " ")
		m.tell(verb, when, step, then, resumed)
	}
}

// oneWorks checks that not both VMs run, and that what does not run of a pair cannot be started beside the other.
func (m *matrix) oneWorks() {
	m.Helper()
	_, former := m.sourceVM()
	_, vm := m.replicaOf()
	if former.PowerState == xapi.Running && vm.PowerState == xapi.Running {
		m.Error("both VMs run")
	}
	for _, pair := range [][2]xapi.VM{{former, vm}, {vm, former}} {
		running := pair[0].PowerState == xapi.Running
		if running && pair[1].BlockedOperations["start"] == "" {
			m.Errorf("VM %s runs, and VM %s can be started", pair[0].NameLabel, pair[1].NameLabel)
		}
	}
}
