package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// parcel is one DATA on its way.
type parcel struct {
	header dataHeader
	content
	blocks  int // bytes of the blocks of which the content is all or parts
	settles *answer
	parts   []uint16

	packer packer
	packed [][]byte // what travels, piece after piece
	level  level
	ready  chan error // gets one value when it is packed
}

// delivery sends the blocks that are wanted, in the order of the answers.
//
//	answered, late ──> gather ──> pack (on several cores) ──> in order ──> line
//
// A parcel goes round: what waits is bounded by their number.
type delivery struct {
	*sendSession
	free   chan *parcel
	todo   chan *parcel
	order  chan *parcel
	hasher *manifest.Hasher
}

// deliver ends when RESULT has come.
func (s *sendSession) deliver(ctx context.Context) error {
	packers := s.packers
	d := &delivery{
		sendSession: s, hasher: s.key.NewHasher(),
		free: make(chan *parcel, packers+1), todo: make(chan *parcel, packers+1), order: make(chan *parcel, packers+1),
	}
	for range cap(d.free) {
		d.free <- &parcel{content: content{most: d.room}, packer: packer{pace: d.pace, progress: s.progress}, ready: make(chan error, 1)}
	}
	s.progress.workers(StageCompress, packers)
	group, ctx := newGroup(ctx)
	group.Go(func() error {
		defer close(d.todo)
		defer close(d.order)
		return d.gather(ctx)
	})
	for range packers {
		group.Go(func() error {
			for p := range d.todo {
				var err error
				p.level, p.packed, err = p.packer.pack(ctx, &p.content)
				p.ready <- err
			}
			return nil
		})
	}
	group.Go(func() error { return d.write(ctx) })
	return group.Wait()
}

