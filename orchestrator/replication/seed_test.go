package replication_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/inventory"
	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/qemu-tests/xapisim"
)

// TestSeed: of a second VM made from the template of the first only the differences are sent when the first one's replica is a
// seed, and nothing of the seed is left or changed.
func TestSeed(t *testing.T) {
	const size = 24 * mib // half of it noise
	w := newWorld(t, layout{sizes: []int64{size}})
	w.replicate()
	first := w.record()
	seed, err := os.ReadFile(w.replicaPath(0))
	w.must(err)

	second, err := w.simA.AddVM(xapisim.VMConfig{Name: "shop", VCPUs: 1, Disks: []xapisim.DiskConfig{{Size: size, SR: "source"}}})
	w.must(err)
	disk := w.simA.VDIPath(second.VDIs[0])
	template, err := os.ReadFile(w.simA.VDIPath(w.vm.VDIs[0]))
	w.must(err)
	w.write(disk, 0, template)
	w.fill(second.VDIs[0], mib, 77)
	w.request.VM = "shop"

	w.request.Seeds = []string{"nobody"}
	if _, err := w.engine.Replicate(w.Context(), w.request); !errors.As(err, new(*inventory.NotFoundError)) {
		t.Errorf("a seed that does not exist: %v", err)
	}
	w.request.Seeds = []string{first.TargetVM}
	run := w.replicate()
	if d := run.Disks[0]; d.Sent > 2*mib || d.Copied < 10*mib {
		t.Errorf("%d bytes were sent and %d copied, of 12 MiB that differ by one", d.Sent, d.Copied)
	}
	if !slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == "seed" && strings.Contains(e.Text, "web (replica)") }) {
		t.Errorf("no event names the seed: %v", run.Events)
	}
	w.tidy(2)
	record, err := w.store.FindReplica(w.Context(), first.SourcePool, second.UUID, first.TargetPool, first.TargetSR)
	w.must(err)
	got, err := os.ReadFile(w.simB.VDIPath(record.Disks[0].TargetVDI))
	w.must(err)
	want, err := os.ReadFile(disk)
	w.must(err)
	if !bytes.Equal(got[:size], want) {
		t.Error("the replica differs from its source")
	}
	after, err := os.ReadFile(w.simB.VDIPath(first.Disks[0].TargetVDI))
	w.must(err)
	if !bytes.Equal(after, seed) {
		t.Error("the seed's disk was changed")
	}

	// The replica is there now.
	run = w.replicate()
	if !slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == "seeds-unused" }) {
		t.Errorf("no event says that the seed is of no use: %v", run.Events)
	}
	w.tidy(3)

	// And the seed is trusted as before.
	w.request.VM, w.request.Seeds, w.request.Trust = "web", nil, true
	if run = w.replicate(); run.Disks[0].Mode != report.Trusted {
		t.Errorf("the first replica is %s now: %s", run.Disks[0].Mode, run.Disks[0].Cause)
	}
}

// TestSeedOnAThickSR: its clones would take the room of whole disks.
func TestSeedOnAThickSR(t *testing.T) {
	w := newWorld(t, layout{target: "lvmoiscsi"})
	w.replicate()
	_, err := w.simA.AddVM(xapisim.VMConfig{Name: "shop", VCPUs: 1, Disks: []xapisim.DiskConfig{{Size: 4 * mib, SR: "source"}}})
	w.must(err)
	w.request.VM, w.request.Seeds = "shop", []string{"web (replica)"}
	plan, err := w.engine.Plan(w.Context(), w.request)
	w.must(err)
	if len(plan.Seeds) != 0 || !slices.ContainsFunc(plan.Notes, func(n replication.Note) bool { return n.Cause == "seeds-unused" }) {
		t.Errorf("seeds %v, notes %v", plan.Seeds, plan.Notes)
	}
}
