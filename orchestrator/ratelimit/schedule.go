package ratelimit

import (
	"context"
	"time"
)

// Schedule says how fast a job may send. Of the rules that match an hour the first counts; where none does there is no limit. The
// zero value never limits.
type Schedule []Rule

// Rule is one limit and its hours.
type Rule struct {
	// BytesPerSecond is the limit; 0 is none.
	BytesPerSecond int64
	// From and To are the hours, in minutes since midnight of the orchestrator's time zone: From included, To not, 0 to 1440. With
	// To before From they pass midnight; both 0 is the whole day.
	From, To int
}

func (r Rule) always() bool { return r.From == 0 && r.To == 0 }

func (r Rule) holds(minute int) bool {
	if r.From <= r.To {
		return r.always() || r.From <= minute && minute < r.To
	}
	return minute >= r.From || minute < r.To
}

// At returns the limit at a moment, in bytes a second; 0 is none. The hours are those of t's time zone.
func (s Schedule) At(t time.Time) int64 {
	minute := t.Hour()*60 + t.Minute()
	for _, r := range s {
		if r.holds(minute) {
			return r.BytesPerSecond
		}
	}
	return 0
}

// look is how often the clock is looked at, which may have been set, or have passed an hour that a summer's time leaves out; and how
// soon a limit that could not be set is tried again.
const look = 10 * time.Second

// Follow calls set with the limit of now, and again whenever another one holds, until ctx ends. After an error, which set reports as
// it sees fit, it is tried again.
func (s Schedule) Follow(ctx context.Context, set func(ctx context.Context, bytesPerSecond int64) error) {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	current := int64(-1)
	for ctx.Err() == nil {
		if limit := s.At(time.Now()); limit != current && set(ctx, limit) == nil {
			current = limit
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}
