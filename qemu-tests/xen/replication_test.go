//go:build xen

package xen_test

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/qemu-tests/worlds/xen"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// The main job between two pools: two PV delegates on one bridge, over TLS, first all of a disk, then what has changed.
func TestReplication(t *testing.T) {
	store := newStore(t)
	a, b := newSite(t, store, "a", xen.PV), newSite(t, store, "b", xen.PV)
	const size, noise = 64 * mib, 16 * mib
	content := make([]byte, size)
	fill(content[20*mib:][:noise], 1)
	file, err := os.CreateTemp(shared.dir, "web-")
	must(t, err)
	_, err = file.Write(content)
	must(t, err)
	must(t, file.Close())
	vm, err := a.AddVM(xapisim.VMConfig{Name: "web", Disks: []xapisim.DiskConfig{{From: file.Name(), Adopt: true}}})
	must(t, err)

	engine := &replication.Engine{Store: store, Log: logger(t), Dial: shared.lan.DialContext, SpawnTimeout: spawnTimeout}
	replicate := func(label string, trust bool) report.Run {
		t.Helper()
		run, err := engine.Replicate(t.Context(), replication.Request{
			Source: a.delegate, Target: b.delegate, VM: "web", SR: storage, Direction: report.Push, Trust: trust, OverwriteTarget: true,
		})
		must(t, err)
		disk := run.Disks[0]
		t.Logf("%s: %s in %v: %d MiB read, %.1f MiB sent", label, run.State, run.Finished.Sub(run.Started).Round(100*time.Millisecond),
			disk.Read/mib, float64(disk.Sent)/mib)
		replicas, err := store.Replicas(t.Context())
		must(t, err)
		if len(replicas) != 1 || len(replicas[0].Disks) != 1 {
			t.Fatalf("the state has the replicas %+v", replicas)
		}
		replica, err := os.ReadFile(b.VDIPath(replicas[0].Disks[0].TargetVDI))
		must(t, err)
		if !bytes.Equal(replica[:size], content) {
			t.Fatalf("%s: the replica differs from the source", label)
		}
		return run
	}
	replicate("first run", false)

	change := content[50*mib : 51*mib]
	fill(change, 2)
	source, err := os.OpenFile(a.VDIPath(vm.VDIs[0]), os.O_WRONLY, 0)
	must(t, err)
	_, err = source.WriteAt(change, 50*mib)
	must(t, err)
	must(t, source.Close())
	second := replicate("second run, trusted", true)
	if sent := second.Disks[0].Sent; sent != mib {
		t.Errorf("of one changed MiB %d bytes were sent", sent)
	}
	if mode := second.Disks[0].Mode; mode != report.Trusted {
		t.Errorf("the second run was %s: %s", mode, second.Disks[0].Cause)
	}
}
