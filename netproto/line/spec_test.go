package line_test

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/netproto/line"
)

func TestParseSpec(t *testing.T) {
	for text, want := range map[string]line.Spec{
		"100mbit,100ms":   {Rate: 12_500_000, RTT: 100 * time.Millisecond},
		"1gbit,50ms":      {Rate: 125_000_000, RTT: 50 * time.Millisecond},
		"512kbit,1.2s":    {Rate: 64_000, RTT: 1200 * time.Millisecond},
		" 2.5Mbit , 0s ":  {Rate: 312_500},
		"0,30ms":          {RTT: 30 * time.Millisecond},
		"0,0":             {},
		"100 mbit, 100ms": {Rate: 12_500_000, RTT: 100 * time.Millisecond},
	} {
		got, err := line.ParseSpec(text)
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", text, got, err, want)
			continue
		}
		if again, err := line.ParseSpec(got.String()); err != nil || again != got {
			t.Errorf("%q is written %q, which is %+v, %v", text, got, again, err)
		}
	}
	if got := (line.Spec{Rate: 12_500_000, RTT: 100 * time.Millisecond}).String(); got != "100mbit,100ms" {
		t.Errorf("written %q", got)
	}
}

func TestParseSpecRefuses(t *testing.T) {
	for _, text := range []string{
		"", "100mbit", "100mbit,", ",100ms", "100,100ms", "100MB,1ms", "-1mbit,1ms", "nanmbit,1ms", "infgbit,1ms", "1e30gbit,1ms", "0.001kbit,1ms",
		"1mbit,-1ms", "1mbit,11s", "1mbit,100", "1mbit,1ms,1", strings.Repeat("9", 400) + "mbit,1ms",
	} {
		if s, err := line.ParseSpec(text); err == nil || !strings.Contains(err.Error(), "100mbit,100ms") {
			t.Errorf("%q is taken as %+v, error %v; want one that shows how it is written", text, s, err)
		}
	}
}
