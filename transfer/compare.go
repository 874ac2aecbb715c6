package transfer

import (
	"context"
	"errors"
	"math/bits"

	"github.com/understudy-dr/understudy/manifest"
)

// compare decides for each extent whether the sink holds it. It closes todo only
// when it has seen the whole source.
func (s *sendSession) compare(ctx context.Context) error {
	m := open{mode: modeScan, start: s.Start, size: s.geometry.Size, key: s.key.ID(), task: s.Task}
	if s.Trusted != nil {
		m.mode = modeTrusted
	}
	if err := s.Conn.WriteFrame(ctx, typeOpen, m.append(nil)); err != nil {
		return err
	}
	count := s.Start
	for {
		var e *extent
		var more bool
		select {
		case e, more = <-s.in:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !more {
			break
		}
		if err := s.compareOne(ctx, e); err != nil {
			return err
		}
		count = e.number + 1
		s.compared.Store(count)
		if count%s.batch() == 0 {
			signal(s.nudge)
		}
		if count%baselineBatch == 0 && s.Trusted != nil {
			signal(s.look)
		}
	}
	if count != s.geometry.Extents() {
		return errors.New("the source ended early") // the reader's error is the cause
	}
	close(s.todo)
	return nil
}

// batch is how often PASSED is sent, in extents: as often as the sink's scan
// needs it, or as seldom as a trusted run allows.
func (s *sendSession) batch() uint32 {
	if s.Trusted != nil {
		return ackExtents
	}
	return baselineBatch
}

// await holds the comparison back while it is runAhead extents beyond ACK.
func (s *sendSession) await(ctx context.Context, number uint32) error {
	for number-s.acked.Load() >= runAhead {
		signal(s.nudge) // PASSED lets the sink acknowledge
		select {
		case <-s.ackCame:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// compareOne owns one hold on e.
func (s *sendSession) compareOne(ctx context.Context, e *extent) error {
	err := s.await(ctx, e.number)
	var digest manifest.Digest
	if err == nil {
		digest, err = s.sinkDigest(ctx, e.number)
	}
	if err == nil {
		err = s.records.addExtent(ctx, e)
	}
	if err != nil {
		e.release()
		return err
	}
	if digest == e.digest {
		if s.Trusted != nil && e.read != 0 { // else the sink indexes what it scans
			s.seen.putExtent(e, ^uint64(0), firstBlock(e.number), ^uint32(0))
			s.hold.same(len(e.blocks) - bits.OnesCount64(e.zero))
			if s.hold.meet(e.number, e.blocks, ^e.zero) {
				signal(s.look)
			}
		}
		e.release()
		_, length := s.geometry.ExtentRange(e.number)
		s.progress.same.Add(int64(length))
		s.progress.processed.Add(int64(length))
		return nil
	}
	p := &pending{extent: e, holds: true}
	if s.sinkSurveys() {
		p.anchors = blockAnchors(e)
	}
	s.borrow(p)
	if err := s.admit(ctx, p); err != nil {
		e.release()
		return err
	}
	if s.Trusted != nil && digest != (manifest.Digest{}) && !s.baseIsTrusted(e) {
		s.Trusted.Prefetch(e.number)
	}
	select {
	case s.todo <- p:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx) // its data is given back at the end
	}
}

// sinkDigest is what the sink holds, waiting for its scan when there is one.
func (s *sendSession) sinkDigest(ctx context.Context, number uint32) (manifest.Digest, error) {
	if s.Trusted != nil {
		return s.Trusted.Extents()[number], nil
	}
	if d, ok := s.baseline.poll(); ok {
		return d, nil
	}
	return s.baseline.next(ctx)
}

// baseIsTrusted reports whether the block digests that came with an extent that
// was read in part are those of the sink, too.
func (s *sendSession) baseIsTrusted(e *extent) bool {
	return e.base != nil && e.assumed.base[e.number] == s.Trusted.Extents()[e.number]
}
