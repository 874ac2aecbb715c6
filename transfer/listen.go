package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// listen takes the sender's frames until it closes.
func (r *receiver) listen(ctx context.Context) error {
	for {
		f, err := r.Conn.ReadFrame(ctx)
		if err != nil {
			select {
			case <-r.told:
				if errors.Is(err, io.EOF) {
					return nil
				}
			default:
			}
			return peerEnded(err)
		}
		if f.Type == typeData {
			select {
			case r.data <- f:
			case <-ctx.Done():
				f.Release()
				return context.Cause(ctx)
			}
			continue
		}
		err = r.handle(ctx, f.Type, f.Payload)
		f.Release()
		if err != nil {
			return err
		}
	}
}

func (r *receiver) handle(ctx context.Context, t netproto.Type, p []byte) error {
	if r.ended {
		return fmt.Errorf("%w: message type %#x came after END", ErrProtocol, uint8(t))
	}
	switch t {
	case typeOffer:
		m, err := decodeOffer(p, r.geometry)
		if err != nil {
			return err
		}
		return r.offered(ctx, m)
	case typePassed:
		n, err := decodeNumber("PASSED", p, r.geometry)
		if err != nil {
			return err
		}
		if err := r.reach(ctx, n); err != nil {
			return err
		}
		r.mu.Lock()
		r.passed = n
		r.mu.Unlock()
		signal(r.passOn)
		signal(r.kick)
		signal(r.look)
		return nil
	case typeEnd:
		m, err := decodeEnd(p)
		if err != nil {
			return err
		}
		if r.reached != r.geometry.Extents() {
			return malformed("END", "only %d of %d extents are passed", r.reached, r.geometry.Extents())
		}
		r.mu.Lock()
		r.ended, r.theirs = true, m.result
		r.mu.Unlock()
		signal(r.kick)
		return nil
	}
	return fmt.Errorf("%w: a sender sent message type %#x", ErrProtocol, uint8(t))
}

// offered queues an extent that differs.
func (r *receiver) offered(ctx context.Context, m *offer) error {
	if err := r.reach(ctx, m.extent); err != nil {
		return err
	}
	it := &item{number: m.extent, offer: m, missing: m.blocks}
	r.mu.Lock()
	if r.Trusted {
		it.blocks = make([]manifest.Digest, r.geometry.BlocksIn(m.extent))
	} else {
		e := r.scanned[m.extent]
		if e == nil {
			r.mu.Unlock()
			return malformed("OFFER", "extent %d is not scanned yet", m.extent)
		}
		if m.blocks != fullBitmap(r.geometry, m.extent) || m.look {
			r.mu.Unlock()
			return malformed("OFFER", "only blocks %#x of extent %d, or to be looked at, to a sink that scans", m.blocks, m.extent)
		}
		delete(r.scanned, m.extent)
		r.mu.Unlock()
		if err := e.load(ctx); err != nil {
			return err
		}
		it.blocks = e.blocks
		r.mu.Lock()
	}
	r.reached = m.extent + 1
	r.queue = append(r.queue, it)
	r.open[it.number] = it
	r.mu.Unlock()
	_, length := r.geometry.ExtentRange(it.number)
	r.progress.same.Add(int64(length - contentLength(r.geometry, it.number, m.blocks)))
	select {
	case r.offers <- it:
		return nil
	default:
		return malformed("OFFER", "more than %d offers wait for an answer", maxOffers)
	}
}
