package replication_test

import (
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// troubles are what a bad night has in store for the pool of the replica: answers that are lost with their connections, a request
// that is never answered by a host that has gone, storage that is slow.
const troubles = `{"seed": 5, "rules": [
	{"name": "a creating call's answer is lost", "method": "VDI.create", "count": 1, "cut": "after"},
	{"name": "and that of one that makes no object of its own", "method": "VBD.create", "count": 2, "cut": "after"},
	{"name": "a request is lost", "method": "VBD.plug", "count": 1, "cut": "before"},
	{"name": "reads are lost now and then", "method": "*.get_record", "probability": 0.1, "count": 3, "cut": "before"},
	{"name": "connections die before they are used", "method": "connection", "after": 2, "count": 1, "cut": "before"},
	{"name": "slow storage", "object": "target", "delay": "5ms"}
]}`

// slowness keeps tasks of the source's pool pending for long enough to be lost.
const slowness = `{"rules": [{"name": "plugs take their time", "method": "VBD.plug", "slow": "200ms"}]}`

// TestFailOverInTheMiddle: the coordinator of the source's pool is replaced while the first disk is being plugged, whose task is
// lost, and again while disks are moved, and the other pool loses connections. The run ends well, and so does the next, which is
// trusted.
func TestFailOverInTheMiddle(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{16 * mib, 4 * mib}})
	for rules, sim := range map[string]*xapisim.Pool{troubles: w.simB, slowness: w.simA} {
		faults, err := xapisim.ParseFaults([]byte(rules))
		w.must(err)
		faults.Add(sim)
	}
	promoted := make(chan error, 2)
	w.when(func() bool { return w.simA.Calls("Async.VBD.plug") >= 1 }, func() { promoted <- w.simA.Promote(1) })
	w.atTransfer(func() { promoted <- w.simA.Promote(0) })
	w.replicate()
	w.must(errors.Join(<-promoted, <-promoted))
	if n := w.simA.Calls("Async.VBD.plug"); n < 3 {
		t.Errorf("%d plugs of two disks: none was lost", n)
	}
	w.equal()
	w.tidy(1)
	w.request.Trust = true
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 3*mib, []byte("after the night"))
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("the next run's mode is %s (%s)", d.Mode, d.Cause)
	}
	w.equal()
}
