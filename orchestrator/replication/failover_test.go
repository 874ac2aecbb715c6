package replication_test

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// troubles are what a bad night has in store for the pool of the replica: answers that are lost with their connections, a request
// that is never answered by a host that has gone, storage that is slow.
const troubles = `{"seed": 5, "rules": [
	{"name": "a creating call's answer is lost", "method": "VDI.create", "count": 1, "cut": "after"},
	{"name": "reads are lost now and then", "method": "*.get_record", "probability": 0.1, "count": 3, "cut": "before"},
	{"name": "connections die before they are used", "method": "connection", "after": 2, "count": 1, "cut": "before"},
	{"name": "slow storage", "object": "target", "delay": "5ms"}
]}`

// TestFailOverInTheMiddle: the coordinator of the source's pool is replaced while disks are moved, and the other pool loses
// connections. The run ends well, and so does the next, which is trusted.
func TestFailOverInTheMiddle(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{16 * mib, 4 * mib}})
	faults, err := xapisim.ParseFaults([]byte(troubles))
	w.must(err)
	faults.Add(w.simB)
	const disks = 2
	plugged := func(sim *xapisim.Pool) bool { return sim.Calls("VBD.plug")+sim.Calls("Async.VBD.plug") >= disks }
	promoted := make(chan error, 1)
	go func() {
		for !(plugged(w.simA) && plugged(w.simB)) && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		promoted <- w.simA.Promote(1)
	}()
	w.replicate()
	w.must(<-promoted)
	if n := w.simA.Coordinator(); n != 1 {
		t.Errorf("host %d is the coordinator", n)
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
