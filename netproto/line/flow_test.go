package line

import (
	"math"
	"testing"
	"time"
)

// TestRateWhileDataFlows: what comes before the first tenth and after the ninth is not in the rate, and neither are small amounts.
func TestRateWhileDataFlows(t *testing.T) {
	const perSecond = 1 << 20
	start := time.Unix(0, 0)
	for name, c := range map[string]struct {
		chunks int
		chunk  int64
		pause  int // chunk before which the line stands still for a second
		want   float64
	}{
		"steady":                    {1000, 16 << 10, 0, perSecond},
		"small chunks":              {100_000, 300, 0, perSecond},
		"many":                      {200_000, 16 << 10, 0, perSecond},
		"a pause at the beginning":  {1000, 16 << 10, 50, perSecond},
		"a pause at the end":        {1000, 16 << 10, 950, perSecond},
		"a pause in the middle":     {1000, 16 << 10, 500, perSecond * 12.5 / 13.5},
		"too little to tell a rate": {20, 16 << 10, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var f flow
			now, passed := start, int64(0)
			for i := range c.chunks {
				if c.pause > 0 && i == c.pause {
					now = now.Add(time.Second)
				}
				passed += c.chunk
				now = now.Add(time.Duration(float64(c.chunk) / perSecond * float64(time.Second)))
				f.add(now, passed)
			}
			if got := f.rate(passed); math.Abs(got-c.want) > c.want/200 {
				t.Errorf("%.0f bytes a second, not %.0f", got, c.want)
			}
			if len(f.notes) > maxNotes {
				t.Errorf("%d notes", len(f.notes))
			}
		})
	}
}
