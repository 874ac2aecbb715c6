package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"net"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// cuttable makes ErrCut of what ends a connection without either end's will.
type cuttable struct{ Conn }

func (c cuttable) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	return c.named(ctx, c.Conn.WriteFrame(ctx, t, payload...))
}

func (c cuttable) ReadFrame(ctx context.Context) (netproto.Frame, error) {
	f, err := c.Conn.ReadFrame(ctx)
	return f, c.named(ctx, err)
}

// named leaves alone what the context, this end or the peer ended on purpose.
func (c cuttable) named(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	remote := (*netproto.RemoteError)(nil)
	if errors.As(err, &remote) {
		if remote.Code != netproto.CodeSilent && remote.Code != CodeInterrupted {
			return err
		}
		return fmt.Errorf("%w: %w", ErrCut, err)
	}
	for _, meant := range []error{io.EOF, io.ErrClosedPipe, net.ErrClosed, netproto.ErrProtocol, netproto.ErrFrame} {
		if errors.Is(err, meant) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrCut, err)
}

// note keeps in mind that so much of a block is sent, and counts what an attempt
// before had sent already.
func (s *sendSession) note(extent uint32, b, length int) {
	if s.Sent[extent]>>b&1 == 1 {
		s.progress.resent.Add(int64(length))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[extent] |= 1 << b
}

// forget drops what is known of extents that are durable.
func (s *sendSession) forget(watermark uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.sent, func(extent uint32, _ uint64) bool { return extent < watermark })
}

// bytesBelow is the number of bytes that lie below an extent.
func bytesBelow(g manifest.Geometry, extent uint32) int64 {
	return min(int64(extent)*manifest.ExtentSize, g.Size)
}

// checkStart refuses a start beyond the end.
func checkStart(g manifest.Geometry, start uint32) error {
	if start > g.Extents() {
		return fmt.Errorf("%w: it starts at extent %d of %d", ErrTask, start, g.Extents())
	}
	return nil
}

// firstOf is where reading starts for all sinks.
func firstOf(sinks []SinkSpec) uint32 {
	first := sinks[0].Start
	for _, s := range sinks[1:] {
		first = min(first, s.Start)
	}
	return first
}

// rootHasher takes each extent once over all attempts. That of an attempt which
// starts further on, with nothing known of those before, takes none.
type rootHasher struct{ *manifest.RootHasher }

// rootFrom goes on with earlier, or begins a root where one is possible.
func rootFrom(earlier *manifest.RootHasher, key manifest.Key, g manifest.Geometry, start uint32) (*rootHasher, error) {
	switch {
	case earlier == nil && start > 0:
		return new(rootHasher), nil
	case earlier == nil:
		return &rootHasher{key.NewRoot(g)}, nil
	case earlier.Added() < start:
		return nil, fmt.Errorf("%w: it starts at extent %d, and the root holds those below %d", ErrTask, start, earlier.Added())
	}
	return &rootHasher{earlier}, nil
}

func (r *rootHasher) add(e *extent) { r.take(e.number, e.digest) }

func (r *rootHasher) take(number uint32, digest manifest.Digest) {
	if r.RootHasher != nil && number == r.Added() {
		r.Add(digest)
	}
}

// sum is zero when the root does not cover the whole disk.
func (r *rootHasher) sum() (manifest.Digest, error) {
	if r.RootHasher == nil {
		return manifest.Digest{}, nil
	}
	return r.Sum()
}

// resumeChecks is how many blocks a trusted receiver looks at in vain before it
// takes what is offered as not written: data arrives in the order of the answers,
// so that what was written before a cut comes first, but for what waited to be found.
const resumeChecks = flushBytes / manifest.BlockSize

// there finds offered blocks that were written before a cut and not acknowledged,
// or that the sender does not know. A scan has seen them; a target that is trusted
// is read here. Zeroes are written again rather than looked for, but where the
// sender does not know: there most may be zero already, and written zeroes take
// space.
func (v *resolver) there(ctx context.Context, it *item) (blocks uint64, err error) {
	if v.checks <= 0 && !it.offer.look {
		return 0, nil
	}
	listed := it.offer.blocks
	if !it.offer.look {
		listed &^= it.offer.zero
	}
	read := make([]manifest.Digest, manifest.BlocksPerExtent)
	group, ctx := newGroup(ctx)
	next := make(chan int)
	group.Go(func() error {
		defer close(next)
		for b := range ones(listed) {
			select {
			case next <- b:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for w := range copiers {
		group.Go(func() (err error) {
			for b := range next {
				if read[b], err = v.readBlock(it.number*manifest.BlocksPerExtent+uint32(b), v.copier.buffers[w], v.copier.hashers[w]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	digest := 0
	for b := range ones(listed) {
		want := v.hasher.ZeroBlock(blockLength(v.geometry, it.number, b)).Short()
		if it.offer.zero>>b&1 == 0 {
			want = it.offer.digests[digest]
			digest++
		}
		if read[b].Short() == want {
			it.blocks[b] = read[b]
			blocks |= 1 << b
		}
	}
	if it.offer.look {
		return blocks, nil
	}
	v.checks -= bits.OnesCount64(listed &^ blocks)
	if blocks != 0 {
		v.checks = v.inVain
	}
	return blocks, nil
}

// readBlock returns the digest of what the target holds.
func (v *resolver) readBlock(block uint32, buf []byte, h *manifest.Hasher) (manifest.Digest, error) {
	off, n := v.geometry.BlockRange(block)
	if err := readFull(v.Target, buf[:n], off); err != nil {
		return manifest.Digest{}, fmt.Errorf("read what was written before the cut: %w", err)
	}
	v.progress.read.Add(int64(n))
	return h.Block(buf[:n]), nil
}
