package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/xapi"
	"github.com/understudy-dr/understudy/transfer"
)

// copiedRecords is how many records of extents are journalled at once.
const copiedRecords = 64

// diskCopy is the body of an import: what a disk holds, extent by extent and in pieces, as it is read from the export. It keeps one
// extent in memory.
type diskCopy struct {
	*diskRun
	ctx        context.Context // of the run; a Reader has none
	limiter    *transfer.Limiter
	everything bool  // zeroes are sent like the rest, and the disk is zeroed to its end
	end        int64 // of the target disk, in bytes
	hasher     *manifest.Hasher
	geometry   manifest.Geometry
	buffer     []byte // an extent
	started    time.Time

	content content
	root    *manifest.RootHasher
	extent  uint32   // the next
	tail    int64    // of the target disk behind the logical size: where the next piece begins
	ended   bool     // the last header is on its way
	pending [][]byte // to be given out
	records []manifest.Record

	read, sent, wire int64         // bytes: held by the source; of the disk that were sent; that went to the target in all
	reading, hashing time.Duration // from the source; digests
}

// begin begins with the first byte.
func (c *diskCopy) begin(content content) {
	c.content, c.root, c.tail = content, c.store.Installation().DigestKey.NewRoot(c.geometry), c.geometry.Size
}

// held are the parts of an extent that are not left out of the export.
func (c *diskCopy) held(extent uint32) (pieces []Range) {
	offset, length := c.geometry.ExtentRange(extent)
	for end := offset + int64(length); offset < end; {
		n, held := c.content.Held(offset)
		if n = min(n, end-offset); held {
			pieces = append(pieces, Range{offset, n})
		}
		offset += n
	}
	return pieces
}

// pieces are the parts of an extent that are sent.
func (c *diskCopy) pieces(extent uint32) []Range {
	if offset, length := c.geometry.ExtentRange(extent); c.everything {
		return []Range{{offset, int64(length)}}
	}
	return c.held(extent)
}

// length is that of the body in bytes, which is known before any of it was read.
func (c *diskCopy) length() int64 {
	total := int64(xapi.PieceHeader) // the last one
	for e := range c.geometry.Extents() {
		for _, p := range c.pieces(e) {
			total += xapi.PieceHeader + p.Length
		}
	}
	for offset := c.geometry.Size; c.everything && offset < c.end; offset += int64(len(c.buffer)) {
		total += xapi.PieceHeader + min(int64(len(c.buffer)), c.end-offset)
	}
	return total
}

func (c *diskCopy) Read(p []byte) (int, error) {
	for len(c.pending) == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.pending[0])
	if c.pending[0] = c.pending[0][n:]; len(c.pending[0]) == 0 {
		c.pending = c.pending[1:]
	}
	c.wire += int64(n)
	return n, c.limiter.Take(c.ctx, n)
}

// next makes more of the body: an extent, a piece of the tail, the end.
func (c *diskCopy) next() error {
	switch {
	case c.ctx.Err() != nil:
		return context.Cause(c.ctx)
	case c.extent < c.geometry.Extents():
		return c.nextExtent()
	case c.everything && c.tail < c.end:
		piece := c.buffer[:min(int64(len(c.buffer)), c.end-c.tail)]
		clear(piece)
		c.add(c.tail, piece)
		c.tail += int64(len(piece))
		return nil
	case c.ended:
		return io.EOF
	}
	if _, err := c.content.Read(nil); !errors.Is(err, io.EOF) {
		return fmt.Errorf("at the end of the export: %w", errors.Join(errExport, err))
	}
	if err := c.flush(); err != nil {
		return err
	}
	c.pending = append(c.pending, xapi.AppendPiece(nil, 0, 0))
	c.ended = true
	return nil
}

// nextExtent reads an extent, digests it and has its pieces sent.
func (c *diskCopy) nextExtent() error {
	start, length := c.geometry.ExtentRange(c.extent)
	extent := c.buffer[:length]
	began := time.Now()
	if n, err := c.content.Read(extent); err != nil || n != length {
		return fmt.Errorf("reading %d bytes at %d: %w", length, start, errors.Join(err, c.ctx.Err()))
	}
	read := time.Now()
	c.reading += read.Sub(began)
	held := c.held(c.extent)
	if err := c.digest(extent, len(held) == 0); err != nil {
		return err
	}
	c.hashing += time.Since(read)
	for _, p := range held {
		c.read += p.Length
	}
	for _, p := range c.pieces(c.extent) {
		c.add(p.Offset, extent[p.Offset-start:][:p.Length])
		c.sent += p.Length
	}
	c.extent++
	c.count()
	return nil
}

// add has a piece sent, which stays as it is until that is done.
func (c *diskCopy) add(offset int64, piece []byte) {
	c.pending = append(c.pending, xapi.AppendPiece(make([]byte, 0, xapi.PieceHeader), offset, len(piece)), piece)
}

// digest adds an extent to the root, and to the journal unless its digests are known.
func (c *diskCopy) digest(extent []byte, zero bool) error {
	blocks := blockDigests(c.hasher, c.geometry, c.extent, extent, zero)
	digest := c.hasher.Extent(blocks)
	c.root.Add(digest)
	if c.known != nil && c.known[c.extent] == digest {
		return nil
	}
	c.records = append(c.records, manifest.Record{Extent: c.extent, Blocks: blocks})
	if len(c.records) < copiedRecords {
		return nil
	}
	return c.flush()
}

// blockDigests are those of an extent's blocks; zero says that they are zero.
func blockDigests(h *manifest.Hasher, g manifest.Geometry, extent uint32, content []byte, zero bool) []manifest.Digest {
	if zero {
		return h.ZeroBlocks(g, extent)
	}
	blocks := make([]manifest.Digest, 0, g.BlocksIn(extent))
	for len(content) > 0 {
		n := min(len(content), manifest.BlockSize)
		blocks = append(blocks, h.Block(content[:n]))
		content = content[n:]
	}
	return blocks
}

// flush journals the records; the watermark stays, see standard.go.
func (c *diskCopy) flush() error {
	records := c.records
	c.records = c.records[:0]
	return c.journal.Append(c.ctx, 0, records...)
}

// count has the report tell how far it is.
func (c *diskCopy) count() {
	all := time.Since(c.started)
	passed := min(int64(c.extent)*manifest.ExtentSize, c.geometry.Size)
	c.report.disk(c.plan.Disk, func(disk *report.Disk) {
		disk.Read, disk.Sent, disk.Zero, disk.Wire, disk.Duration = c.read, c.sent, passed-c.sent, c.received.Load()+c.wire, all
		disk.Busy = map[report.Stage]time.Duration{
			report.StageRead: c.reading, report.StageHash: c.hashing, report.StageWrite: max(0, all-c.reading-c.hashing),
		}
	})
}