// gather takes the answers and makes parcels of what they want.
func (d *delivery) gather(ctx context.Context) error {
	for {
		// What was put off is read again, mostly: meanwhile the data of what is offered now would be given up, and read again too.
		late := d.late
		if len(d.answered) > 0 {
			late = nil
		}
		select {
		case a := <-d.answered:
			if err := d.extent(ctx, a); err != nil {
				return err
			}
		case a := <-late:
			if err := d.extent(ctx, a); err != nil {
				return err
			}
		case <-d.againCame:
			for _, a := range d.takeAgain() {
				if err := d.extent(ctx, a); err != nil {
					return err
				}
			}
		case <-d.over:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// extent makes parcels of what is wanted of one extent; the last of them may settle it.
func (d *delivery) extent(ctx context.Context, a *answer) error {
	for rest := a.want.blocks; rest != 0; {
		var to *parcel
		select {
		case to = <-d.free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		taken, err := d.fill(to, a, rest)
		if err != nil {
			return err
		}
		if rest &^= taken; rest == 0 && !a.again {
			to.settles = a
		}
		d.todo <- to  // never waits: it has room for all parcels,
		d.order <- to // and so has this
	}
	return nil
}

// fill puts as many of the blocks into a parcel as it has room for.
func (d *delivery) fill(to *parcel, a *answer, blocks uint64) (taken uint64, err error) {
	d.mu.Lock()
	held := a.holds // and stays so while the answer is delivered
	d.mu.Unlock()
	here := uint64(0)
	if held {
		here = a.read
	}
	to.content.clear()
	whole := 0
	var ahead []byte // read again, and not lent yet
	parts := to.parts[:0]
	for b := range ones(blocks) {
		n := blockLength(d.geometry, a.number, b)
		if to.length+n > d.room {
			break
		}
		travels := wholeBlock(n)
		parted := a.want.parted>>b&1 == 1
		if here>>b&1 == 1 && !parted {
			to.lend(a.block(b))
		} else {
			block := to.room(n)
			if here>>b&1 == 1 {
				copy(block, a.block(b))
			} else {
				if len(ahead) == 0 {
					adjacent := bits.TrailingZeros64(^((blocks &^ here) >> b)) * manifest.BlockSize
					if ahead, err = d.reread(a.pending, b, to.own(to.length, min(adjacent, d.room-to.length))); err != nil {
						return 0, err
					}
				}
				copy(block, ahead[:n]) // to where it lies, unless parts of blocks before it stay here
				ahead = ahead[n:]
				if err := d.verify(a.pending, b, block); err != nil {
					return 0, err
				}
			}
			if parted {
				travels = d.reduce(a, b, block)
			}
			to.lend(block[:partsLength(n, travels)])
		}
		parts = append(parts, travels)
		taken |= 1 << b
		whole += n
		if !a.again {
			d.note(a.number, b, partsLength(n, travels))
		}
	}
	to.header = dataHeader{extent: a.number, blocks: taken}
	if to.length < whole {
		to.header.parts = parts
	}
	to.parts, to.blocks = parts, whole
	if !a.again { // else it is counted already
		d.progress.sent.Add(int64(to.length))
		d.progress.spared.Add(int64(whole - to.length))
	}
	return taken, nil
}

// reduce leaves of a block only the parts that the sink does not hold, at its beginning.
func (d *delivery) reduce(a *answer, b int, block []byte) (parts uint16) {
	start := time.Now()
	parts = differing(d.hasher, block, a.want.partsOf(b))
	travels := takeParts(block, parts)
	took := time.Since(start)
	d.progress.spent(StageHash, took)
	d.pace.compared(len(block), travels, took)
	if travels < len(block) {
		d.notePartial(a.pending, b, parts)
	}
	return parts
}

// reread reads whole adjacent blocks from b on, as many as fit, whose data was
// given up while the answer was on its way, or was never read, and returns them.
func (d *delivery) reread(p *pending, b int, buf []byte) ([]byte, error) {
	start := time.Now()
	defer d.progress.spend(StageRead, start)
	off, _ := d.geometry.BlockRange(firstBlock(p.number) + uint32(b))
	length := min(len(buf)/manifest.BlockSize*manifest.BlockSize, int(d.geometry.Size-off))
	if length == 0 { // the disk's last block, for which there is not more room
		length = min(len(buf), int(d.geometry.Size-off))
	}
	if err := readFull(d.source, buf[:length], off); err != nil {
		return nil, fmt.Errorf("read the source again: %w", err)
	}
	d.progress.read.Add(int64(length))
	return buf[:length], nil
}

// verify checks a block that was read again.
func (d *delivery) verify(p *pending, b int, block []byte) error {
	switch {
	case d.hasher.Block(block) == p.blocks[b]:
		return nil
	case !p.has(b):
		return &HintError{p.number}
	}
	return fmt.Errorf("%w: the source changed in block %d of extent %d while it was read; it must be a snapshot", ErrMismatch, b, p.number)
}

// write puts parcels on the line, in order.
func (d *delivery) write(ctx context.Context) error {
	header := make([]byte, 0, dataHeaderSize+2*manifest.BlocksPerExtent)
	var payload [][]byte
	for {
		start := time.Now()
		p, more := <-d.order
		if !more {
			return nil
		}
		idle := time.Since(start)
		select {
		case err := <-p.ready:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		packing := time.Since(start) - idle
		if p.level != raw {
			p.header.encoding = encodingZstd
		}
		header = p.header.append(header[:0])
		payload = append(append(payload[:0], header), p.packed...)
		wire := 0
		for _, piece := range payload {
			wire += len(piece)
		}
		queued := d.Conn.Stats().Queued
		if err := d.Conn.WriteFrame(ctx, typeData, payload...); err != nil {
			return err
		}
		d.pace.wrote(wire, p.length, p.blocks, queued, idle, packing, time.Since(start)-idle-packing)
		d.progress.levels[p.level].Add(int64(p.length))
		if p.settles != nil {
			d.settle(p.settles)
		}
		p.settles, p.packed = nil, nil
		d.free <- p
	}
}

// readFull reads all of p or fails.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// closeWith tells the peer why this end gives up.
func closeWith(c Conn, cause error) {
	code := CodeFailed
	switch {
	case errors.Is(cause, ErrCut):
		code = CodeInterrupted
	case errors.Is(cause, ErrProtocol):
		code = netproto.CodeProtocol
	case errors.Is(cause, ErrTask):
		code = CodeTask
	case errors.Is(cause, ErrMismatch):
		code = CodeMismatch
	}
	// The caller gets the cause; the peer is told if it still can be.
	_ = c.CloseWithError(code, cause.Error())
}

// peerEnded names a connection that ended in the middle of the conversation.
func peerEnded(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the peer closed the connection before the transfer was complete: %w", io.ErrUnexpectedEOF)
	}
	return err
}
