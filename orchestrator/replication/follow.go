package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/orchestrator/report"
	"github.com/understudy-dr/understudy/transfer"
)

const (
	// progressEvery is the time between two looks at a task that goes on; one costs about a kilobyte of control traffic.
	progressEvery = time.Second
	// gather is how long records are left to gather before they are fetched: each fetch costs a flush of the journal. A delegate
	// holds 1024 of them, so that it does not wait for this.
	gather = 200 * time.Millisecond
	// emptyPause keeps a task that has just ended from being asked in a tight loop.
	emptyPause = 100 * time.Millisecond
)

// follow follows a task to its end, which must be a good one, and shows its status now and then.
func follow(ctx context.Context, client *control.Client, id string, show func(control.TaskStatus)) (control.TaskStatus, error) {
	return followBy(ctx, client, id, show, once)
}

// followBy is follow with its calls made by another one, which may repeat them.
func followBy(
	ctx context.Context, client *control.Client, id string, show func(control.TaskStatus), ask asker,
) (control.TaskStatus, error) {
	var seen control.State
	for {
		var status control.TaskStatus
		err := ask(func() (err error) {
			status, err = client.PollTask(ctx, id, seen, progressEvery)
			return err
		})
		if err != nil {
			return status, err
		}
		show(status)
		switch seen = status.State; {
		case seen == control.StateDone:
			return status, nil
		case seen == control.StateCancelled && ctx.Err() == nil:
			return status, fmt.Errorf("%w: the %s on delegate %s: %s", errEndedElsewhere, status.Kind, client.Address(), status.Error)
		case seen.Ended() && status.Suspect:
			return status, fmt.Errorf("%w: the %s on delegate %s %s: %s", errSuspect, status.Kind, client.Address(), seen, status.Error)
		case seen.Ended() && status.Unmet:
			return status, fmt.Errorf("%w: %s", errUnmet, status.Error)
		case seen.Ended():
			return status, fmt.Errorf("the %s on delegate %s %s: %s", status.Kind, client.Address(), seen, status.Error)
		}
	}
}

// watch follows the task of one end.
func (t *transferRun) watch(ctx context.Context, e *end) error {
	last, err := followBy(ctx, e.delegate.Control(), e.spec.ID, func(s control.TaskStatus) {
		t.mu.Lock()
		cuts, disabled := s.Cuts-e.status.Cuts, disabledHint(s) != "" && disabledHint(e.status) == ""
		e.status = s
		t.mu.Unlock()
		if e == t.sender && cuts > 0 {
			t.report.event("connection-cut", "disk %s: the line between the delegates was cut, its ends meet again and go on: %s", t.plan.Disk, s.CutCause)
		}
		if disabled {
			t.report.event("hint-disabled", "disk %s: the delegate %s reads everything: %s", t.plan.Disk, e.delegate.Name(), disabledHint(s))
		}
		t.count()
	}, t.asker(ctx, e))
	switch {
	case errors.Is(err, errEndedElsewhere):
		return &lostError{delegate: e.delegate.Name(), cause: err}
	case errors.Is(err, errUnmet):
		return t.unreachable(e, last.Error)
	}
	return err
}

// unreachable is the error where one end has dialled the other in vain.
func (t *transferRun) unreachable(dialer *end, cause string) error {
	e := &UnreachableError{Direction: t.request.Direction, Cause: cause}
	for _, d := range t.report.copy().Delegates {
		if d.Address == dialer.delegate.Address {
			e.Dialer = d
		} else {
			e.Listener = d
		}
	}
	return e
}

// disabledHint is why a task used its hint no more; empty when it did, or had none.
func disabledHint(s control.TaskStatus) string {
	if s.Hint == nil {
		return ""
	}
	return s.Hint.Disabled
}

