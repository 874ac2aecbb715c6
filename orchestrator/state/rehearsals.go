package state

import (
	"context"
	"fmt"
)

// Rehearsals lists the tests of a replica's restore points that are in use, the oldest first: those that have not ended, and those
// whose clone stands, be it left to an administrator or left behind.
func (s *Store) Rehearsals(ctx context.Context, replica string) ([]Run, error) {
	runs, err := queryAll(ctx, s.db, scanRun, selectRuns+`WHERE replica = ? AND kind = ?
		AND (finished = '' OR EXISTS (SELECT 1 FROM objects WHERE objects.run = runs.id AND status <> ?)) ORDER BY started, id`,
		replica, RunRehearse, ObjectUndone)
	if err != nil {
		return nil, fmt.Errorf("listing the tests of replica %s: %w", replica, err)
	}
	return runs, nil
}
