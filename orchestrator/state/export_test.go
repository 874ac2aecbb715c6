package state

import "context"

// Synchronous is SQLite's setting of a connection: 2 is FULL, every commit synced.
func (s *Store) Synchronous(ctx context.Context) (level int, err error) {
	return level, s.db.QueryRowContext(ctx, `PRAGMA synchronous`).Scan(&level)
}
