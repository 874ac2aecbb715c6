package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// cutter cuts a connection when so many frames were written at its two ends.
type cutter struct {
	left atomic.Int64
	ends [2]*netproto.Conn
}

func (c *cutter) isCut() bool { return c.left.Load() <= 0 }

// cutEnd is one end of it.
type cutEnd struct {
	*netproto.Conn
	cutter *cutter
}

func (e cutEnd) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	if e.cutter.left.Add(-1) == 0 {
		for _, end := range e.cutter.ends {
			_ = end.CloseWithError(0, "cut")
		}
	}
	if e.cutter.isCut() {
		return fmt.Errorf("write: %w", io.ErrUnexpectedEOF)
	}
	return e.told(e.Conn.WriteFrame(ctx, t, payload...))
}

func (e cutEnd) ReadFrame(ctx context.Context) (netproto.Frame, error) {
	f, err := e.Conn.ReadFrame(ctx)
	return f, e.told(err)
}

func (e cutEnd) told(err error) error {
	if err != nil && e.cutter.isCut() {
		return fmt.Errorf("line: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// cutAfter connects two ends whose line is cut after so many frames; 0: never.
func cutAfter(t fataler, frames int) (a, b transfer.Conn) {
	t.Helper()
	near, far := pipe(t)
	if frames == 0 {
		return near, far
	}
	c := &cutter{ends: [2]*netproto.Conn{near, far}}
	c.left.Store(int64(frames))
	return cutEnd{near, c}, cutEnd{far, c}
}

// attempts runs a transfer again from where it was cut, and returns what the last
// attempt came to, the content that was sent in all, and that which was sent again.
func attempts(t fataler, cuts []int, send transfer.SendSpec, sink transfer.SinkSpec, receive transfer.ReceiveSpec) (o outcome, sent, again int64) {
	t.Helper()
	send.Root = key.NewRoot(manifest.Geometry{Size: send.Size})
	receive.Root = key.NewRoot(manifest.Geometry{Size: send.Size})
	for i, frames := range append(slices.Clone(cuts), 0) {
		receive.Resumed = i > 0
		a, b := cutAfter(t, frames)
		o = run(context.Background(), a, b, send, sink, receive)
		if o.send.Sinks == nil {
			t.Fatalf("the sender says %v", o.sendErr)
		}
		sent += o.send.Sinks[0].Counters.Sent
		again += o.send.Sinks[0].Counters.Resent
		sink.Sent = o.send.Sinks[0].Sent
		if o.sendErr == nil && o.send.Sinks[0].Err == nil && o.recvErr == nil {
			return o, sent, again
		}
		for _, err := range []error{o.sendErr, o.recvErr} {
			if err != nil && !errors.Is(err, transfer.ErrCut) {
				t.Fatalf("a cut is told as %v", err)
			}
		}
		if o.sendErr == nil {
			// The sender had its answer, and only its farewell was lost.
			if !o.receive.Agreed {
				t.Fatalf("the sender is content, the receiver says %v", o.recvErr)
			}
			return o, sent, again
		}
		if s, r := o.send.Sinks[0].Watermark, o.receive.Watermark; s > r || s < sink.Start || r < receive.Start {
			t.Fatalf("the sender would go on at extent %d, the receiver at %d; before they did at %d and %d", s, r, sink.Start, receive.Start)
		}
		sink.Start, receive.Start = o.send.Sinks[0].Watermark, o.receive.Watermark
	}
	t.Fatalf("a line without a cut failed: %v", o.err())
	return o, sent, again
}

// TestCutsProperty: wherever the line is cut, and however often, the attempts that
// follow complete the target, the records of all attempts compose to the source's
// manifest, and both ends know the root of the whole.
func TestCutsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source, target := drawDisks(t)
		mode := rapid.SampledFrom([]string{"scan", "trusted", "zero"}).Draw(t, "mode")
		if mode == "zero" {
			clear(target)
		}
		base := knownOf(target)
		var sent, received journal
		send := transfer.SendSpec{Source: memory(t, source), Size: int64(len(source)), Key: key, Known: base.extents}
		sink := transfer.SinkSpec{Records: sent.take}
		device := memory(t, target)
		receive := transfer.ReceiveSpec{Target: device, Size: send.Size, Key: key}
		switch mode {
		case "scan":
			receive.Known, receive.Records = base.extents, received.take
		case "trusted":
			sink.Trusted, receive.Trusted = base, true
		case "zero":
			sink.Trusted, receive.Trusted = transfer.ZeroBaseline(key, send.Size), true
		}
		o, _, _ := attempts(t, rapid.SliceOfN(rapid.IntRange(1, 40), 0, 4).Draw(t, "cuts"), send, sink, receive)
		if !bytes.Equal(content(t, device), source) {
			t.Fatalf("the target differs from the source")
		}
		root, _, _ := manifestOf(source)
		if o.send.Root != root || sent.compose(base.extents, len(source)) != root {
			t.Fatalf("the sender's root or its records are not those of the source")
		}
		if mode == "scan" && (o.receive.Root != root || received.compose(base.extents, len(source)) != root) {
			t.Fatalf("the receiver's root or its records are not those of the source")
		}
	})
}

