package replica_test

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/orchestrator/replica"
)

func TestVerdictIsReadAsItWasWritten(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for cause, want := range map[string]string{
		"its agent reported":             "its agent reported",
		"two\nlines and a \x00 zero":     "two lines and a  zero",
		"":                               "",
		strings.Repeat("ä", 300) + "end": strings.Repeat("ä", 239) + "…",
	} {
		v := replica.Verdict{Outcome: replica.Failed, Time: at, Cause: cause}
		got := replica.ReadVerdict(map[string]string{replica.KeyVerdict: v.String()})
		if got == nil || got.Outcome != replica.Failed || !got.Time.Equal(at) || got.Cause != want {
			t.Errorf("%q is read as %+v", v.String(), got)
		}
	}
	for _, text := range []string{"", "booted", "booted today", "maybe 2026-03-01T12:00:00Z x", "\x00"} {
		if got := replica.ReadVerdict(map[string]string{replica.KeyVerdict: text}); got != nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}
