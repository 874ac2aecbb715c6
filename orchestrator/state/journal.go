package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/manifest"
)

// Segment is the part of a disk's journal that one generation wrote. A generation has one from SetDirty on, so the
// segments name every run that may have written to the target since the last commit.
type Segment struct {
	Generation manifest.Generation
	// Watermark: every extent below it is settled and durable on the target, as far as this generation is concerned. At
	// and above it, extents that are not journalled may hold old content, new content, or a mixture.
	Watermark uint32
	// Reach: the generation wrote nothing at or above this extent. unbounded when that is not known.
	Reach uint32
	// Kept: what the generation did not write holds what was known before it. Else nothing is known of it.
	Kept   bool
	start  int64
	length int64
}

const unbounded = math.MaxUint32

// Journal appends the new block digests of one disk run. Use it from one goroutine at a time; Close may be called from
// another.
type Journal struct {
	store         *Store
	replica, disk string
	geometry      manifest.Geometry
	generation    manifest.Generation

	mu   sync.Mutex
	file *os.File // nil when closed, or after a failed Append
	end  int64    // bytes that are acknowledged
}

// OpenJournal opens the journal of a disk for the generation that SetDirty recorded, and cuts off what a crash left behind
// the last acknowledged record. From here on the segment's Reach is not known, until Bound tells it. Only the owner of the
// replica's unfinished run may.
func (s *Store) OpenJournal(ctx context.Context, replica, disk string) (*Journal, error) {
	j := &Journal{store: s, replica: replica, disk: disk}
	what := fmt.Sprintf("opening the journal of disk %s of replica %s", disk, replica)
	err := s.writeReplica(ctx, what, replica, func(tx *sql.Tx) error {
		d, err := findDisk(ctx, tx, replica, disk)
		if err != nil {
			return err
		}
		segments, err := segmentsOf(ctx, tx, replica, disk)
		if err != nil {
			return err
		}
		if !d.State.Dirty || len(segments) == 0 {
			return errors.New("the disk is not dirty: record that first")
		}
		last := segments[len(segments)-1]
		j.geometry, j.generation, j.end = manifest.Geometry{Size: d.LogicalSize}, last.Generation, last.start+last.length
		_, err = tx.ExecContext(ctx, `UPDATE journal_segments SET reach = NULL WHERE replica = ? AND disk = ? AND generation = ?`,
			replica, disk, j.generation.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	if j.file, err = openAt(s.journalPath(replica, disk), j.end); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return j, nil
}

// openAt opens a file for appending at end, with all after it cut off.
func openAt(path string, end int64) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() < end {
		err = fmt.Errorf("%s has %d bytes, %d were acknowledged: it was damaged; scan the disk anew", path, info.Size(), end)
	}
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.Seek(end, 0)
	}
	if err == nil {
		err = errors.Join(syncDir(filepath.Dir(path)), syncDir(filepath.Dir(filepath.Dir(path))))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Append makes records durable, and then the watermark below which every extent is settled; it never goes back. After an
// error the journal takes no more: reopen it.
func (j *Journal) Append(ctx context.Context, watermark uint32, records ...manifest.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	what := fmt.Sprintf("journal of disk %s of replica %s", j.disk, j.replica)
	if j.file == nil {
		return fmt.Errorf("%s: %w", what, os.ErrClosed)
	}
	if err := j.check(watermark, records); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := j.append(ctx, watermark, records); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", what, err), j.close())
	}
	return nil
}

// check keeps records out that a reader would refuse.
func (j *Journal) check(watermark uint32, records []manifest.Record) error {
	if extents := j.geometry.Extents(); watermark > extents {
		return fmt.Errorf("watermark %d is beyond the disk of %d extents", watermark, extents)
	}
	for _, r := range records {
		if r.Extent >= j.geometry.Extents() || len(r.Blocks) != j.geometry.BlocksIn(r.Extent) {
			return fmt.Errorf("a record of %d blocks for extent %d does not fit a disk of %d bytes", len(r.Blocks), r.Extent, j.geometry.Size)
		}
	}
	return nil
}

func (j *Journal) append(ctx context.Context, watermark uint32, records []manifest.Record) error {
	var encoded []byte
	for _, r := range records {
		encoded = manifest.AppendRecord(encoded, r)
	}
	if len(encoded) > 0 {
		if _, err := j.file.Write(encoded); err != nil {
			return err
		}
		if err := j.file.Sync(); err != nil {
			return err
		}
	}
	result, err := j.store.db.ExecContext(ctx,
		`UPDATE journal_segments SET length = length + ?, watermark = max(watermark, ?)
		 WHERE replica = ? AND disk = ? AND generation = ? AND start + length = ?
		 AND EXISTS (SELECT 1 FROM runs WHERE runs.replica = journal_segments.replica AND finished = '' AND kind <> ? AND owner = ?)`,
		len(encoded), watermark, j.replica, j.disk, j.generation.String(), j.end, RunRehearse, j.store.owner.String())
	if err != nil {
		return fmt.Errorf("state database: %w", err)
	}
	if n, err := result.RowsAffected(); err != nil {
		return fmt.Errorf("state database: %w", err)
	} else if n != 1 {
		return fmt.Errorf("%w, or the journal was ended or reopened elsewhere", ErrNotOwner)
	}
	j.end += int64(len(encoded))
	return nil
}

// Bound tells how far the journal's generation has written; see Segment.Reach. Nothing may be written beyond it thereafter.
func (j *Journal) Bound(ctx context.Context, reach uint32) error {
	return j.store.writeReplica(ctx, fmt.Sprintf("bounding what was written to disk %s of replica %s", j.disk, j.replica), j.replica, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE journal_segments SET reach = ? WHERE replica = ? AND disk = ? AND generation = ?`,
			reach, j.replica, j.disk, j.generation.String())
		if err != nil {
			return err
		}
		return changedOne(result, "the journal's segment")
	})
}

// VoidJournals has nothing that was written to a replica since its last commit be known: what was found wrong speaks against it.
// Only the owner of the replica's unfinished run may.
func (s *Store) VoidJournals(ctx context.Context, replica string) error {
	return s.writeReplica(ctx, "voiding the journals of replica "+replica, replica, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE journal_segments SET watermark = 0, kept = 0, reach = NULL WHERE replica = ?`, replica)
		return err
	})
}

