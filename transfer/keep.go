package transfer

import (
	"context"
	"math/bits"
	"time"

	"github.com/understudy-dr/understudy/manifest"
)

// The grace is how long admit waits for an answer before it gives up data that
// may have to be read again. It starts longer than a local network takes, and
// grows while giving up proves dear; on a long line with few changes it shrinks, so
// that the comparison goes on.
const (
	minGrace = 5 * time.Millisecond
	maxGrace = 500 * time.Millisecond
)

// regret adapts the grace to an extent whose data was given up.
func (s *sendSession) regret(p *pending) {
	grace := time.Duration(s.grace.Load())
	if wanted := bits.OnesCount64(p.want); 2*wanted > len(p.blocks) {
		grace = min(2*grace, maxGrace)
	} else if 8*wanted < len(p.blocks) {
		grace = max(grace/2, minGrace)
	}
	s.grace.Store(int64(grace))
}

// admit takes a place for an extent and keeps its data. When too much is kept it
// gives up the oldest data that nobody has asked for yet; while all of it is
// asked for, the line is the bottleneck, and admit waits.
func (s *sendSession) admit(ctx context.Context, p *pending) error {
	select {
	case s.places <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	patient := true
	for {
		s.mu.Lock()
		for !patient && !s.hasRoom(p) && s.dropOldest() {
			continue
		}
		if s.hasRoom(p) {
			s.kept = append(s.kept, p)
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-s.freed:
		case <-time.After(time.Duration(s.grace.Load())):
			patient = false
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// hasRoom reports whether an extent may be kept. s.mu is held.
func (s *sendSession) hasRoom(p *pending) bool {
	total := p.weight()
	for _, k := range s.kept {
		total += k.weight()
	}
	return total <= s.keep*manifest.BlocksPerExtent
}

// dropOldest gives up the data of one extent that has no answer. s.mu is held.
func (s *sendSession) dropOldest() bool {
	for i, p := range s.kept {
		if !p.pinned {
			s.kept = append(s.kept[:i], s.kept[i+1:]...)
			p.holds = false
			p.release()
			return true
		}
	}
	return false
}

// settle ends an extent's way. It frees its place and its data.
func (s *sendSession) settle(p *pending) {
	s.mu.Lock()
	for i, k := range s.kept {
		if k == p {
			s.kept = append(s.kept[:i], s.kept[i+1:]...)
			p.release()
			break
		}
	}
	s.mu.Unlock()
	signal(s.freed)
	_, length := s.geometry.ExtentRange(p.number)
	s.progress.processed.Add(int64(length))
	<-s.places
}

// drop gives back the data that a failed session still holds.
func (s *sendSession) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.kept {
		p.release()
	}
	s.kept = nil
}
