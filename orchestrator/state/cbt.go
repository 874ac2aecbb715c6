package state

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// CBTBase is what the changes of a source disk are tracked since: a snapshot of it, stripped of its data (xapi-facts §11).
type CBTBase struct {
	Disk       string              // userdevice
	SourceVDI  string              // uuid of the disk that is tracked
	VDI        string              // uuid of the snapshot; empty while the disk is Distrusted
	Generation manifest.Generation // that the replica was committed with from the snapshot
	Slice      uint32              // extent at which the next rolling slice begins
	// Distrusted is why the disk's bitmaps are not used any more: one was found wrong. Empty: they are used.
	Distrusted string
}

// kindCBTBase is the kind of the objects that bases are recorded as: that of replica.KindCBTBase.
const kindCBTBase = "cbt-base"

// CBTBases lists the bases of a replica's disks, by number.
func (s *Store) CBTBases(ctx context.Context, replica string) ([]CBTBase, error) {
	bases, err := basesOf(ctx, s.db, replica)
	if err != nil {
		return nil, fmt.Errorf("listing the bases of replica %s: %w", replica, err)
	}
	return bases, nil
}

func basesOf(ctx context.Context, q querier, replica string) ([]CBTBase, error) {
	return queryAll(ctx, q, scanBase,
		`SELECT disk, source_vdi, base, generation, slice, distrusted FROM cbt_bases WHERE replica = ? ORDER BY CAST(disk AS INTEGER)`, replica)
}

func scanBase(scan scanFunc) (b CBTBase, err error) {
	var generation string
	if err := scan(&b.Disk, &b.SourceVDI, &b.VDI, &generation, &b.Slice, &b.Distrusted); err != nil {
		return CBTBase{}, err
	}
	b.Generation, err = manifest.ParseGeneration(generation)
	return b, err
}

// BasesInUse gives the uuids of all snapshots that are the base of some replica's disk, and of those that runs have made, or are to
// remove.
func (s *Store) BasesInUse(ctx context.Context) (map[string]bool, error) {
	const query = `SELECT base FROM cbt_bases WHERE base <> '' UNION SELECT uuid FROM objects WHERE kind = ? AND status IN ('intended', 'created') AND uuid <> ''`
	all, err := queryAll(ctx, s.db, scanText, query, kindCBTBase)
	if err != nil {
		return nil, fmt.Errorf("listing the bases of all replicas: %w", err)
	}
	used := map[string]bool{}
	for _, uuid := range all {
		used[uuid] = true
	}
	return used, nil
}

// IsCBTBase reports whether a snapshot is the base of some replica's disk.
func (s *Store) IsCBTBase(ctx context.Context, uuid string) (bool, error) {
	found, err := queryAll(ctx, s.db, scanText, `SELECT base FROM cbt_bases WHERE base = ?`, uuid)
	if err != nil {
		return false, fmt.Errorf("looking for base %s: %w", uuid, err)
	}
	return len(found) > 0, nil
}

func scanText(scan scanFunc) (text string, err error) {
	err = scan(&text)
	return text, err
}

// replaceBases gives a replica other bases. Those that it had become objects of its unfinished run, which removes them as it does
// whatever it does not keep: so that wherever the process dies each of them is either named here or on its way out.
func replaceBases(ctx context.Context, tx *sql.Tx, replica string, bases []CBTBase) error {
	before, err := basesOf(ctx, tx, replica)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM cbt_bases WHERE replica = ?`, replica); err != nil {
		return err
	}
	for _, b := range before {
		if b.VDI == "" {
			continue
		}
		if err := giveUpBase(ctx, tx, replica, b); err != nil {
			return err
		}
	}
	for _, b := range bases {
		_, err := tx.ExecContext(ctx, `INSERT INTO cbt_bases (replica, disk, source_vdi, base, generation, slice, distrusted) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			replica, b.Disk, b.SourceVDI, b.VDI, b.Generation.String(), b.Slice, b.Distrusted)
		if err != nil {
			return err
		}
	}
	return nil
}

func giveUpBase(ctx context.Context, tx *sql.Tx, replica string, b CBTBase) error {
	o := Object{Class: "VDI", Kind: kindCBTBase}
	err := tx.QueryRowContext(ctx,
		`SELECT runs.id, replicas.source_pool, 1 + coalesce((SELECT max(sequence) FROM objects WHERE run = runs.id), 0)
		 FROM runs JOIN replicas ON replicas.id = runs.replica WHERE runs.replica = ? AND runs.finished = ''`, replica).Scan(&o.Run, &o.Pool, &o.Sequence)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx,
		`INSERT INTO objects (run, sequence, pool, class, kind, name, origin, uuid, status, recorded) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		o.Run, o.Sequence, o.Pool, o.Class, o.Kind, objectName(o.Kind, o.Run, o.Sequence), b.SourceVDI, b.VDI, ObjectCreated, timeText(time.Now()))
	return err
}

// Tracked is a source disk whose changes are tracked because we switched that on.
type Tracked struct {
	VDI  string // uuid
	Idle bool   // nobody needs it: the replica that it was for is forgotten, and no other has a base of the disk
	Used bool   // some replica has a base of the disk
}

// NoteTracked records, before it is done, that the tracking of a source disk is switched on for a replica. Only the owner of the
// replica's unfinished run may.
func (s *Store) NoteTracked(ctx context.Context, replica, pool, vdi string) error {
	return s.writeReplica(ctx, "recording that the changes of VDI "+vdi+" are tracked", replica, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO cbt_tracked (pool, vdi, replica) VALUES (?, ?, ?) ON CONFLICT (pool, vdi) DO UPDATE SET replica = excluded.replica`, pool, vdi, replica)
		return err
	})
}

// Tracked lists the disks of a pool whose tracking was switched on by us.
func (s *Store) Tracked(ctx context.Context, pool string) ([]Tracked, error) {
	all, err := queryAll(ctx, s.db, func(scan scanFunc) (t Tracked, err error) {
		var replica sql.NullString
		err = scan(&t.VDI, &replica, &t.Used)
		t.Idle = !replica.Valid && !t.Used
		return t, err
	}, `SELECT vdi, replica, EXISTS (SELECT 1 FROM cbt_bases WHERE source_vdi = vdi AND base <> '') FROM cbt_tracked WHERE pool = ? ORDER BY vdi`, pool)
	if err != nil {
		return nil, fmt.Errorf("listing the disks of pool %s whose changes are tracked: %w", pool, err)
	}
	return all, nil
}

// ForgetTracked records that the tracking of a disk was switched off, or never on.
func (s *Store) ForgetTracked(ctx context.Context, pool, vdi string) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM cbt_tracked WHERE pool = ? AND vdi = ?`, pool, vdi)
		return err
	})
	if err != nil {
		return fmt.Errorf("recording that the changes of VDI %s are not tracked: %w", vdi, err)
	}
	return nil
}
