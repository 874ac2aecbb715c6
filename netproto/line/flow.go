package line

import (
	"sort"
	"time"
)

// flow notes how many bytes had passed by when. Notes get sparser as more bytes pass, so that there are enough of them and never too many.
type flow struct {
	step  int64 // bytes between two notes
	notes []note
}

type note struct {
	at     time.Time
	passed int64
}

const (
	firstStep = maxChunk
	maxNotes  = 4096
	// leastNotes is what a rate is taken from, so that a chunk more or less is no matter.
	leastNotes = 256
)

// add takes note of what has passed by now.
func (f *flow) add(now time.Time, passed int64) {
	if f.step == 0 {
		f.step = firstStep
	}
	if len(f.notes) > 0 && passed < f.notes[len(f.notes)-1].passed+f.step {
		return
	}
	if len(f.notes) == maxNotes {
		for i := range maxNotes / 2 {
			f.notes[i] = f.notes[2*i]
		}
		f.notes = f.notes[:maxNotes/2]
		f.step *= 2
	}
	f.notes = append(f.notes, note{now, passed})
}

// rate is bytes a second from the time when a tenth of all had passed until nine tenths had; 0 when they were too few.
func (f *flow) rate(all int64) float64 {
	if len(f.notes) < leastNotes {
		return 0
	}
	reached := func(passed int64) note {
		return f.notes[sort.Search(len(f.notes)-1, func(i int) bool { return f.notes[i].passed >= passed })]
	}
	from, to := reached(all/10), reached(all-all/10)
	return float64(to.passed-from.passed) / max(to.at.Sub(from.at), 1).Seconds()
}
