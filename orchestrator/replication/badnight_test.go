package replication_test

import (
	"sync"
	"testing"
	"time"

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

// failOver is what happens to the source's pool: its coordinator is replaced while its second disk is being plugged, whose task is
// lost; a connection breaks, and with it the answer to the clone of a disk.
const failOver = `{"rules": [
	{"name": "plugs take their time", "method": "VBD.plug", "slow": "200ms"},
	{"name": "the clone of a disk is made, its answer lost with the connection", "method": "VDI.clone", "count": 1, "cut": "after"},
	{"name": "another host takes over", "method": "VBD.plug", "after": 1, "count": 1, "lie": {"kind": "fail-over", "object": "a-host1"}}
]}`

// TestFailOverInTheMiddle: by rules from files, the coordinator of the source's pool is replaced in the middle of a run, and both pools lose
// connections. The run ends well, and so does the next, which is trusted. With -v it tells which rule hit when.
func TestFailOverInTheMiddle(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{16 * mib, 4 * mib}})
	var mu sync.Mutex
	hits := map[string]int{}
	began := time.Now()
	for name, pool := range map[string]struct {
		sim   *xapisim.Pool
		rules string
	}{"source": {w.simA, failOver}, "target": {w.simB, troubles}} {
		faults, err := xapisim.ParseFaults([]byte(pool.rules))
		w.must(err)
		pool.sim.OnFault(func(r xapisim.Rule, method string) {
			mu.Lock()
			defer mu.Unlock()
			if hits[r.Name]++; r.Method != "" && r.Name != "slow storage" {
				t.Logf("%6.3f s  %s  %-24s  %s", time.Since(began).Seconds(), name, method, r.Name)
			}
		})
		faults.Add(pool.sim)
	}
	w.replicate()
	t.Logf("%6.3f s  the run is committed; %d plugs of two disks in the source's pool", time.Since(began).Seconds(), w.simA.Calls("Async.VBD.plug"))
	w.equal()
	w.tidy(1)
	mu.Lock()
	for _, name := range []string{
		"another host takes over", "the clone of a disk is made, its answer lost with the connection", "a request is lost",
		"a creating call's answer is lost", "connections die before they are used",
	} {
		if hits[name] == 0 {
			t.Errorf("no call met the rule %q", name)
		}
	}
	mu.Unlock()
	w.request.Trust = true
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 3*mib, []byte("after the night"))
	if d := w.replicate().Disks[0]; d.Mode != report.Trusted {
		t.Errorf("the next run's mode is %s (%s)", d.Mode, d.Cause)
	}
	w.equal()
	t.Log("the replica's disks are the source's disks, byte by byte")
}
