package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/replica"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/orchestrator/state"
)

// What is known of a replica after a run that ended badly, by extents; W is its watermark, and it has written nothing from R on:
//
//	0 ················ W ················ R ················ end
//	  manifest, but       in doubt: read    as before the run, if
//	  for what is         by the target     that was known
//	  journalled: read
//
// What is journalled was written by that run, so that the empty leaf (testLeaves) does not tell whether somebody else wrote there
// since: it is read, too.
//
// A run that comes to nothing again leaves its own W and R above these; see state.JournalView.Doubts. R is known when one end of
// the transfer could still be asked; it is the end of the disk after a crash. A run that found something wrong leaves nothing known.

// unfinished gathers what speaks against relying on the journal of the run that the disks are dirty by; nil when they are not dirty.
func (s *subject) unfinished(ctx context.Context, store *state.Store) (*replica.UnfinishedEvidence, error) {
	if len(s.record.Disks) == 0 || !s.record.Disks[0].State.Dirty || !s.request.Trust {
		return nil, nil
	}
	last, err := store.RunOf(ctx, s.record.ID, s.record.Disks[0].State.Generation)
	switch {
	case errors.Is(err, state.ErrNotFound):
		return &replica.UnfinishedEvidence{Against: "it is not known which run that was"}, nil
	case err != nil:
		return nil, err
	case !last.Report.State.Final():
		return &replica.UnfinishedEvidence{Against: "that run has not ended"}, nil
	}
	s.restsOn = last.Report.TargetHosts
	against, err := rebooted(ctx, s.target, s.restsOn)
	if against != "" || err != nil {
		return &replica.UnfinishedEvidence{Against: against}, err
	}
	settled := int64(0)
	for _, d := range s.record.Disks {
		touched, err := touchedOf(ctx, store, s.record.ID, d.Disk, d.LogicalSize)
		if unusable(err) {
			return &replica.UnfinishedEvidence{Against: err.Error()}, nil
		} else if err != nil {
			return nil, err
		}
		settled += int64(manifest.Geometry{Size: d.LogicalSize}.Extents()) - countSpans(touched)
	}
	if settled == 0 {
		return &replica.UnfinishedEvidence{Against: "it left nothing untouched"}, nil
	}
	return &replica.UnfinishedEvidence{}, nil
}

// touchedOf is touchedSince of a disk, by all runs since its last commit.
func touchedOf(ctx context.Context, store *state.Store, replica, disk string, size int64) ([]state.Span, error) {
	journal, err := store.ReadJournal(ctx, replica, disk)
	if err != nil {
		return nil, err
	}
	defer journal.Close()
	return touchedSince(journal, manifest.Generation{}, manifest.Geometry{Size: size}.Extents())
}

// touchedSince lists the extents that runs of ours wrote since the last commit, or may have written: those that a journal has records
// of, and those in doubt by what the generations before the given one left behind. Spans may overlap.
func touchedSince(journal *state.JournalView, before manifest.Generation, extents uint32) ([]state.Span, error) {
	touched := journal.Doubts(before, extents)
	for record, err := range journal.Records() {
		if err != nil {
			return nil, err
		}
		touched = append(touched, state.Span{From: record.Extent, To: record.Extent + 1})
	}
	return touched, nil
}

// countSpans counts the extents of spans that may overlap.
func countSpans(spans []state.Span) (count int64) {
	spans = slices.SortedFunc(slices.Values(spans), func(a, b state.Span) int { return int(a.From) - int(b.From) })
	end := uint32(0)
	for _, s := range spans {
		from := max(s.From, end)
		if s.To > from {
			count += int64(s.To - from)
			end = s.To
		}
	}
	return count
}

// noteUnfinished tells what a run that ended badly means for this one.
func (s *subject) noteUnfinished(ctx context.Context, store *state.Store) error {
	if len(s.record.Disks) == 0 || !s.record.Disks[0].State.Dirty || !s.request.Trust || s.request.method() == report.Standard {
		return nil
	}
	if !s.decision.Unfinished {
		s.note("rescan", "the replica is scanned: %s", s.decision.Cause)
		return nil
	}
	for _, d := range s.record.Disks {
		touched, err := touchedOf(ctx, store, s.record.ID, d.Disk, d.LogicalSize)
		if err != nil {
			return err
		}
		s.note("goes-on", "disk %s: the last run did not commit; it wrote, or may have written, %d of %d extents, which are read",
			d.Disk, countSpans(touched), manifest.Geometry{Size: d.LogicalSize}.Extents())
	}
	return nil
}

// noteHosts notes on which hosts the content rests that this run relies upon: its own, and that of an unfinished run before it.
func (r *run) noteHosts(ctx context.Context) error {
	if slices.ContainsFunc(r.disks, func(d *diskRun) bool { return d.plan.Baseline == BaselineManifest }) {
		r.report.change(func(run *report.Run) { run.TargetHosts = slices.Clone(r.restsOn) })
	}
	return r.noteHost(ctx)
}

// bound notes how far a transfer that failed has written. Either end is enough to tell: the one offers what the other may write.
func (t *transferRun) bound() {
	t.mu.Lock()
	defer t.mu.Unlock()
	reach := manifest.Geometry{Size: t.plan.Size}.Extents()
	for _, e := range t.ends() {
		if e.status.State.Ended() && e.status.Reached != nil {
			reach = min(reach, *e.status.Reached)
		}
	}
	t.reach = max(t.reach, reach)
}

// leaveJournals leaves to the next run what is known of the replica, after a failure.
func (r *run) leaveJournals(ctx context.Context, failure error) error {
	var damaged *DamagedError
	if errors.Is(failure, ErrMismatch) || errors.Is(failure, errSuspect) || errors.As(failure, &damaged) {
		r.report.event("journal-void", "the next run scans the replica: what was found wrong speaks against what is noted of it")
		return r.store.VoidJournals(ctx, r.record.ID)
	}
	var errs []error
	for _, d := range r.disks {
		if d.journal == nil {
			continue
		}
		if err := d.journal.Bound(ctx, d.reach); err != nil {
			errs = append(errs, fmt.Errorf("disk %s: %w", d.plan.Disk, err))
		}
	}
	return errors.Join(errs...)
}
