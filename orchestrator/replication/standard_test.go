package replication_test

import (
	"testing"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

// newBareWorld has pools without a delegate's image.
func newBareWorld(t *testing.T, l layout) *world {
	l.bare = true
	w := newWorld(t, l)
	w.request.Method = report.Standard
	return w
}

// TestStandard copies several disks, one of an odd size.
func TestStandard(t *testing.T) {
	w := newBareWorld(t, layout{sizes: []int64{16 * mib, 6*mib + 4096, 5 * mib}})
	w.request.Trust = true
	run := w.replicate()
	w.equal()
	w.tidy(1)
	if run.Method != report.Standard {
		t.Errorf("the report says %q", run.Method)
	}
	t.Logf("%+v", run)
}
