package tasks

import "github.com/understudy-dr/understudy/transfer"

// meter adds up the counters of a task's attempts. The zero value is ready.
type meter struct {
	past transfer.Counters
	now  *transfer.Progress // of the attempt under way; nil: none
}

// next returns the counters of the next attempt.
func (m *meter) next() *transfer.Progress {
	m.freeze()
	m.now = new(transfer.Progress)
	return m.now
}

// freeze ends the attempt under way.
func (m *meter) freeze() { m.past, m.now = m.counters(), nil }

func (m *meter) counters() transfer.Counters {
	if m.now == nil {
		return m.past
	}
	now := m.now.Snapshot()
	sum := m.past.Add(now)
	sum.Size, sum.Processed = now.Size, now.Processed
	if now.Size == 0 { // it has not begun
		sum.Size, sum.Processed = m.past.Size, m.past.Processed
	}
	return sum
}
