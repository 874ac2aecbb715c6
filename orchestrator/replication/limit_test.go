package replication_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/ratelimit"
	"github.com/understudy-dr/understudy/orchestrator/report"
)

// TestLimitSlowsARun: both disks together keep to the limit that holds now, whatever hours the schedule has.
func TestLimitSlowsARun(t *testing.T) {
	w := newWorld(t, layout{sizes: []int64{8 * mib, 8 * mib}})
	var err error
	if w.request.Limit, err = ratelimit.Parse("4MB/s 00:00-12:00,4MB/s"); err != nil {
		t.Fatal(err)
	}
	run := w.replicate()
	w.equal()
	i := slices.IndexFunc(run.Phases, func(p report.PhaseTime) bool { return p.Phase == report.PhaseTransfer })
	// 8 MiB of noise; nobody waits for the last frames to be paid for.
	if took := run.Phases[i].Finished.Sub(run.Phases[i].Started); took < 1300*time.Millisecond {
		t.Errorf("8 MiB took %v at 4 MB/s", took)
	}
	if !slices.ContainsFunc(run.Events, func(e report.Event) bool { return e.Cause == "limit" && strings.Contains(e.Text, "4MB/s") }) {
		t.Errorf("no event names the limit: %v", run.Events)
	}
}
