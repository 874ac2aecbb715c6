package state

import (
	"context"
	"time"
)

// SetPace changes how often Keep gives a sign of life, and looks.
func (s *Store) SetPace(beat, look time.Duration) { s.beatEvery, s.lookEvery = beat, look }

// SetGiveUp changes how long Keep goes on without a sign of life.
func (s *Store) SetGiveUp(after time.Duration) { s.giveUp = after }

// Synchronous is SQLite's setting of a connection: 2 is FULL, every commit synced.
func (s *Store) Synchronous(ctx context.Context) (level int, err error) {
	return level, s.db.QueryRowContext(ctx, `PRAGMA synchronous`).Scan(&level)
}

// OwnerOf names another process of this host.
func OwnerOf(host string, pid int) (Owner, error) {
	start, _, err := processStart(pid)
	return Owner{Host: host, PID: pid, Start: start}, err
}
