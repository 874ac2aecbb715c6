package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// SetDirty records, durably and for all disks of a replica at once, that a run with this generation is about to write to
// them, and opens a journal segment for each. Nothing may be written to a target before SetDirty has returned. Repeating
// it for the same generation, after a restart, changes nothing. kept names the disks whose content is known and relied upon; see
// Segment.Kept. Only the owner of the replica's unfinished run may.
func (s *Store) SetDirty(ctx context.Context, replica string, generation manifest.Generation, kept ...string) error {
	what := fmt.Sprintf("marking replica %s dirty", replica)
	state := manifest.State{Dirty: true, Generation: generation}
	if !state.Valid() {
		return fmt.Errorf("%s: it needs a generation", what)
	}
	return s.writeReplica(ctx, what, replica, func(tx *sql.Tx) error {
		disks, err := disksOf(ctx, tx, replica)
		if err != nil {
			return err
		}
		if len(disks) == 0 {
			return errors.New("it has no disks")
		}
		for _, d := range disks {
			if err := beginSegment(ctx, tx, replica, d.Disk, generation, slices.Contains(kept, d.Disk)); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `UPDATE replica_disks SET state = ? WHERE replica = ?`, state.String(), replica)
		return err
	})
}

// Commit is the end of a VM run: one generation, and one manifest for each disk.
type Commit struct {
	Generation manifest.Generation
	PoolTime   time.Time // by the target pool's clock, against which the times of VM starts are held
	Manifests  []Manifest
	Samples    int64 // how many samples were read back in this run
	// Bases are what the changes of the source's disks are tracked since from now on, and Objects what they were recorded as by the run,
	// which keeps these. The bases before them become objects of the run, which it removes.
	Bases   []CBTBase
	Objects []Object
}

// SetClean commits a run in one transaction: every disk of the replica turns clean with the generation and gets its new
// manifest, or none does. Every disk must be dirty with that generation and have exactly one manifest of it. The disks'
// journals end here. Only the owner of the replica's unfinished run may.
func (s *Store) SetClean(ctx context.Context, replica string, c Commit) error {
	var disks []Disk
	err := s.writeReplica(ctx, "committing replica "+replica, replica, func(tx *sql.Tx) (err error) {
		if disks, err = disksOf(ctx, tx, replica); err != nil {
			return err
		}
		if err := c.check(disks); err != nil {
			return err
		}
		for _, m := range c.Manifests {
			if err := insertManifest(ctx, tx, replica, m); err != nil {
				return err
			}
		}
		clean := manifest.State{Generation: c.Generation}
		_, err = tx.ExecContext(ctx, `UPDATE replica_disks SET state = ?, utilisation = 0 WHERE replica = ?`, clean.String(), replica)
		if err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, `DELETE FROM journal_segments WHERE replica = ?`, replica); err != nil {
			return err
		}
		if err := replaceBases(ctx, tx, replica, c.Bases); err != nil {
			return err
		}
		for _, o := range c.Objects {
			if _, err := tx.ExecContext(ctx, `UPDATE objects SET status = ? WHERE run = ? AND sequence = ?`, ObjectKept, o.Run, o.Sequence); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `UPDATE replicas SET last_commit = ?, samples = samples + ? WHERE id = ?`,
			timeText(c.PoolTime), c.Samples, replica)
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range disks {
		// Only to free the space: without segments the file counts for nothing, and the next journal truncates it.
		_ = os.Remove(s.journalPath(replica, d.Disk))
	}
	return nil
}

func (c Commit) check(disks []Disk) error {
	if c.Generation.IsZero() || c.PoolTime.IsZero() {
		return errors.New("a commit needs a generation and the pool's time")
	}
	manifests := make(map[string]Manifest)
	for _, m := range c.Manifests {
		if _, twice := manifests[m.Disk]; twice {
			return fmt.Errorf("disk %s has two manifests", m.Disk)
		}
		if m.Generation != c.Generation {
			return fmt.Errorf("the manifest of disk %s is of generation %s, not %s", m.Disk, m.Generation, c.Generation)
		}
		manifests[m.Disk] = m
	}
	for _, d := range disks {
		if want := (manifest.State{Dirty: true, Generation: c.Generation}); d.State != want {
			return fmt.Errorf("disk %s is %s, not %s: it is no part of this run", d.Disk, d.State, want)
		}
		if _, ok := manifests[d.Disk]; !ok {
			return fmt.Errorf("disk %s has no manifest", d.Disk)
		}
		delete(manifests, d.Disk)
	}
	for disk := range manifests {
		return fmt.Errorf("disk %s is no disk of this replica", disk)
	}
	return nil
}
