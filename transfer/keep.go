package transfer

import (
	"context"
	"math/bits"
	"slices"
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
func (s *sendSession) regret(a *answer) {
	grace := time.Duration(s.grace.Load())
	if wanted := bits.OnesCount64(a.want.blocks); 2*wanted > len(a.blocks) {
		grace = min(2*grace, maxGrace)
	} else if 8*wanted < len(a.blocks) {
		grace = max(grace/2, minGrace)
	}
	s.grace.Store(int64(grace))
}

// admit keeps the data of an extent. When too much is kept it gives up what will
// not be asked for soon, and after the grace the oldest data that nobody has asked for
// yet; while all of it is asked for, the line is the bottleneck, and admit waits.
func (s *sendSession) admit(ctx context.Context, p *pending) error {
	patient := true
	for {
		s.mu.Lock()
		for !s.hasRoom(p) && s.dropOldest(patient) {
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

// dropOldest gives up the data of one extent that no answer is being delivered
// for; patiently, only of one whose answer may take its time. s.mu is held.
func (s *sendSession) dropOldest(patient bool) bool {
	for i, p := range s.kept {
		if p.answers == 0 && (!patient || p.waits || p.later != 0) {
			s.dropKept(i)
			return true
		}
	}
	return false
}

// dropKept gives up the i-th of what is kept. s.mu is held.
func (s *sendSession) dropKept(i int) {
	p := s.kept[i]
	s.kept = slices.Delete(s.kept, i, i+1)
	p.holds = false
	p.release()
}

// settle ends the way of an answer, and frees its place; with the last one, the
// extent's data.
func (s *sendSession) settle(a *answer) {
	s.mu.Lock()
	a.answers--
	if a.answers == 0 && a.later == 0 {
		if i := slices.Index(s.kept, a.pending); i >= 0 {
			s.dropKept(i)
		}
	}
	if !a.first {
		s.owed--
	}
	s.mu.Unlock()
	signal(s.freed)
	s.progress.processed.Add(int64(a.covers))
	if a.first {
		<-s.places
	} else {
		signal(s.owes)
	}
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
