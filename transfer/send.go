package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// Send reads a source once and brings every sink to its content. It returns
// when each sink has answered or failed; the error is of the source or of the
// spec, and those of sinks stand in the result. When every sink has failed,
// reading stops and the error joins theirs.
func Send(ctx context.Context, spec SendSpec) (SendResult, error) {
	g := manifest.Geometry{Size: spec.Size}
	err := checkSend(g, spec)
	var root *rootHasher
	var assumed *assumptions
	if err == nil {
		root, err = rootFrom(spec.Root, spec.Key, g, firstOf(spec.Sinks))
	}
	if err == nil {
		assumed, err = newAssumptions(spec.Hint, g, spec.Key)
	}
	if err != nil {
		for _, s := range spec.Sinks {
			closeWith(s.Conn, err)
		}
		return SendResult{}, err
	}
	p := orNew(spec.Progress)
	start := firstOf(spec.Sinks)
	p.begin(g, start)
	defer p.end()
	_, _, keep := spec.buffers(hashers())

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sessions := make([]*sendSession, len(spec.Sinks))
	results := make([]SinkResult, len(spec.Sinks))
	var running sync.WaitGroup
	var failures failureCount
	for i, sink := range spec.Sinks {
		s := newSendSession(sink, spec, g, max(1, keep/len(spec.Sinks)))
		sessions[i] = s
		running.Go(func() {
			err := s.run(ctx)
			results[i] = SinkResult{Err: err, Result: s.result, Counters: s.progress.Snapshot(), Watermark: s.records.taken(s.acked.Load()), Sent: s.sent, Reached: s.told.Load()}
			if err != nil && failures.add() == len(sessions) {
				cancel(errNoSink)
			}
		})
	}
	err = scanExtents(ctx, spec.Source, g, start, spec.Key, spec.Tuning, p, assumed, false, func(e *extent) error {
		defer e.release()
		root.add(e)
		for _, s := range sessions {
			if e.number < s.Start {
				continue
			}
			e.holders.Add(1)
			if !s.take(ctx, e) {
				e.release()
			}
		}
		return nil
	})
	if err != nil {
		cancel(err) // no sink may take a part for the whole
	}
	for _, s := range sessions {
		close(s.in)
	}
	running.Wait()
	if errors.Is(context.Cause(ctx), errNoSink) {
		err = nil
		for _, r := range results {
			err = errors.Join(err, r.Err)
		}
		return SendResult{Sinks: results, Hint: assumed.result}, err
	}
	if err != nil {
		return SendResult{Sinks: results, Hint: assumed.result}, fmt.Errorf("read the source: %w", err)
	}
	sum, err := root.sum()
	return SendResult{Root: sum, Sinks: results, Hint: assumed.result}, err
}

var errNoSink = errors.New("every sink has failed")

type failureCount struct {
	mu sync.Mutex
	n  int
}

func (f *failureCount) add() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	return f.n
}

func checkSend(g manifest.Geometry, spec SendSpec) error {
	if err := checkKnown(g, spec.Known); err != nil {
		return err
	}
	if len(spec.Sinks) < 1 || len(spec.Sinks) > MaxSinks {
		return fmt.Errorf("%w: %d sinks; 1 to %d can be fed at once", ErrTask, len(spec.Sinks), MaxSinks)
	}
	for _, s := range spec.Sinks {
		if err := checkStart(g, s.Start); err != nil {
			return err
		}
		if len(s.Task) < 1 || len(s.Task) > maxTask {
			return fmt.Errorf("%w: a task's name has 1 to %d bytes, this one %d", ErrTask, maxTask, len(s.Task))
		}
		if s.Trusted != nil {
			if err := checkKnown(g, s.Trusted.Extents()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Copy brings a target in this process to the content of a source, by the same
// engine over a connection that never leaves memory.
func Copy(ctx context.Context, spec CopySpec) (SendResult, error) {
	near, far, err := netproto.Pipe(netproto.Options{})
	if err != nil {
		return SendResult{}, err
	}
	var sent SendResult
	var received ReceiveResult
	progress := orNew(spec.Progress)
	half := spec.Tuning
	half.Memory = max(MinMemory, cmp.Or(half.Memory, DefaultMemory)/2)
	if half.Compression == "" || half.Compression == CompressionAuto {
		half.Compression = CompressionOff // memory is no line
	}
	if half.Parts == "" || half.Parts == PartsAuto {
		half.Parts = PartsOff
	}
	half.Index = cmp.Or(half.Index, DefaultIndex) / 2
	var sendErr, receiveErr error
	group, ctx := newGroup(ctx)
	group.Go(func() error {
		sent, sendErr = Send(ctx, SendSpec{
			Source: spec.Source, Size: spec.Size, Key: spec.Key, Known: spec.Known, Hint: spec.Hint, Tuning: half, Progress: progress,
			Sinks: []SinkSpec{{Conn: near, Task: "copy", Trusted: spec.Trusted, Start: spec.Start, Records: spec.Records, Progress: progress}},
		})
		return sendErr
	})
	group.Go(func() error {
		received, receiveErr = Receive(ctx, ReceiveSpec{
			Conn: far, Task: "copy", Target: spec.Target, Size: spec.Size, Key: spec.Key, Trusted: spec.Trusted != nil, Start: spec.Start, Resumed: spec.Resumed, Tuning: half,
		})
		return receiveErr
	})
	if err := group.Wait(); err != nil {
		// What one end only heard from the other is not the cause.
		if remote := (*netproto.RemoteError)(nil); errors.As(err, &remote) && receiveErr != nil && !errors.As(receiveErr, &remote) {
			err = receiveErr
		}
		return sent, err
	}
	if !received.Trusted && received.Root != sent.Root {
		return sent, fmt.Errorf("%w: the source was read with root %s, the target holds root %s", ErrMismatch, sent.Root, received.Root)
	}
	return sent, nil
}
