package report

import (
	"fmt"
	"strings"
	"time"
)

// Consistency is the administrator's choice about the disks of a source that runs while it is snapshotted.
type Consistency string

// The two choices.
const (
	ConsistencyDisk   Consistency = "disk"   // the pool takes one disk after the other, and the VM goes on: each is crash-consistent by itself
	ConsistencyPaused Consistency = "paused" // the VM stands still meanwhile: its disks are crash-consistent with one another
)

// Valid reports whether c is disk or paused.
func (c Consistency) Valid() bool { return c == ConsistencyDisk || c == ConsistencyPaused }

// Snapshot says how the snapshot of the source came about.
type Snapshot struct {
	// PowerState is what the VM was while its disks were snapshotted, as the XenAPI writes it; empty when its pool does not tell.
	PowerState string `json:"power_state,omitempty"`
	// Spread is the time from the first disk's snapshot to the last one's, in seconds. Pools note whole seconds, by the clocks of
	// the hosts that take the snapshots, so that up to a second more may have passed. Nil when the pool does not tell.
	Spread *float64 `json:"spread,omitempty"`
	// Paused is how long the run had the VM paused, in seconds by the orchestrator's clock, with the answers of both calls; 0: not at
	// all.
	Paused float64 `json:"paused,omitempty"`
}

// NewSpread is the Spread of disks that were snapshotted at these times; nil when one of them is not told.
func NewSpread(times []time.Time) *float64 {
	if len(times) == 0 {
		return nil
	}
	first, last := times[0], times[0]
	for _, t := range times {
		if t.Unix() <= 0 { // of a disk that is no snapshot, and of one whose pool does not tell
			return nil
		}
		if t.Before(first) {
			first = t
		}
		if t.After(last) {
			last = t
		}
	}
	spread := last.Sub(first).Seconds()
	return &spread
}

// clone returns a copy that shares nothing with s.
func (s Snapshot) clone() Snapshot {
	if s.Spread != nil {
		spread := *s.Spread
		s.Spread = &spread
	}
	return s
}

// Sentence tells people how far the disks are consistent with one another; empty before the snapshot was taken.
func (s Snapshot) Sentence() string {
	var parts []string
	switch {
	case s.PowerState == "" && s.Spread == nil && s.Paused == 0:
		return ""
	case s.Paused > 0:
		parts = append(parts, fmt.Sprintf("of the VM paused for %.2f s", s.Paused))
	case s.PowerState != "":
		parts = append(parts, "of the VM "+strings.ToLower(s.PowerState))
	}
	if s.Spread == nil {
		parts = append(parts, "how far its disks are apart is not told")
	} else {
		parts = append(parts, fmt.Sprintf("spread over its disks %.0f s", *s.Spread))
	}
	if s.PowerState == "Running" {
		parts = append(parts, "crash-consistent per disk")
	}
	return strings.Join(parts, ", ")
}
