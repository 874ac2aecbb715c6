package replication_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/replication"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

// TestReadBack: each run reads another sample back. A target that does not return what was written fails the run, which names the
// place, makes no restore point and leaves the replica dirty, so that the next run mends it.
func TestReadBack(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{24 * mib, 2 * mib}})
	w.request.Trust = true
	for i := range 2 {
		run := w.replicate()
		if small := run.Disks[1].Verified; run.Disks[0].Verified != 4*mib || small != []int64{2 * mib, 0}[i] {
			t.Errorf("run %d read back %d and %d bytes", i, run.Disks[0].Verified, small)
		}
	}
	if n := w.record().Samples; n != 2 {
		t.Errorf("%d samples are recorded, want 2", n)
	}
	w.decayBefore("read back", 9*mib) // extent 2, the next sample
	_, err := w.engine.Replicate(t.Context(), w.request)
	w.damaged(err, 1)
	w.tidy(2)

	w.request.ReadBack = replication.ReadBackFull
	run := w.replicate()
	w.equal()
	if d := run.Disks[0]; d.Mode != report.Untrusted || d.Verified != d.LogicalSize {
		t.Errorf("the next run compared %s (%s) and read back %d bytes", d.Mode, d.Cause, d.Verified)
	}
	if n := w.record().Samples; n != 2 {
		t.Errorf("%d samples are recorded: neither a failed one counts, nor a whole disk", n)
	}

	w.request.ReadBack = replication.ReadBackNone
	w.decayBefore("commit", 9*mib)
	if run := w.replicate(); run.Disks[0].Verified != 0 {
		t.Errorf("%d bytes were read back, none were wanted", run.Disks[0].Verified)
	}
	w.request.ReadBack = replication.ReadBackFull
	_, err = w.engine.Replicate(t.Context(), w.request)
	w.damaged(err, 1)
	w.request.ReadBack = "twice"
	if _, err := w.engine.Replicate(t.Context(), w.request); err == nil || !strings.Contains(err.Error(), "none, sample or full") {
		t.Errorf("an unknown choice: %v", err)
	}
}

// decayBefore damages the storage under the first disk of the replica, once, before a step of the next run: while a delegate holds the disk, so
// that the pool does not notice that anything was written.
func (w *world) decayBefore(step string, offset int64) {
	w.Helper()
	path := w.simB.VDIPath(w.record().Disks[0].TargetVDI)
	done := false
	w.engine.SetReach(func(border string) {
		if border == "before "+step && !done {
			done = true
			w.write(path, offset, []byte("rot"))
		}
	})
}

// damaged expects a run that found extent 2 of the first disk damaged.
func (w *world) damaged(err error, count int) {
	w.Helper()
	var damage *replication.DamagedError
	if !errors.As(err, &damage) || damage.Disk != "0" || damage.Count != count ||
		!slices.Equal(damage.First, []replication.Range{{Offset: 8 * mib, Length: 4 * mib}}) {
		w.Fatalf("the run ended with %v", err)
	}
	if d := w.record().Disks[0]; !d.State.Dirty {
		w.Errorf("the replica is recorded as %s", d.State)
	}
}
