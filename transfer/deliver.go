package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// deliver sends the blocks that are wanted, in the order of the answers.
func (s *sendSession) deliver(ctx context.Context) error {
	buf := blockio.AlignedBuffer(maxContent)
	header := make([]byte, 0, dataHeaderSize)
	for {
		select {
		case p := <-s.answered:
			for rest := p.want; rest != 0; {
				part := lowest(rest, gatherBlocks)
				rest &^= part
				if err := s.send(ctx, p, part, buf, header); err != nil {
					return err
				}
			}
			s.settle(p)
		case <-s.over:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// send puts some blocks of an extent into one DATA.
func (s *sendSession) send(ctx context.Context, p *pending, blocks uint64, buf, header []byte) error {
	content := buf[:contentLength(s.geometry, p.number, blocks)]
	s.mu.Lock()
	held := p.holds // and stays so, for it is pinned
	s.mu.Unlock()
	if err := s.gather(p, blocks, held, content); err != nil {
		return err
	}
	e, packed, err := s.packer.pack(content, s.progress)
	if err != nil {
		return err
	}
	header = dataHeader{extent: p.number, blocks: blocks, encoding: e}.append(header[:0])
	start := time.Now()
	if err := s.Conn.WriteFrame(ctx, typeData, header, packed); err != nil {
		return err
	}
	s.packer.sent(len(packed), time.Since(start))
	s.progress.sent.Add(int64(len(content)))
	s.note(p.number, blocks)
	return nil
}

// gather puts blocks together, and reads those again whose data was given up
// while the answer was on its way, or was never read.
func (s *sendSession) gather(p *pending, blocks uint64, held bool, content []byte) error {
	var h *manifest.Hasher
	at := 0
	for b := range ones(blocks) {
		off, n := s.geometry.BlockRange(p.number*manifest.BlocksPerExtent + uint32(b))
		part := content[at : at+n]
		at += n
		if held && p.has(b) {
			copy(part, p.block(b))
			continue
		}
		start := time.Now()
		err := readFull(s.source, part, off)
		s.progress.spend(StageRead, start)
		if err != nil {
			return fmt.Errorf("read the source again: %w", err)
		}
		s.progress.read.Add(int64(n))
		if h == nil {
			h = s.key.NewHasher()
		}
		switch {
		case h.Block(part) == p.blocks[b]:
		case !p.has(b):
			return &HintError{p.number}
		default:
			return fmt.Errorf("%w: the source changed at offset %d while it was read; it must be a snapshot", ErrMismatch, off)
		}
	}
	return nil
}

// lowest keeps the lowest n set bits.
func lowest(bitmap uint64, n int) uint64 {
	rest := bitmap
	for range n {
		rest &= rest - 1
	}
	if bits.OnesCount64(bitmap) <= n {
		return bitmap
	}
	return bitmap &^ rest
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
