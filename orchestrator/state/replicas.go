package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/understudy-dr/understudy/manifest"
)

// Replica is the standby copy of one VM in one SR, as the orchestrator remembers it.
type Replica struct {
	ID         string // a uuid of ours
	SourcePool string // uuids of the pools, both of them known to the Store
	SourceVM   string // uuid
	TargetPool string
	TargetSR   string // uuid
	TargetVM   string // uuid; empty until the replica VM has been created
	Created    time.Time
	LastCommit time.Time // by the target pool's clock; zero before the first commit
	Samples    int64     // how many samples of the disks were read back and found right, which tells the next one
	Trust      TrustOverride
	// AcceptedStart is a start of the replica VM after which an administrator chose to have it overwritten; zero: none.
	AcceptedStart time.Time
	Failover      Failover
	Disks         []Disk // by number
}

// Disk is one disk of a replica.
type Disk struct {
	Disk        string         // userdevice: the VBD's number, decimal
	SourceVDI   string         // uuid of the source disk when the pair was made
	TargetVDI   string         // uuid
	LogicalSize int64          // bytes
	State       manifest.State // zero: nothing is known of the target's content
	Utilisation int64          // bytes that the pool said it takes, just after the last commit; 0: not noted
	// ForeignWrites is what a run found on the target that somebody else wrote; empty: nothing. It stays until AcceptDivergence.
	ForeignWrites string
}

// CreateReplica remembers a new replica. ID, Created and what runs and administrators add are set here. A second replica of the same VM in
// the same SR is an ErrExists, a pool that was not added an ErrNotFound.
func (s *Store) CreateReplica(ctx context.Context, r Replica) (Replica, error) {
	if r.SourceVM == "" || r.TargetSR == "" {
		return Replica{}, errors.New("recording a replica: it needs a source VM and a target SR")
	}
	r.ID, r.Created, r.LastCommit, r.Samples, r.Disks = uuid.NewString(), time.Now().UTC(), time.Time{}, 0, nil
	r.Trust, r.AcceptedStart, r.Failover = TrustAsAsked, time.Time{}, Failover{}
	_, err := s.db.ExecContext(ctx,
		`INSERT INTO replicas (id, source_pool, source_vm, target_pool, target_sr, target_vm, created, last_commit)
		 VALUES (?, ?, ?, ?, ?, ?, ?, '')`,
		r.ID, r.SourcePool, r.SourceVM, r.TargetPool, r.TargetSR, r.TargetVM, timeText(r.Created))
	switch {
	case isUnique(err):
		return Replica{}, fmt.Errorf("recording a replica of VM %s in SR %s: %w", r.SourceVM, r.TargetSR, ErrExists)
	case isForeignKey(err):
		return Replica{}, fmt.Errorf("recording a replica of VM %s: pool %s or %s: %w: add it first", r.SourceVM, r.SourcePool, r.TargetPool, ErrNotFound)
	case err != nil:
		return Replica{}, fmt.Errorf("recording a replica of VM %s: %w", r.SourceVM, err)
	}
	return r, nil
}

const selectReplicas = `SELECT id, source_pool, source_vm, target_pool, target_sr, target_vm, created, last_commit, samples, trust, accepted_start, failover, failover_note FROM replicas `

// Replicas lists all replicas, the oldest first.
func (s *Store) Replicas(ctx context.Context) ([]Replica, error) {
	return s.replicas(ctx, `ORDER BY created, id`)
}

// Replica reads one; ErrNotFound.
func (s *Store) Replica(ctx context.Context, id string) (Replica, error) {
	return s.oneReplica(ctx, id, `WHERE id = ?`, id)
}

// FindReplica reads the replica of a VM in an SR; ErrNotFound.
func (s *Store) FindReplica(ctx context.Context, sourcePool, sourceVM, targetPool, targetSR string) (Replica, error) {
	return s.oneReplica(ctx, "of VM "+sourceVM+" in SR "+targetSR,
		`WHERE source_pool = ? AND source_vm = ? AND target_pool = ? AND target_sr = ?`, sourcePool, sourceVM, targetPool, targetSR)
}

func (s *Store) oneReplica(ctx context.Context, what, where string, args ...any) (Replica, error) {
	found, err := s.replicas(ctx, where, args...)
	if err != nil {
		return Replica{}, err
	}
	if len(found) == 0 {
		return Replica{}, fmt.Errorf("replica %s: %w", what, ErrNotFound)
	}
	return found[0], nil
}

