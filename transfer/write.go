package transfer

import (
	"context"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// write takes DATA until there is no more: unpack, check, write. Several run.
func (r *receiver) write(ctx context.Context) error {
	w := &writer{receiver: r, hasher: r.Key.NewHasher()}
	defer w.unpacker.close()
	for f := range r.data {
		if err := w.take(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

type writer struct {
	*receiver
	hasher   *manifest.Hasher
	unpacker unpacker
	old      []byte // a block to patch; nil until there is one
}

// take owns the frame. Content that came raw is written from where it lies in it.
func (w *writer) take(ctx context.Context, f netproto.Frame) error {
	defer f.Release()
	m, content, err := decodeData(f.Payload, w.geometry)
	if err != nil {
		return err
	}
	if m.encoding != encodingRaw {
		if content, err = w.unpacker.unpack(content, m.length(w.geometry), w.progress); err != nil {
			return err
		}
		f.Release() // the sender may go on
	}
	it, err := w.expected(m)
	if err != nil {
		return err
	}
	if len(m.parts) > 0 {
		return w.patch(ctx, it, m, content)
	}
	at := 0
	full := make([]manifest.Digest, 0, gatherBlocks)
	for b := range ones(m.blocks) {
		n := blockLength(w.geometry, it.number, b)
		d, right := w.check(it, b, content[at:at+n])
		if !right {
			return fmt.Errorf("%w: block %d of extent %d as it arrived", ErrMismatch, b, it.number)
		}
		full = append(full, d)
		at += n
	}
	at = 0
	err = w.runs(it.number, m.blocks, func(off int64, length int) error {
		err := w.put(content[at:at+length], off)
		at += length
		return err
	})
	if err != nil {
		return err
	}
	w.progress.sent.Add(int64(len(content)))
	at = 0
	for b := range ones(m.blocks) {
		n := blockLength(w.geometry, it.number, b)
		if err := w.spread(ctx, place{it, b}, full[0], content[at:at+n]); err != nil {
			return err
		}
		full = full[1:]
		at += n
	}
	return w.settle(ctx, it, m.blocks, w.hasher)
}

// check tells whether content is what was offered for a block.
func (w *writer) check(it *item, b int, content []byte) (d manifest.Digest, right bool) {
	start := time.Now()
	defer w.progress.spend(StageHash, start)
	d = w.hasher.Block(content)
	return d, d.Short() == it.offer.short(b)
}

// expected finds the extent that DATA belongs to; each block comes once, and
// only when it was asked for.
func (w *writer) expected(m dataHeader) (*item, error) {
	partial := m.partial(w.geometry)
	w.mu.Lock()
	defer w.mu.Unlock()
	it := w.open[m.extent]
	if it == nil || m.blocks&^it.wanted != 0 || partial&^it.parted != 0 {
		return nil, malformed("DATA", "blocks %#x of extent %d, %#x of them in parts, were not asked for", m.blocks, m.extent, partial)
	}
	it.wanted &^= m.blocks
	it.parted &^= m.blocks
	return it, nil
}

// spread writes the content of a block that came to every other place that
// waits for it.
func (w *writer) spread(ctx context.Context, from place, d manifest.Digest, content []byte) error {
	from.it.blocks[from.b] = d
	w.seen.put(d.Short(), from.position(), 0)
	w.mu.Lock()
	others := w.waiting[d.Short()].others
	delete(w.waiting, d.Short()) // from now on the index knows it
	w.mu.Unlock()
	for _, p := range others { // the first one is this place
		if err := w.alias(ctx, p, d, content, w.hasher); err != nil {
			return err
		}
	}
	return nil
}

// acknowledge makes durable what is settled and tells the sender, at the latest
// after flushBytes, ackExtents or ackInterval.
func (r *receiver) acknowledge(ctx context.Context) error {
	timer := time.NewTicker(ackInterval)
	defer timer.Stop()
	acked := r.from
	for {
		due := false
		select {
		case <-r.kick:
		case <-timer.C:
			due = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		r.mu.Lock()
		watermark, dirty := r.watermark(), r.dirty
		over := r.ended && watermark == r.geometry.Extents()
		moved := watermark != acked
		// A block that waits to be found holds the watermark back, not the flush.
		if !over && dirty < flushBytes && !(moved && (due || watermark-acked >= ackExtents)) {
			r.mu.Unlock()
			continue
		}
		r.dirty, r.acked = 0, watermark
		r.mu.Unlock()
		if dirty > 0 || over {
			start := time.Now()
			if err := r.Target.Flush(); err != nil {
				return fmt.Errorf("flush the target: %w", err)
			}
			r.progress.spend(StageWrite, start)
		}
		// What was written for extents below the watermark was written
		// before it was read, and so before the flush.
		r.mu.Lock()
		r.durable = max(r.durable, watermark)
		r.mu.Unlock()
		r.records.advance(watermark)
		if over {
			return r.conclude(ctx)
		}
		if !moved {
			continue
		}
		if err := r.Conn.WriteFrame(ctx, typeAck, appendNumber(nil, watermark)); err != nil {
			return err
		}
		acked = watermark
	}
}

// ackInterval bounds how long settled extents wait for their ACK.
const ackInterval = 2 * time.Second

// conclude sends RESULT.
func (r *receiver) conclude(ctx context.Context) error {
	r.result.Result = r.list.sum()
	if r.result.Result != r.theirs {
		return fmt.Errorf("%w: this end accepted %s, the sender offered %s; run again without trust", ErrMismatch, r.result.Result, r.theirs)
	}
	if r.root != nil {
		root, err := r.root.sum()
		if err != nil {
			return err
		}
		r.result.Root = root
	}
	r.result.Agreed = true
	p := r.progress.Snapshot()
	m := result{
		result: r.result.Result, same: p.Same, zero: p.Zero, copied: p.Copied, sent: p.Sent, spared: p.Spared,
		readBytes: p.Read, writtenBytes: p.Written, bytesTotal: r.Size - bytesBelow(r.geometry, r.from),
	}
	close(r.told)
	return r.Conn.WriteFrame(ctx, typeResult, m.append(nil))
}