// count brings the counters of both ends into the report.
func (t *transferRun) count() {
	t.mu.Lock()
	sent, received := t.sender.status, t.receiver.status
	t.mu.Unlock()
	verdicts := sent.Counters
	target := received.Counters.Read
	if t.sender == t.receiver {
		target, verdicts.Wire = 0, 0 // one process: it counts the source's reads, and what it hands over is on no line
	} else if len(sent.Sinks) > 0 {
		verdicts = sent.Sinks[0].Counters
	}
	if t.plan.Baseline == BaselineZero {
		// On a new disk the same blocks are those of zeroes, which nobody had to write.
		verdicts.Same, verdicts.Zero = 0, verdicts.Same+verdicts.Zero
	}
	busy := busyTimes(sent.Counters.Busy)
	bottleneck := sent.Counters.Bottleneck(received.Counters)
	if t.sender != t.receiver {
		// The task's counters have reading and hashing, the sink's what comes after.
		both := sent.Counters.Add(verdicts)
		both.Elapsed = sent.Counters.Elapsed
		bottleneck = both.Bottleneck(received.Counters)
		addBusy(busy, verdicts.Busy)
		addBusy(busy, received.Counters.Busy)
	}
	t.report.disk(t.plan.Disk, func(d *report.Disk) {
		d.Counters = t.before.Counters.Add(report.Counters{
			Read: sent.Counters.Read, ReadTarget: target, Assumed: sent.Counters.Assumed, Wire: verdicts.Wire,
			Same: verdicts.Same, Zero: verdicts.Zero, Copied: verdicts.Copied, Sent: verdicts.Sent, Spared: verdicts.Spared, Resent: verdicts.Resent,
		})
		for stage, spent := range t.before.Busy {
			busy[stage] += spent
		}
		d.Busy, d.Bottleneck, d.Duration = busy, bottleneck, t.before.Duration+time.Since(t.started)
	})
	t.countControl()
}

// stages are the report's names of the pipeline's stages.
var stages = map[transfer.Stage]report.Stage{
	transfer.StageRead: report.StageRead, transfer.StageHash: report.StageHash, transfer.StageCompress: report.StageCompress,
	transfer.StageLine: report.StageWire, transfer.StageWrite: report.StageWrite,
}

func busyTimes(busy map[transfer.Stage]time.Duration) map[report.Stage]time.Duration {
	times := make(map[report.Stage]time.Duration, len(stages))
	addBusy(times, busy)
	return times
}

func addBusy(times map[report.Stage]time.Duration, busy map[transfer.Stage]time.Duration) {
	for stage, name := range stages {
		if busy[stage] > 0 {
			times[name] += busy[stage]
		}
	}
}

// drain brings the reporting end's journal into the state directory, as it grows and to its end.
func (t *transferRun) drain(ctx context.Context) error {
	client, id := t.reporter.delegate.Control(), t.reporter.spec.ID
	return drain(ctx, client, id, t.done, func(page control.JournalPage) error {
		return t.journal.Append(ctx, page.Watermark, page.Records...)
	}, t.asker(ctx, t.reporter))
}

// drain fetches the journal of a task page by page until its end. done tells that the task has ended, so that no more records
// gather.
func drain(ctx context.Context, client *control.Client, id string, done <-chan struct{}, take func(control.JournalPage) error, ask asker) error {
	var sequence int64
	for {
		var page control.JournalPage
		err := ask(func() (err error) {
			page, err = client.Journal(ctx, id, 0, sequence, control.MaxWait, 0)
			return err
		})
		if err != nil {
			return err
		}
		if err := take(page); err != nil {
			return err
		}
		if page.End {
			return nil
		}
		sequence = page.Sequence
		select {
		case <-time.After(gather):
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// serveWanted answers the sender's wishes for block digests, by range and from the cached manifest, until the tasks have
// ended.
func (t *transferRun) serveWanted(ctx context.Context) error {
	client, id := t.sender.delegate.Control(), t.sender.spec.ID
	var sequence int64
	for {
		var page control.WantedPage
		err := t.ask(ctx, t.sender.delegate, func() (err error) {
			page, err = client.Wanted(ctx, id, 0, sequence, control.MaxWait)
			return err
		})
		if err != nil {
			return err
		}
		sequence = page.Sequence
		if len(page.Extents) > 0 {
			records, err := t.recordsOf(page.Extents)
			if err != nil {
				return err
			}
			err = t.ask(ctx, t.sender.delegate, func() error { return client.PutBlocks(ctx, id, 0, records) })
			if err != nil && !ended(err) {
				return err
			}
			continue
		}
		select {
		case <-t.done:
			return nil
		case <-ctx.Done():
			return nil // whoever ended it knows why
		case <-time.After(emptyPause):
		}
	}
}

// ended reports whether a delegate refused digests because nobody waits for them any more.
func ended(err error) bool {
	var answer *control.Error
	return errors.As(err, &answer) && answer.Code == control.CodeConflict
}

// recordsOf reads the block digests of extents from the journal and the cached manifest.
func (t *transferRun) recordsOf(extents []uint32) ([]manifest.Record, error) {
	records := make([]manifest.Record, 0, len(extents))
	for _, e := range extents {
		blocks, err := t.diskRun.blocks(e)
		if err != nil {
			return nil, err
		}
		records = append(records, manifest.Record{Extent: e, Blocks: blocks})
	}
	return records, nil
}
