package tasks

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/transfer"
)

// transfer opens the disks, meets the peers and lets package transfer work with so many bytes of buffers.
func (t *task) transfer(ctx context.Context, memory int64) error {
	source, target, err := t.openDisks()
	if err != nil {
		return err
	}
	if err := t.connect(ctx); err != nil {
		return err
	}
	defer t.disconnect()
	t.setRunning()
	tuning := transfer.Tuning{
		Memory: memory, QueueDepth: t.spec.Tuning.QueueDepth, Compression: t.spec.Tuning.Compression, Parts: t.spec.Tuning.Parts,
		Index: index(t.spec.Tuning),
	}
	switch t.spec.Kind {
	case control.KindScan:
		return t.scan(ctx, source, tuning)
	case control.KindVerify:
		return t.verify(ctx, source, tuning)
	case control.KindCopy:
		return t.copy(ctx, source, target, tuning)
	case control.KindSend:
		return t.send(ctx, source, tuning)
	default:
		seeds, err := t.openSeeds()
		if err != nil {
			return err
		}
		return t.receive(ctx, target, seeds, tuning)
	}
}

// openDisks opens source and target, as far as the task has them, and checks their sizes.
func (t *task) openDisks() (source, target blockio.Device, err error) {
	writes, reads := t.leases, t.leases // which lease is which: a copy has source and target, others one
	if t.spec.Kind == control.KindCopy {
		writes = writes[1:]
	}
	if number, ok := t.spec.ReadsDevice(); ok {
		if source, err = reads[0].OpenSource(); err != nil {
			return nil, nil, err
		}
		if source.Size() < t.spec.Size {
			return nil, nil, fmt.Errorf("source disk %d has %d bytes, less than the logical size of %d: it is another disk, or the size is wrong", number, source.Size(), t.spec.Size)
		}
	}
	if number, ok := t.spec.WritesDevice(); ok {
		if target, err = writes[0].OpenTarget(); err != nil {
			return nil, nil, err
		}
		if target.Size() < t.spec.Size {
			return nil, nil, fmt.Errorf("target disk %d has %d bytes, the logical size is %d: %w; enlarge it or choose another", number, target.Size(), t.spec.Size, transfer.ErrTargetTooSmall)
		}
	}
	return source, target, nil
}

// openSeeds opens the seeds of a receive, which has their leases after that of its target.
func (t *task) openSeeds() (seeds []transfer.Seed, err error) {
	for i, spec := range t.spec.Seeds {
		device, err := t.leases[1+i].OpenSource()
		if err != nil {
			return nil, fmt.Errorf("seed: %w", err)
		}
		if device.Size() < spec.Size {
			return nil, fmt.Errorf("seed disk %d has %d bytes, less than the announced %d: it is another disk, or the size is wrong", spec.Device, device.Size(), spec.Size)
		}
		seeds = append(seeds, transfer.Seed{Source: device, Size: spec.Size})
	}
	return seeds, nil
}

func (t *task) scan(ctx context.Context, source blockio.Device, tuning transfer.Tuning) error {
	result, err := transfer.Scan(ctx, transfer.ScanSpec{
		Source: source, Hint: t.hint, Size: t.spec.Size, Key: t.key, Known: t.knownExtents(), Records: t.sinks[0].records(), Start: t.spec.Start,
		Tuning: tuning, Progress: t.attempted(),
	})
	t.conclude(result.Root, manifest.Digest{}, false)
	t.concludeHint(result.Hint)
	return err
}

func (t *task) verify(ctx context.Context, source blockio.Device, tuning transfer.Tuning) error {
	result, err := transfer.Verify(ctx, transfer.VerifySpec{
		Source: source, Size: t.spec.Size, Key: t.key, Sample: t.spec.Sample, Want: t.knownExtents(), Tuning: tuning, Progress: t.attempted(),
	})
	if err == nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.verified = &result
	}
	return err
}

func (t *task) copy(ctx context.Context, source, target blockio.Device, tuning transfer.Tuning) error {
	t.begin(t.sinks[0])
	result, err := transfer.Copy(ctx, transfer.CopySpec{
		Source: source, Hint: t.hint, Target: target, Size: t.spec.Size, Key: t.key, Trusted: t.trustedBy(t.sinks[0]),
		Known: t.knownExtents(), Records: t.sinks[0].records(), Start: t.spec.Start, Resumed: t.spec.Resumed, Tuning: tuning, Progress: t.attempted(),
	})
	t.concludeHint(result.Hint)
	if len(result.Sinks) > 0 {
		t.told(t.sinks[0], result.Sinks[0].Reached)
	}
	if err == nil {
		t.conclude(result.Root, result.Sinks[0].Result, t.spec.Trusted != control.TrustNone)
		err = result.Sinks[0].Err
	}
	return err
}

// sinkErrors joins what went wrong with sinks.
func (t *task) sinkErrors() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for i, s := range t.sinks {
		if s.err != nil {
			errs = append(errs, fmt.Errorf("sink %d: %w", i, s.err))
		}
	}
	return errors.Join(errs...)
}

func (t *task) conclude(root, result manifest.Digest, trusted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.root, t.result, t.trusted = root, result, trusted
}

func (t *task) concludeHint(h transfer.HintResult) {
	if t.hint == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hinted = &control.HintStatus{Slice: h.Slice, Disabled: message(h.Disabled)}
}

func (t *task) knownExtents() []manifest.Digest {
	if t.known == nil {
		return nil
	}
	return t.known.digests()
}

// trustedBy returns what is known of a sink's content; nil has it scanned.
func (t *task) trustedBy(s *sink) transfer.Baseline {
	switch s.trusted {
	case control.TrustZero:
		return transfer.ZeroBaseline(t.key, t.spec.Size)
	case control.TrustManifest, control.TrustKnown:
		return s.baseline
	default:
		return nil
	}
}

func (s *sink) records() transfer.RecordFunc {
	if s.journal == nil {
		return nil
	}
	return s.journal.add
}