// TestCutResendsLittle: a cut costs no more than what one acknowledgement covers,
// in every mode, and what was written but not acknowledged is not sent again.
func TestCutResendsLittle(t *testing.T) {
	const size = 20 * manifest.ExtentSize
	source := random(size, 1)
	old := slices.Clone(source)
	r := rand.New(rand.NewPCG(1, 2))
	differ := int64(0)
	for off := 0; off < size; off += manifest.BlockSize {
		if r.IntN(4) == 0 {
			for part := 0; part < manifest.BlockSize; part += 4 << 10 { // every one
				old[off+part] ^= 0x5a
			}
			differ += manifest.BlockSize
		}
	}
	for name, c := range map[string]struct {
		target  []byte
		differ  int64
		trusted bool
	}{
		"scan":          {target: old, differ: differ},
		"trusted":       {target: old, differ: differ, trusted: true},
		"trusted, full": {target: make([]byte, size), differ: size, trusted: true},
	} {
		t.Run(name, func(t *testing.T) {
			device := memory(t, c.target)
			sink, receive := transfer.SinkSpec{}, transfer.ReceiveSpec{Target: device, Size: size, Key: key, Trusted: c.trusted}
			if c.trusted {
				sink.Trusted = knownOf(c.target)
			}
			send := transfer.SendSpec{Source: memory(t, source), Size: size, Key: key, Tuning: transfer.Tuning{Parts: transfer.PartsOff}}
			_, sent, again := attempts(t, []int{42, 58, 75}, send, sink, receive)
			if !bytes.Equal(content(t, device), source) {
				t.Fatal("the target differs from the source")
			}
			// Of what the line held at a cut the receiver may have written nothing.
			if again != sent-c.differ {
				t.Errorf("%d bytes are counted as sent again, of %d that differ %d were sent", again, c.differ, sent)
			}
			if again > 3*netproto.DefaultWindow {
				t.Errorf("%d bytes were sent again after three cuts; a window holds %d", again, netproto.DefaultWindow)
			}
		})
	}
}

// TestStartIsChecked: a sender may not skip what its sink does not know to be
// durable, nor start beyond the end.
func TestStartIsChecked(t *testing.T) {
	source := random(4*manifest.ExtentSize, 1)
	target := blockio.NewMemory(int64(len(source)))
	for _, c := range []struct{ send, receive uint32 }{{3, 2}, {5, 5}} {
		a, b := pipe(t)
		o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, source), Size: target.Size(), Key: key}, transfer.SinkSpec{Start: c.send},
			transfer.ReceiveSpec{Target: target, Size: target.Size(), Key: key, Start: c.receive})
		if !errors.Is(o.recvErr, transfer.ErrTask) || !manifest.IsZero(target.Bytes()) {
			t.Errorf("start %d at a sink that is durable below %d: %v", c.send, c.receive, o.recvErr)
		}
	}
}

// TestStartWithoutRoot: a process that knows nothing of the extents before the
// start moves the rest, and claims no root.
func TestStartWithoutRoot(t *testing.T) {
	source := random(6*manifest.ExtentSize+5, 1)
	for _, start := range []uint32{3, 7} {
		target := blockio.NewMemory(int64(len(source)))
		copy(target.Bytes(), source[:min(int(start)*manifest.ExtentSize, len(source))])
		scrambled := slices.Clone(source)
		clear(scrambled[:manifest.ExtentSize]) // below the start nobody looks
		var j journal
		j.watermark = start
		a, b := pipe(t)
		o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, scrambled), Size: target.Size(), Key: key}, transfer.SinkSpec{Start: start, Records: j.take},
			transfer.ReceiveSpec{Target: target, Size: target.Size(), Key: key, Start: start})
		if err := o.err(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(target.Bytes(), source) {
			t.Error("the target differs from the source")
		}
		c := o.send.Sinks[0].Counters
		if rest := max(0, int64(len(source))-int64(start)*manifest.ExtentSize); c.Same+c.Sent != rest || c.Processed != int64(len(source)) || c.Size != int64(len(source)) {
			t.Errorf("the counters are %+v, for %d bytes from the start on", c, rest)
		}
		if o.send.Root != (manifest.Digest{}) || o.receive.Root != (manifest.Digest{}) {
			t.Error("a root of a part is claimed")
		}
		if j.watermark != 7 || len(j.records) != int(7-start) {
			t.Errorf("watermark %d, %d records", j.watermark, len(j.records))
		}
	}
}

// TestSinksAtDifferentStarts: sinks of one send go on each from its own watermark.
func TestSinksAtDifferentStarts(t *testing.T) {
	source := random(6*manifest.ExtentSize, 1)
	spec := transfer.SendSpec{Source: memory(t, source), Size: int64(len(source)), Key: key}
	var receivers sync.WaitGroup
	starts := []uint32{4, 2, 6}
	targets := make([]*blockio.Memory, len(starts))
	errs := make([]error, len(starts))
	for i, start := range starts {
		a, b := pipe(t)
		targets[i] = blockio.NewMemory(spec.Size)
		copy(targets[i].Bytes(), source[:start*manifest.ExtentSize])
		spec.Sinks = append(spec.Sinks, transfer.SinkSpec{Conn: a, Task: task, Start: start})
		receivers.Go(func() {
			_, errs[i] = transfer.Receive(t.Context(), transfer.ReceiveSpec{Conn: b, Task: task, Target: targets[i], Size: spec.Size, Key: key, Start: start})
		})
	}
	result, err := transfer.Send(t.Context(), spec)
	receivers.Wait()
	if err := errors.Join(append(errs, err)...); err != nil {
		t.Fatal(err)
	}
	for i, target := range targets {
		if !bytes.Equal(target.Bytes(), source) || result.Sinks[i].Err != nil || result.Sinks[i].Watermark != 6 {
			t.Errorf("sink %d: %v, equal: %v, watermark %d", i, result.Sinks[i].Err, bytes.Equal(target.Bytes(), source), result.Sinks[i].Watermark)
		}
	}
}
