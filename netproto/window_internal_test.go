package netproto

import (
	"testing"
	"testing/synctest"
	"time"
)

// consume has a receiver take frames of 64 KiB at a rate, in bytes a second, and returns the window it comes to.
func consume(r *receipts, rate int, duration time.Duration) int {
	const cost = 64 << 10
	pause := time.Duration(float64(cost) / float64(rate) * float64(time.Second))
	for end := time.Now().Add(duration); time.Now().Before(end); {
		if r.charge(cost) != nil { // the sender waits for a grant
			panic("the test overruns the window")
		}
		time.Sleep(pause)
		r.release(cost)
	}
	return r.window
}

func TestWindowGrowsWithTheLine(t *testing.T) {
	const window = 8 << 20
	for name, c := range map[string]struct {
		rtt  time.Duration
		rate int
		want int
	}{
		"short":                   {time.Millisecond, 1 << 30, window},
		"unknown":                 {0, 1 << 30, window},
		"long and thin":           {100 * time.Millisecond, 30 << 20, window},
		"long, application slow":  {100 * time.Millisecond, 1 << 20, window},
		"long":                    {100 * time.Millisecond, 60 << 20, 2 * window},
		"longer than it can hold": {time.Second, 100 << 20, 2 * window},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newReceipts(window, c.rtt)
				if got := consume(&r, c.rate, 5*time.Second); got != c.want {
					t.Errorf("the window is %d, want %d", got, c.want)
				}
			})
		})
	}
	if got := widened(MaxWindow); got != MaxWindow {
		t.Errorf("the largest window grows to %d", got)
	}
}

// TestGrantsNeverExceedWhatIsAllowed: the two sides count alike, whatever grows.
func TestGrantsNeverExceedWhatIsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newReceipts(MinWindow, time.Second), newCredit(MinWindow)
		for range 1000 {
			for c.tryTake(64 << 10) {
				if err := r.charge(64 << 10); err != nil {
					t.Fatal(err)
				}
			}
			for r.held > r.released {
				if grant := r.release(64 << 10); grant > 0 {
					if err := c.give(grant); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(300 * time.Millisecond)
		}
		if r.window != 2*MinWindow || c.available+r.released != r.window {
			t.Errorf("a window of %d, of which %d are available and %d not granted yet", r.window, c.available, r.released)
		}
	})
}
