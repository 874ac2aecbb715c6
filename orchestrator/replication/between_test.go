package replication_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
)

// betweenSize is that of the disk: more than what a target writes between two acknowledgements.
const betweenSize = 160 * mib

// betweenWorld has a replica that is clean and holds noise of seed 9.
func betweenWorld(t *testing.T) *world {
	w := newWorld(t, layout{sizes: []int64{betweenSize}})
	w.fill(w.vm.VDIs[0], betweenSize, 9)
	w.request.Trust, w.request.ReadBack = true, "none"
	w.replicate()
	return w
}

// endBadly has the guest write, and a run of it end as soon as so many extents are journalled.
func (w *world) endBadly(extents uint32, seed uint64, end func(cancel func())) report.Run {
	w.Helper()
	w.fill(w.vm.VDIs[0], betweenSize, seed)
	ctx, cancel := context.WithCancel(w.Context())
	defer cancel()
	w.request.Limit = ratelimit.Schedule{{BytesPerSecond: 64 * mib}}
	before := w.record().Disks[0].State
	w.when(func() bool {
		records, err := w.store.Replicas(w.Context())
		return err == nil && records[0].Disks[0].State != before && w.journalled(extents)
	}, func() { end(cancel) })
	run, err := w.engine.Replicate(ctx, w.request)
	if err == nil {
		w.Fatal("the run was to end badly")
	}
	w.request.Limit = nil
	if !w.record().Disks[0].State.Dirty {
		w.Fatalf("the replica is %s", w.record().Disks[0].State)
	}
	return run
}

// goesOn expects the next run to rely on the journal, to read less of the replica than all, and to make it equal.
func (w *world) goesOn() report.Run {
	w.Helper()
	run := w.replicate()
	w.equal()
	d := run.Disks[0]
	if d.Mode != report.Trusted || !strings.Contains(d.Cause, "did not commit") || !slices.Contains(causes(run), "goes-on") {
		w.Errorf("the run is %s (%s), events %v", d.Mode, d.Cause, run.Events)
	}
	w.Logf("%s; %d MiB of the replica read, %d MiB sent", textOf(run, "goes-on"), d.ReadTarget>>20, d.Sent>>20)
	if next := w.replicate().Disks[0]; next.Mode != report.Trusted || next.Sent != 0 || strings.Contains(next.Cause, "did not commit") {
		w.Errorf("the run after it is %s (%s) and sends %d bytes", next.Mode, next.Cause, next.Sent)
	}
	return run
}

// scans expects the next run to scan, for a cause.
func (w *world) scans(cause string) {
	w.Helper()
	run := w.replicate()
	w.equal()
	if d := run.Disks[0]; d.Mode != report.Untrusted || !strings.Contains(d.Cause, cause) || !strings.Contains(textOf(run, "rescan"), cause) {
		w.Errorf("the run is %s (%s), events %v", d.Mode, d.Cause, run.Events)
	}
}

// TestNextRunGoesOn: after a run that was cancelled, and another one on top of it that lost its target, the guest has its old content back,
// so that all that these runs wrote is wrong, and the cached manifest right where they did not write.
func TestNextRunGoesOn(t *testing.T) {
	w := betweenWorld(t)
	w.endBadly(16, 10, func(cancel func()) { cancel() })
	w.engine.ResumeWindow = -1
	w.endBadly(16, 11, func(func()) { w.killDelegates(w.b) })
	w.fill(w.vm.VDIs[0], betweenSize, 9)
	// As the last run left it, but for what somebody else wrote there since.
	w.fill(w.vm.VDIs[0], 8*mib, 11)
	w.write(w.replicaPath(0), 5*mib, []byte("by somebody else"))
	w.goesOn()
	w.tidy(3)
}

// TestNextRunAfterKill: of a run whose orchestrator was killed nobody knows how far it wrote: from its watermark on all is read, and
// before it what it wrote, since that is where somebody else's writes do not show.
func TestNextRunAfterKill(t *testing.T) {
	w := betweenWorld(t)
	w.fill(w.vm.VDIs[0], betweenSize, 10)
	w.killWhen("16 extents are journalled", func() bool { return w.journalled(16) })
	w.engine.ResumeWindow = time.Nanosecond
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 8*mib, []byte("written since"))
	w.write(w.replicaPath(0), 16*mib, []byte("by somebody else, where the run had written"))
	w.scans("it left nothing untouched") // it had changed whatever it came to
}

// TestNextRunBeforeFirstWrite: a run that ended before its first write takes nothing from what was known.
func TestNextRunBeforeFirstWrite(t *testing.T) {
	w := newWorld(t, layout{})
	w.request.Trust = true
	w.replicate()
	w.fails(fault{w.simB, "VM.set_blocked_operations", 0, "INTERNAL_ERROR"}, 1)
	w.write(w.simA.VDIPath(w.vm.VDIs[0]), 5*mib, []byte("written since"))
	if d := w.goesOn().Disks[0]; d.Sent > mib {
		t.Errorf("%d bytes were sent", d.Sent)
	}
}

// TestNextRunScans: where something speaks against the journal, or is not known, the replica is scanned.
func TestNextRunScans(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(w *world)
		cause string
	}{
		"rebooted": {func(w *world) {
			hosts, err := xapi.AllRecords[xapi.Host](w.Context(), w.b.API, "host")
			w.must(err)
			for ref := range hosts {
				w.must(w.b.API.Call(w.Context(), "host.set_other_config", nil, ref, map[string]string{"boot_time": fmt.Sprint(4e9)}))
			}
			w.write(w.replicaPath(0), 8*mib, make([]byte, 4*mib)) // what the host had in its memory is lost
		}, "was rebooted"},
		"marker of another run": {func(w *world) {
			ref, vm := w.replicaVM()
			marker, _, err := replica.Read(w.store.Installation().UUID, vm.UUID, vm.OtherConfig)
			w.must(err)
			marker.State.Generation = manifest.NewGeneration()
			w.must(replica.Apply(w.Context(), w.b.API, "VM", ref, marker))
		}, "the marker of the replica VM says dirty"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, layout{})
			w.request.Trust = true
			w.replicate()
			w.write(w.simA.VDIPath(w.vm.VDIs[0]), 5*mib, []byte("first"))
			w.fails(fault{w.simB, "host.get_servertime", 1, "INTERNAL_ERROR"}, 1) // at its commit
			w.write(w.simA.VDIPath(w.vm.VDIs[0]), 5*mib, []byte("again"))
			c.spoil(w)
			w.scans(c.cause)
		})
	}
}