func (s *Store) replicas(ctx context.Context, where string, args ...any) (found []Replica, err error) {
	err = s.read(ctx, func(tx *sql.Tx) error {
		if found, err = queryAll(ctx, tx, scanReplica, selectReplicas+where, args...); err != nil {
			return err
		}
		for i := range found {
			if found[i].Disks, err = disksOf(ctx, tx, found[i].ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading replicas: %w", err)
	}
	return found, nil
}

func scanReplica(scan scanFunc) (r Replica, err error) {
	var created, commit, accepted, failover, note string
	err = scan(&r.ID, &r.SourcePool, &r.SourceVM, &r.TargetPool, &r.TargetSR, &r.TargetVM, &created, &commit, &r.Samples, &r.Trust, &accepted, &failover, &note)
	if err != nil {
		return Replica{}, err
	}
	if r.Created, err = parseTime(created); err != nil {
		return Replica{}, err
	}
	if r.LastCommit, err = parseTime(commit); err != nil {
		return Replica{}, err
	}
	if r.AcceptedStart, err = parseTime(accepted); err != nil {
		return Replica{}, err
	}
	r.Failover, err = parseFailover(failover, note)
	return r, err
}

func disksOf(ctx context.Context, q querier, replica string) ([]Disk, error) {
	return queryAll(ctx, q, scanDisk,
		`SELECT disk, source_vdi, target_vdi, logical_size, state, utilisation, foreign_writes FROM replica_disks WHERE replica = ? ORDER BY CAST(disk AS INTEGER)`, replica)
}

func scanDisk(scan scanFunc) (d Disk, err error) {
	var state string
	if err := scan(&d.Disk, &d.SourceVDI, &d.TargetVDI, &d.LogicalSize, &state, &d.Utilisation, &d.ForeignWrites); err != nil {
		return Disk{}, err
	}
	if state != "" {
		d.State, err = manifest.ParseState(state)
	}
	return d, err
}

// SetTargetVM remembers the replica VM once it has been created. Only the owner of the replica's unfinished run may.
func (s *Store) SetTargetVM(ctx context.Context, replica, vm string) error {
	return s.writeReplica(ctx, "recording the VM of replica "+replica, replica, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE replicas SET target_vm = ? WHERE id = ?`, vm, replica)
		return err
	})
}

// PutDisk remembers a disk of a replica, new or known. d.State is ignored: a new disk has none, and a known one keeps its
// own as long as what is known of its content stays true. It does not, and state, manifests and journal are forgotten,
// when the target VDI is another one, or when the size changed while a journal of the old size is open.
// Only the owner of the replica's unfinished run may.
func (s *Store) PutDisk(ctx context.Context, replica string, d Disk) error {
	if err := d.validate(); err != nil {
		return fmt.Errorf("recording a disk of replica %s: %w", replica, err)
	}
	return s.writeReplica(ctx, fmt.Sprintf("recording disk %s of replica %s", d.Disk, replica), replica, func(tx *sql.Tx) error {
		known, err := findDisk(ctx, tx, replica, d.Disk)
		if err == nil {
			segments, err := segmentsOf(ctx, tx, replica, d.Disk)
			if err != nil {
				return err
			}
			if known.TargetVDI == d.TargetVDI && (known.LogicalSize == d.LogicalSize || len(segments) == 0) {
				_, err := tx.ExecContext(ctx, `UPDATE replica_disks SET source_vdi = ?, logical_size = ? WHERE replica = ? AND disk = ?`,
					d.SourceVDI, d.LogicalSize, replica, d.Disk)
				return err
			}
			if err := deleteDisk(ctx, tx, replica, d.Disk); err != nil {
				return err
			}
		} else if !errors.Is(err, ErrNotFound) {
			return err
		}
		_, err = tx.ExecContext(ctx,
			`INSERT INTO replica_disks (replica, disk, source_vdi, target_vdi, logical_size, state) VALUES (?, ?, ?, ?, ?, '')`,
			replica, d.Disk, d.SourceVDI, d.TargetVDI, d.LogicalSize)
		return err
	})
}

// RemoveDisk forgets a disk that the source VM no longer has. Only the owner of the replica's unfinished run may.
func (s *Store) RemoveDisk(ctx context.Context, replica, disk string) error {
	what := fmt.Sprintf("forgetting disk %s of replica %s", disk, replica)
	err := s.writeReplica(ctx, what, replica, func(tx *sql.Tx) error {
		if _, err := findDisk(ctx, tx, replica, disk); err != nil {
			return err
		}
		return deleteDisk(ctx, tx, replica, disk)
	})
	if err != nil {
		return err
	}
	if err := os.Remove(s.journalPath(replica, disk)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := s.removeFiles(replica, disk, nil); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// deleteDisk removes the rows of a disk; its manifests and journal segments go with them.
func deleteDisk(ctx context.Context, tx *sql.Tx, replica, disk string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM replica_disks WHERE replica = ? AND disk = ?`, replica, disk)
	return err
}

func findDisk(ctx context.Context, q querier, replica, disk string) (Disk, error) {
	disks, err := disksOf(ctx, q, replica)
	if err != nil {
		return Disk{}, err
	}
	for _, d := range disks {
		if d.Disk == disk {
			return d, nil
		}
	}
	return Disk{}, fmt.Errorf("disk %s of replica %s: %w", disk, replica, ErrNotFound)
}

// validate also keeps path separators out of file names, which carry the disk's number.
func (d Disk) validate() error {
	if n, err := strconv.ParseUint(d.Disk, 10, 16); err != nil || strconv.FormatUint(n, 10) != d.Disk {
		return fmt.Errorf("disk %q: want the number of its VBD, such as 0 or 12", d.Disk)
	}
	if d.TargetVDI == "" {
		return fmt.Errorf("disk %s: it needs a target VDI", d.Disk)
	}
	if err := (manifest.Geometry{Size: d.LogicalSize}).Validate(); err != nil {
		return fmt.Errorf("disk %s: %w", d.Disk, err)
	}
	return nil
}

// writeReplica is write for changes of a replica, which only the owner of its unfinished run may make: else ErrNotOwner.
func (s *Store) writeReplica(ctx context.Context, what, replica string, f func(*sql.Tx) error) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		if err := s.checkReplica(ctx, tx, replica); err != nil {
			return err
		}
		return f(tx)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (s *Store) checkReplica(ctx context.Context, tx *sql.Tx, replica string) error {
	var owner string
	err := tx.QueryRowContext(ctx, `SELECT owner FROM runs WHERE replica = ? AND kind <> ? AND finished = ''`, replica, RunRehearse).Scan(&owner)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: no run is at work on replica %s", ErrNotOwner, replica)
	}
	if err == nil && owner != s.owner.String() {
		return fmt.Errorf("%w: %s", ErrNotOwner, owner)
	}
	return err
}
