package progress

import (
	"math"
	"time"
)

// memoryOfRate is the time in which an old rate loses two thirds of its weight.
const memoryOfRate = 3 * time.Second

// meter turns counts into a rate that does not jump.
type meter struct {
	at      time.Time
	count   int64
	average float64 // bytes a second
	warm    bool    // average counts
}

// add takes the count at a moment.
func (m *meter) add(at time.Time, count int64) {
	elapsed := at.Sub(m.at)
	switch {
	case m.at.IsZero():
		m.at, m.count = at, count
		return
	case elapsed <= 0 || count < m.count:
		return
	}
	rate := float64(count-m.count) / elapsed.Seconds()
	weight := 1 - math.Exp(-elapsed.Seconds()/memoryOfRate.Seconds())
	if !m.warm {
		weight, m.warm = 1, count > m.count
	}
	m.average += weight * (rate - m.average)
	m.at, m.count = at, count
}

// rate is in bytes a second.
func (m *meter) rate() float64 { return m.average }
