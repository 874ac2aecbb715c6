package manifest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Journal is an index of a file of appended records: for each extent, the place of the last one. Its memory does not grow with
// the records' content. Safe for concurrent use when its io.ReaderAt is.
type Journal struct {
	r        io.ReaderAt
	geometry Geometry
	offsets  map[uint32]int64
	extents  []uint32 // ascending
	whole    int64
	torn     error
}

// OpenJournal indexes the records in the size bytes of r, those of a disk of geometry g.
//
// The first durable bytes are known to have been synced: damage there is an ErrCorrupt, because records that stood there are
// lost and the old manifest would be believed in their place. Beyond, a crash may have torn what was being written: reading
// ends at the first record that is not whole, and Torn tells. A record that does not fit g is an ErrInvalid anywhere.
func OpenJournal(r io.ReaderAt, size, durable int64, g Geometry) (*Journal, error) {
	if err := g.Validate(); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{r: r, geometry: g, offsets: make(map[uint32]int64)}
	in := bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 256<<10)
	for {
		rec, err := ReadRecord(in)
		switch {
		case errors.Is(err, ErrCorrupt):
			j.torn = err
		case errors.Is(err, io.EOF):
		case err == nil:
			if err := rec.check(g); err != nil {
				return nil, fmt.Errorf("open journal: at byte %d: %w", j.whole, err)
			}
			j.offsets[rec.Extent] = j.whole
			j.whole += int64(recordSize(len(rec.Blocks)))
			continue
		default:
			return nil, fmt.Errorf("open journal: at byte %d: %w", j.whole, err)
		}
		break
	}
	if j.whole < durable {
		cause := j.torn
		if cause == nil {
			cause = ErrTruncated
		}
		return nil, fmt.Errorf("open journal: at byte %d of %d that were synced: %w; scan the disk anew", j.whole, durable, cause)
	}
	j.extents = slices.Sorted(maps.Keys(j.offsets))
	return j, nil
}

// Whole returns the length in bytes of the whole records at the beginning. Who goes on with a torn journal truncates it to
// this length first.
func (j *Journal) Whole() int64 { return j.whole }

// Torn returns why reading ended before the end of the file, an ErrCorrupt, or nil when the file ends with a whole record.
func (j *Journal) Torn() error { return j.torn }

// Extents returns the numbers of the journalled extents, ascending. The slice is shared and must not be changed.
func (j *Journal) Extents() []uint32 { return j.extents }

// Records reads the last record of each journalled extent, as Compose takes them.
func (j *Journal) Records() Changes {
	return func(yield func(Record, error) bool) {
		for _, extent := range j.extents {
			r, err := j.read(extent)
			if err != nil {
				yield(Record{}, fmt.Errorf("journal: extent %d: %w", extent, err))
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Record reads the last record of an extent; ok tells whether there is one.
func (j *Journal) Record(extent uint32) (r Record, ok bool, err error) {
	if _, ok := j.offsets[extent]; !ok {
		return Record{}, false, nil
	}
	if r, err = j.read(extent); err != nil {
		return Record{}, true, fmt.Errorf("journal: extent %d: %w", extent, err)
	}
	return r, true, nil
}

func (j *Journal) read(extent uint32) (Record, error) {
	encoded, err := readAt(j.r, "record", j.offsets[extent], recordSize(j.geometry.BlocksIn(extent)))
	if err != nil {
		return Record{}, err
	}
	r, err := decodeRecord(encoded)
	if err == nil && r.Extent != extent {
		err = fmt.Errorf("%w: the record is that of extent %d now", ErrCorrupt, r.Extent)
	}
	return r, err
}
