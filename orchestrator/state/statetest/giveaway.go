package statetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/understudy-dr/understudy/orchestrator/state"
)

// Elsewhere is a process on another host.
var Elsewhere = state.Owner{Host: "elsewhere.test", PID: 7, Start: "boot/1"}

// GiveAway makes another process the owner of every unfinished run in the directory that Open was given, as if that had begun
// them: Elsewhere, or whichever is given.
func GiveAway(ctx context.Context, dir string, owner state.Owner) (err error) {
	db, err := sql.Open("sqlite", filepath.Join(dir, "state", "understudy.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for _, table := range []string{"runs", "job_runs"} {
		if _, err := db.ExecContext(ctx, `UPDATE `+table+` SET owner = ? WHERE finished = ''`, owner.String()); err != nil {
			return fmt.Errorf("giving the runs away: %w", err)
		}
	}
	return nil
}
