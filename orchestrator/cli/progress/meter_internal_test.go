package progress

import (
	"math"
	"testing"
	"time"
)

func TestMeterSettlesOnASteadyRate(t *testing.T) {
	var m meter
	start := time.Unix(1000, 0)
	for i := range 40 {
		m.add(start.Add(time.Duration(i)*500*time.Millisecond), int64(i)*50)
	}
	if r := m.rate(); math.Abs(r-100) > 1 {
		t.Errorf("50 each half second are %v a second, want 100", r)
	}
	// A stall wears off old speed, and neither time nor counts that go back do harm.
	m.add(start.Add(40*time.Second), 39*50)
	m.add(start.Add(39*time.Second), 40*50)
	m.add(start.Add(41*time.Second), 0)
	if r := m.rate(); r < 0 || r > 1 {
		t.Errorf("after a stall of 20 s the rate is %v, want nearly none", r)
	}
}
