package report_test

import (
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/report"
)

func TestSpread(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(1e9+seconds, 0) }
	for name, c := range map[string]struct {
		times []time.Time
		want  float64 // negative: not told
	}{
		"one disk":         {[]time.Time{at(0)}, 0},
		"in any order":     {[]time.Time{at(7), at(2), at(4)}, 5},
		"one is not told":  {[]time.Time{at(7), time.Unix(0, 0)}, -1},
		"one has no time":  {[]time.Time{{}, at(7)}, -1},
		"there is no disk": {nil, -1},
	} {
		spread := report.NewSpread(c.times)
		if (spread == nil) != (c.want < 0) || spread != nil && *spread != c.want {
			t.Errorf("%s: %v, want %v", name, spread, c.want)
		}
	}
}

func TestSnapshotSentence(t *testing.T) {
	three := 3.0
	for _, c := range []struct {
		snapshot report.Snapshot
		want     string
	}{
		{report.Snapshot{}, ""},
		{report.Snapshot{PowerState: "Running", Spread: &three}, "of the VM running, spread over its disks 3 s, crash-consistent per disk"},
		{report.Snapshot{PowerState: "Paused", Spread: &three, Paused: 4.125}, "of the VM paused for 4.12 s, spread over its disks 3 s"},
		{report.Snapshot{PowerState: "Halted"}, "of the VM halted, how far its disks are apart is not told"},
	} {
		if got := c.snapshot.Sentence(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.snapshot, got, c.want)
		}
	}
}
