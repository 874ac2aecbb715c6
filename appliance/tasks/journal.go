package tasks

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
)

// maxUnacknowledged bounds the records that the orchestrator has not acknowledged; each takes about 2 KiB.
const maxUnacknowledged = 1024

// watermarkStep is how far a watermark moves, in extents (4 GiB), before a reader who waits for records is told: else a long
// stretch without differences looked like no progress, and would be compared again after a cut.
const watermarkStep = 1024

// journal holds a sink's records from the moment they are durable there until the orchestrator has them.
type journal struct {
	mu       sync.Mutex
	records  []manifest.Record // unacknowledged, in order
	before   int64             // how many were acknowledged: the number of records[0] is before+1
	marks    []mark            // ascending in both fields
	told     uint32            // watermark of the last page that was worth returning
	complete bool              // the task has ended
	changed  chan struct{}     // closed and replaced at every change
}

// mark says that with the record of this number the watermark is reached.
type mark struct {
	sequence  int64
	watermark uint32
}

func newJournal() *journal { return &journal{changed: make(chan struct{})} }

// wake is called with mu held.
func (j *journal) wake() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// last is the number of the newest record. mu is held.
func (j *journal) last() int64 { return j.before + int64(len(j.records)) }

// add is a transfer.RecordFunc. It waits while too much is unacknowledged.
func (j *journal) add(ctx context.Context, watermark uint32, records []manifest.Record) error {
	for len(records) > 0 {
		j.mu.Lock()
		n := min(maxUnacknowledged-len(j.records), len(records))
		changed := j.changed
		if n > 0 {
			j.records = append(j.records, records[:n]...)
			records = records[n:]
			j.wake()
		}
		j.mu.Unlock()
		if n > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the journal to be fetched: %w", context.Cause(ctx))
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.marks); n > 0 && j.marks[n-1].sequence == j.last() {
		j.marks[n-1].watermark = watermark
	} else {
		j.marks = append(j.marks, mark{j.last(), watermark})
	}
	if j.advanced(watermark) {
		j.wake()
	}
	return nil
}

// end tells that nothing follows.
func (j *journal) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.complete = true
	j.wake()
}

// page frees the records up to 'after' and returns those that follow, at most maxBytes of them encoded, but one at least. When
// there are none it waits for one, for a watermark that is watermarkStep above the last one told, or for the end, until ctx ends;
// an empty page is no error.
func (j *journal) page(ctx context.Context, after int64, maxBytes int) (control.JournalPage, error) {
	for {
		page, changed, err := j.take(after, maxBytes)
		if err != nil || changed == nil {
			return page, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return page, nil
		}
	}
}

// advanced tells whether a watermark is news by itself. mu is held.
func (j *journal) advanced(watermark uint32) bool {
	return watermark >= watermarkStep && watermark-watermarkStep >= j.told
}

// take returns a page; when that is not worth returning yet, also what to wait for.
func (j *journal) take(after int64, maxBytes int) (p control.JournalPage, changed <-chan struct{}, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if after < j.before {
		return p, nil, control.NewError(control.CodeGone, fmt.Errorf("records up to %d were acknowledged and are freed: ask for those after it", j.before))
	}
	if after > j.last() {
		return p, nil, control.NewError(control.CodeInvalid, fmt.Errorf("record %d is not there yet, the last is %d", after, j.last()))
	}
	if freed := after - j.before; freed > 0 {
		j.records = slices.Delete(j.records, 0, int(freed))
		j.before = after
		j.wake()
	}
	bytes := 0
	for _, record := range j.records {
		bytes += recordOverhead + len(record.Blocks)*len(manifest.Digest{})
		if bytes > maxBytes && len(p.Records) > 0 {
			break
		}
		p.Records = append(p.Records, record)
	}
	p.Sequence = after + int64(len(p.Records))
	p.End = j.complete && p.Sequence == j.last()
	for len(j.marks) > 1 && j.marks[1].sequence <= after {
		j.marks = j.marks[1:] // the first one left says what was reached with 'after'
	}
	for _, m := range j.marks {
		if m.sequence <= p.Sequence {
			p.Watermark = m.watermark
		}
	}
	if len(p.Records) == 0 && !p.End && !j.advanced(p.Watermark) {
		return p, j.changed, nil
	}
	j.told = p.Watermark
	return p, nil, nil
}

// recordOverhead is what a record takes encoded beside its digests: manifest's head and checksum.
const recordOverhead = 28
