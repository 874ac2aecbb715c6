package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// JournalPage is a run of records: the new block digests of extents that are durable at the receiver (or, of a scan, read).
type JournalPage struct {
	Records []manifest.Record
	// Sequence is that of the last record, or what was asked for when there are none. To ask for what is after it says that
	// everything up to it is safe with the orchestrator.
	Sequence int64
	// Watermark: every extent below it is settled, and its record, if it has one, is in this page or an earlier one.
	Watermark uint32
	// End: the task has ended and nothing follows.
	End bool
}

// Journal waits for records after a sequence number, at most for wait, and returns at most maxBytes of them (0: MaxJournal; one
// record at least). A page without records may come sooner, when the watermark has moved by 1024 extents. It frees the records up
// to 'sequence' in the delegate.
func (c *Client) Journal(ctx context.Context, id string, sink int, sequence int64, wait time.Duration, maxBytes int) (JournalPage, error) {
	if maxBytes <= 0 || maxBytes > MaxJournal {
		maxBytes = MaxJournal
	}
	r := request{method: http.MethodGet, path: taskPath(id, "journal"), query: after(sequence, wait), wait: wait}
	r.query.Set("sink", strconv.Itoa(sink))
	r.query.Set("max", strconv.Itoa(maxBytes))
	r.limit = MaxJournal
	header, body, err := c.do(ctx, r)
	if err != nil {
		return JournalPage{}, err
	}
	p, err := decodePage(header, body)
	if err != nil {
		return JournalPage{}, fmt.Errorf("control: delegate %s: journal of task %s: %w", c.options.Address, id, err)
	}
	return p, nil
}

func decodePage(header http.Header, body []byte) (p JournalPage, err error) {
	sequence, err := strconv.ParseUint(header.Get(HeaderSequence), 10, 63)
	if err != nil {
		return p, fmt.Errorf("header %s: %w", HeaderSequence, err)
	}
	p.Sequence = int64(sequence)
	watermark, err := strconv.ParseUint(header.Get(HeaderWatermark), 10, 32)
	if err != nil {
		return p, fmt.Errorf("header %s: %w", HeaderWatermark, err)
	}
	p.Watermark = uint32(watermark)
	if p.End, err = strconv.ParseBool(header.Get(HeaderEnd)); err != nil {
		return p, fmt.Errorf("header %s: %w", HeaderEnd, err)
	}
	if p.Records, err = DecodeRecords(body); err != nil {
		return p, err
	}
	if int64(len(p.Records)) > p.Sequence {
		return p, fmt.Errorf("header %s: %d records end with number %d", HeaderSequence, len(p.Records), p.Sequence)
	}
	return p, nil
}

// DecodeRecords reads the manifest records of a body.
func DecodeRecords(body []byte) ([]manifest.Record, error) {
	var records []manifest.Record
	r := bytes.NewReader(body)
	for {
		record, err := manifest.ReadRecord(r)
		if errors.Is(err, io.EOF) {
			return records, nil
		}
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", len(records), err)
		}
		records = append(records, record)
	}
}

// Wanted waits for extents whose block digests a trusted sender needs, at most for wait. A sequence of 0 lists all that are
// outstanding, as after a restart of the orchestrator.
func (c *Client) Wanted(ctx context.Context, id string, sink int, sequence int64, wait time.Duration) (p WantedPage, err error) {
	r := request{method: http.MethodGet, path: taskPath(id, "wanted"), query: after(sequence, wait), wait: wait}
	r.query.Set("sink", strconv.Itoa(sink))
	return p, c.call(ctx, r, nil, &p)
}

// PutBlocks gives a task the block digests of wanted extents, from the baseline of a sink. They are checked against the extent
// digests (CodeMismatch). Sets of any length are split to the API's limit; digests nobody waits for are ignored.
func (c *Client) PutBlocks(ctx context.Context, id string, sink int, records []manifest.Record) error {
	r := request{method: http.MethodPut, path: taskPath(id, "blocks"), binary: true}
	r.query = map[string][]string{"sink": {strconv.Itoa(sink)}}
	for len(records) > 0 {
		r.body = nil
		for len(records) > 0 {
			next := manifest.AppendRecord(r.body, records[0])
			if len(next) > MaxBlocks && len(r.body) > 0 {
				break
			}
			r.body, records = next, records[1:]
		}
		if err := c.call(ctx, r, nil, nil); err != nil {
			return err
		}
	}
	return nil
}
