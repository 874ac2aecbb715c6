package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// Reverted is the end of a revert: a replica holds again what it held at a generation, on other VDIs.
type Reverted struct {
	Generation manifest.Generation // of the restore point
	PoolTime   time.Time           // as in Commit
	Disks      []Disk              // all that the replica has now; State is ignored
	Manifests  []Manifest          // what RepeatManifest gave
}

// RepeatManifest writes the manifest of an older generation again, so that it can become the newest. It counts only once SetReverted
// names it. Of the newest generation nothing needs to be repeated: then, and when nothing is known of the generation, ok is false.
// Only the owner of the replica's unfinished run may.
func (s *Store) RepeatManifest(ctx context.Context, replica, disk string, generation manifest.Generation) (m Manifest, ok bool, err error) {
	what := fmt.Sprintf("repeating the manifest of generation %s of disk %s of replica %s", generation, disk, replica)
	manifests, err := s.Manifests(ctx, replica, disk)
	if err != nil || len(manifests) == 0 || manifests[len(manifests)-1].Generation == generation {
		return Manifest{}, false, err
	}
	i := slices.IndexFunc(manifests, func(m Manifest) bool { return m.Generation == generation })
	if i < 0 {
		return Manifest{}, false, nil
	}
	if err := s.sweep(ctx, what, replica, disk); err != nil {
		return Manifest{}, false, err
	}
	view, err := s.openChain(replica, manifests[:i+1])
	if errors.Is(err, manifest.ErrCorrupt) || errors.Is(err, manifest.ErrKey) {
		return Manifest{}, false, nil // it counts as absent
	} else if err != nil {
		return Manifest{}, false, fmt.Errorf("%s: %w", what, err)
	}
	defer view.Close()
	m = Manifest{Disk: disk, Generation: generation, KeyID: s.installation.DigestKey.ID()}
	// The sequence tells it from the first, whose file may bear the plain name.
	m.File = fmt.Sprintf("%s.%s.%d.manifest", disk, generation, manifests[len(manifests)-1].sequence+1)
	m.Root, err = s.writeManifest(ctx, replica, m.File, func(w io.Writer) (manifest.Digest, error) {
		return manifest.Flatten(w, s.installation.DigestKey, view)
	})
	if err == nil && m.Root != view.Root() {
		err = fmt.Errorf("its root became %s, was %s: %w", m.Root, view.Root(), manifest.ErrCorrupt)
	}
	if err != nil {
		return Manifest{}, false, fmt.Errorf("%s: %w", what, err)
	}
	return m, true, nil
}

// SetReverted commits a revert in one transaction: the replica has these disks and no others, each clean with the restore point's
// generation. Of a disk whose newest manifest is not of that generation then, nothing is known, and all its manifests are forgotten.
// Only the owner of the replica's unfinished run may.
func (s *Store) SetReverted(ctx context.Context, replica string, r Reverted) error {
	what := "reverting replica " + replica
	if r.Generation.IsZero() || r.PoolTime.IsZero() || len(r.Disks) == 0 {
		return fmt.Errorf("%s: it needs a generation, the pool's time and disks", what)
	}
	for _, d := range r.Disks {
		if err := d.validate(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	var before []Disk
	err := s.writeReplica(ctx, what, replica, func(tx *sql.Tx) (err error) {
		if before, err = disksOf(ctx, tx, replica); err != nil {
			return err
		}
		for _, d := range before {
			if !r.has(d.Disk) {
				if err := deleteDisk(ctx, tx, replica, d.Disk); err != nil {
					return err
				}
			}
		}
		for _, d := range r.Disks {
			if err := r.put(ctx, tx, replica, d); err != nil {
				return err
			}
		}
		if _, err = tx.ExecContext(ctx, `DELETE FROM journal_segments WHERE replica = ?`, replica); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE replicas SET last_commit = ? WHERE id = ?`, timeText(r.PoolTime), replica)
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range before {
		// Only to free the space, as in SetClean; manifests that no row names any more go with the next that is composed.
		_ = os.Remove(s.journalPath(replica, d.Disk))
		if !r.has(d.Disk) {
			_ = s.removeFiles(replica, d.Disk, nil)
		}
	}
	return nil
}

func (r Reverted) has(disk string) bool {
	return slices.ContainsFunc(r.Disks, func(d Disk) bool { return d.Disk == disk })
}

func (r Reverted) put(ctx context.Context, tx *sql.Tx, replica string, d Disk) error {
	_, err := tx.ExecContext(ctx,
		`INSERT INTO replica_disks (replica, disk, source_vdi, target_vdi, logical_size, state) VALUES (?, ?, ?, ?, ?, ?)
		 ON CONFLICT (replica, disk) DO UPDATE SET target_vdi = excluded.target_vdi, logical_size = excluded.logical_size, state = excluded.state`,
		replica, d.Disk, d.SourceVDI, d.TargetVDI, d.LogicalSize, manifest.State{Generation: r.Generation}.String())
	if err != nil {
		return err
	}
	for _, m := range r.Manifests {
		if m.Disk == d.Disk && m.Generation == r.Generation {
			if err := insertManifest(ctx, tx, replica, m); err != nil {
				return err
			}
		}
	}
	manifests, err := manifestsOf(ctx, tx, replica, d.Disk)
	if err != nil || len(manifests) > 0 && manifests[len(manifests)-1].Generation == r.Generation {
		return err
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM manifests WHERE replica = ? AND disk = ?`, replica, d.Disk)
	return err
}