// Close closes the file. What was appended stays until the disk is committed.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.close()
}

func (j *Journal) close() error {
	if j.file == nil {
		return nil
	}
	f := j.file
	j.file = nil
	return f.Close()
}

// JournalView reads what the runs since the last commit journalled. Close it after use.
type JournalView struct {
	*manifest.Journal           // of each journalled extent the newest digests
	Segments          []Segment // the oldest first; none when the disk is not dirty
	file              *os.File
}

// Close closes the file, which was only read.
func (v *JournalView) Close() { _ = v.file.Close() }

// Span is a range of extents, To not included.
type Span struct{ From, To uint32 }

// Doubts lists the extents of which it is not known what they hold, by what the generations before the given one left behind, or
// all generations when it is not in the journal. The others hold what the manifest says under the journal's records. Spans may
// overlap.
func (v *JournalView) Doubts(before manifest.Generation, extents uint32) []Span {
	var doubts []Span
	for _, s := range v.Segments {
		if s.Generation == before {
			break
		}
		if !s.Kept {
			doubts = []Span{{To: extents}}
		}
		doubts = append(doubts, Span{To: min(s.Reach, extents)})
		for i := range doubts {
			doubts[i].From = max(doubts[i].From, s.Watermark)
		}
		doubts = slices.DeleteFunc(doubts, func(d Span) bool { return d.From >= d.To })
	}
	return doubts
}

// ReadJournal opens a disk's journal for reading. Nothing that was acknowledged may be missing or damaged: that is a
// manifest.ErrCorrupt, and the disk must be scanned. Records that were being written when a process died do not show.
func (s *Store) ReadJournal(ctx context.Context, replica, disk string) (*JournalView, error) {
	what := fmt.Sprintf("reading the journal of disk %s of replica %s", disk, replica)
	var d Disk
	var segments []Segment
	err := s.read(ctx, func(tx *sql.Tx) (err error) {
		if d, err = findDisk(ctx, tx, replica, disk); err != nil {
			return err
		}
		segments, err = segmentsOf(ctx, tx, replica, disk)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	var size int64
	if len(segments) > 0 {
		last := segments[len(segments)-1]
		size = last.start + last.length
	}
	path := s.journalPath(replica, disk)
	if size == 0 {
		path = os.DevNull // no record was acknowledged, and there may be no file
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w: %w; scan the disk anew", what, manifest.ErrCorrupt, err)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	records, err := manifest.OpenJournal(f, size, size, manifest.Geometry{Size: d.LogicalSize})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", what, err), f.Close())
	}
	return &JournalView{Journal: records, Segments: segments, file: f}, nil
}

// beginSegment opens a generation's segment at the end of the journal, unless it is the one that is open. Nothing is written before
// OpenJournal.
func beginSegment(ctx context.Context, tx *sql.Tx, replica, disk string, generation manifest.Generation, kept bool) error {
	segments, err := segmentsOf(ctx, tx, replica, disk)
	if err != nil {
		return err
	}
	var end int64
	if n := len(segments); n > 0 {
		last := segments[n-1]
		if last.Generation == generation {
			return nil
		}
		end = last.start + last.length
	}
	_, err = tx.ExecContext(ctx,
		`INSERT INTO journal_segments (replica, disk, sequence, generation, start, length, watermark, reach, kept) VALUES (?, ?, ?, ?, ?, 0, 0, 0, ?)`,
		replica, disk, len(segments), generation.String(), end, kept)
	if isUnique(err) {
		return fmt.Errorf("generation %s wrote to disk %s before another one did: draw a new generation", generation, disk)
	}
	return err
}

func segmentsOf(ctx context.Context, q querier, replica, disk string) ([]Segment, error) {
	return queryAll(ctx, q, scanSegment,
		`SELECT generation, watermark, coalesce(reach, ?), kept, start, length FROM journal_segments WHERE replica = ? AND disk = ? ORDER BY sequence`, unbounded, replica, disk)
}

func scanSegment(scan scanFunc) (g Segment, err error) {
	var generation string
	if err := scan(&generation, &g.Watermark, &g.Reach, &g.Kept, &g.start, &g.length); err != nil {
		return Segment{}, err
	}
	g.Generation, err = manifest.ParseGeneration(generation)
	return g, err
}

func (s *Store) journalPath(replica, disk string) string {
	return filepath.Join(s.dir, manifestsName, replica, disk+".journal")
}
