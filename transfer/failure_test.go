package transfer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

// TestToldDifferently: ends that were told different things find out before a
// byte is written.
func TestToldDifferently(t *testing.T) {
	source := random(2*manifest.ExtentSize, 1)
	other, err := manifest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*transfer.ReceiveSpec){
		"task":  func(s *transfer.ReceiveSpec) { s.Task = "another" },
		"size":  func(s *transfer.ReceiveSpec) { s.Size-- },
		"key":   func(s *transfer.ReceiveSpec) { s.Key = other },
		"trust": func(s *transfer.ReceiveSpec) { s.Trusted = true },
	} {
		t.Run(name, func(t *testing.T) {
			target := blockio.NewMemory(int64(len(source)))
			a, b := pipe(t)
			receive := transfer.ReceiveSpec{Target: target, Size: int64(len(source)), Key: key}
			change(&receive)
			o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, source), Size: int64(len(source)), Key: key}, transfer.SinkSpec{}, receive)
			if !errors.Is(o.recvErr, transfer.ErrTask) {
				t.Errorf("the receiver says %v, want ErrTask", o.recvErr)
			}
			var remote *netproto.RemoteError
			if !errors.As(o.sendErr, &remote) || remote.Code != transfer.CodeTask {
				t.Errorf("the sender says %v, want the receiver's ErrTask", o.sendErr)
			}
			if !manifest.IsZero(target.Bytes()) {
				t.Error("the target was written")
			}
		})
	}
}

// faults are devices that fail on the way.
func TestDeviceFailures(t *testing.T) {
	source := random(10*manifest.ExtentSize, 1)
	broken := errors.New("the shelf is on fire")
	rule := func(op blockio.Op, r blockio.Rule) *blockio.Rule { r.Op = op; return &r }
	for name, c := range map[string]struct {
		source, target *blockio.Rule
		want           error
		says           string
	}{
		"unreadable source": {source: rule(blockio.OpRead, blockio.Rule{After: 7, Err: broken}), want: broken, says: "read the source"},
		"unreadable target": {target: rule(blockio.OpRead, blockio.Rule{After: 7, Err: broken}), want: broken, says: "scan the target"},
		"full target":       {target: rule(blockio.OpWrite, blockio.Rule{After: 7, Err: unix.ENOSPC}), want: unix.ENOSPC, says: "write the target"},
		"torn write":        {target: rule(blockio.OpWrite, blockio.Rule{After: 7, Torn: 512, Err: broken}), want: broken, says: "write the target"},
		"failing flush":     {target: rule(blockio.OpFlush, blockio.Rule{Err: broken}), want: broken, says: "flush the target"},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := blockio.Device(memory(t, source)), blockio.Device(blockio.NewMemory(int64(len(source))))
			if c.source != nil {
				src = blockio.NewFaulty(src, *c.source)
			}
			if c.target != nil {
				dst = blockio.NewFaulty(dst, *c.target)
			}
			a, b := pipe(t)
			var j journal
			o := run(t.Context(), a, b, transfer.SendSpec{Source: src, Size: src.Size(), Key: key}, transfer.SinkSpec{Records: j.take},
				transfer.ReceiveSpec{Target: dst, Size: src.Size(), Key: key})
			failed, other := o.sendErr, o.recvErr
			if c.target != nil {
				failed, other = other, failed
			}
			if !errors.Is(failed, c.want) || !strings.Contains(failed.Error(), c.says) {
				t.Errorf("error %v, want one that says %q and wraps %v", failed, c.says, c.want)
			}
			var remote *netproto.RemoteError
			if !errors.As(other, &remote) || !strings.Contains(remote.Message, c.want.Error()) {
				t.Errorf("the other end says %v, want the cause", other)
			}
			if name == "failing flush" && (j.watermark != 0 || len(j.records) != 0) {
				t.Errorf("a watermark of %d was reported without a flush", j.watermark)
			}
		})
	}
}

func TestTargetTooSmall(t *testing.T) {
	a, b := pipe(t)
	o := run(t.Context(), a, b, transfer.SendSpec{Source: sparse{size: 1 << 20}, Size: 1 << 20, Key: key}, transfer.SinkSpec{},
		transfer.ReceiveSpec{Target: blockio.NewMemory(1<<20 - 1), Size: 1 << 20, Key: key})
	if !errors.Is(o.recvErr, transfer.ErrTargetTooSmall) || !strings.Contains(o.recvErr.Error(), "grow the target") {
		t.Errorf("the receiver says %v", o.recvErr)
	}
	if o.sendErr == nil {
		t.Error("the sender did not notice")
	}
}

// TestResumeByRerun: a run that broke in the middle leaves a target that the next
// run completes, sending only what is missing.
func TestRerunSendsTheRest(t *testing.T) {
	source := random(20*manifest.ExtentSize, 1)
	target := blockio.NewMemory(int64(len(source)))
	broken := errors.New("cut")
	a, b := pipe(t)
	o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, source), Size: target.Size(), Key: key}, transfer.SinkSpec{},
		transfer.ReceiveSpec{Target: blockio.NewFaulty(target, blockio.Rule{Op: blockio.OpWrite, After: 40, Err: broken}), Size: target.Size(), Key: key})
	if !errors.Is(o.recvErr, broken) {
		t.Fatal(o.recvErr)
	}
	a, b = pipe(t)
	o = run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, source), Size: target.Size(), Key: key}, transfer.SinkSpec{},
		transfer.ReceiveSpec{Target: target, Size: target.Size(), Key: key})
	if err := o.err(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(target.Bytes(), source) {
		t.Error("the target differs")
	}
	if c := o.send.Sinks[0].Counters; c.Sent > target.Size()-40<<20 || c.Same < 40<<20 {
		t.Errorf("sent %d again, kept %d", c.Sent, c.Same)
	}
}

// tamperer changes what passes.
type tamperer struct {
	transfer.Conn
	change func(t netproto.Type, payload []byte) []byte
}

func (c tamperer) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	return c.Conn.WriteFrame(ctx, t, c.change(t, slices.Concat(payload...)))
}

// TestLies: whatever the other end says, wrong content is never written as
// right, and a broken protocol ends the transfer.
func TestLies(t *testing.T) {
	const (
		offerType, passedType, wantType, endType, resultType netproto.Type = 0x12, 0x13, 0x14, 0x16, 0x17
		dataType                                             netproto.Type = 0x80
	)
	flip := func(at int) func([]byte) []byte {
		return func(p []byte) []byte {
			if at < 0 {
				p[len(p)+at] ^= 1
			} else {
				p[at] ^= 1
			}
			return p
		}
	}
	source := random(2*manifest.ExtentSize+1, 1)
	for name, c := range map[string]struct {
		receiver bool // who lies
		t        netproto.Type
		change   func([]byte) []byte
		want     error
	}{
		"content":            {t: dataType, change: flip(-1), want: transfer.ErrMismatch},
		"offered digest":     {t: offerType, change: flip(32), want: transfer.ErrMismatch},
		"END's digest":       {t: endType, change: flip(0), want: transfer.ErrMismatch},
		"RESULT's digest":    {receiver: true, t: resultType, change: flip(0), want: transfer.ErrMismatch},
		"RESULT's counters":  {receiver: true, t: resultType, change: flip(39), want: transfer.ErrProtocol},
		"DATA not asked for": {t: dataType, change: func(p []byte) []byte { clear(p[:4]); return p }, want: transfer.ErrProtocol},
		"short DATA":         {t: dataType, change: func(p []byte) []byte { return p[:len(p)-1] }, want: transfer.ErrProtocol},
		"unknown encoding":   {t: dataType, change: func(p []byte) []byte { p[4] = 9; return p }, want: transfer.ErrProtocol},
		"no zstd":            {t: dataType, change: func(p []byte) []byte { p[4] = 1; return p }, want: transfer.ErrProtocol},
		"offer twice":        {t: offerType, change: func(p []byte) []byte { p[3] = 1; return p }, want: transfer.ErrProtocol},
		"offer beyond":       {t: offerType, change: func(p []byte) []byte { p[0] = 1; return p }, want: transfer.ErrProtocol},
		"PASSED beyond":      {t: passedType, change: func(p []byte) []byte { p[0] = 1; return p }, want: transfer.ErrProtocol},
		"WANT not offered":   {receiver: true, t: wantType, change: func(p []byte) []byte { p[2] = 1; return p }, want: transfer.ErrProtocol},
		"RESULT before END":  {receiver: true, t: wantType, want: transfer.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pipe(t)
			var liar atomic.Bool
			lie := func(conn transfer.Conn) transfer.Conn {
				return tamperer{conn, func(got netproto.Type, p []byte) []byte {
					if got == c.t && c.change != nil {
						liar.Store(true)
						return c.change(p)
					}
					return p
				}}
			}
			sender, receiver := transfer.Conn(a), transfer.Conn(b)
			if c.receiver {
				receiver = lie(receiver)
			} else {
				sender = lie(sender)
			}
			if name == "RESULT before END" {
				receiver = hasty{b}
				liar.Store(true)
			}
			target := blockio.NewMemory(int64(len(source)))
			copy(target.Bytes(), source[:manifest.ExtentSize]) // extent 0 is not offered
			o := run(t.Context(), sender, receiver, transfer.SendSpec{Source: memory(t, source), Size: target.Size(), Key: key},
				transfer.SinkSpec{}, transfer.ReceiveSpec{Target: target, Size: target.Size(), Key: key})
			victim := o.recvErr
			if c.receiver {
				victim = o.sendErr
			}
			if !liar.Load() || !errors.Is(victim, c.want) {
				t.Errorf("told: %v; the victim says %v, want %v", liar.Load(), victim, c.want)
			}
			if o.sendErr == nil || o.recvErr == nil {
				t.Errorf("sender: %v, receiver: %v; both must fail", o.sendErr, o.recvErr)
			}
			for off := 0; off < len(source); off += manifest.BlockSize {
				end := min(off+manifest.BlockSize, len(source))
				got := target.Bytes()[off:end]
				if !manifest.IsZero(got) && !bytes.Equal(got, source[off:end]) {
					t.Fatalf("wrong content was written at %d", off)
				}
			}
		})
	}
}

// hasty answers an offer with RESULT.
type hasty struct{ transfer.Conn }

func (h hasty) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	if t == 0x14 {
		return h.Conn.WriteFrame(ctx, 0x17, make([]byte, 32+8*8))
	}
	return h.Conn.WriteFrame(ctx, t, payload...)
}

// TestLyingManifest: a trusted manifest whose block digests are not those of its
// extent digests is found out.
func TestLyingManifest(t *testing.T) {
	source := random(manifest.ExtentSize, 1)
	base := knownOf(random(manifest.ExtentSize, 2))
	base.blocks = knownOf(source).blocks
	a, b := pipe(t)
	o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, source), Size: int64(len(source)), Key: key},
		transfer.SinkSpec{Trusted: base}, transfer.ReceiveSpec{Target: blockio.NewMemory(int64(len(source))), Size: int64(len(source)), Key: key, Trusted: true})
	if !errors.Is(o.sendErr, transfer.ErrMismatch) {
		t.Errorf("the sender says %v", o.sendErr)
	}
}

// TestHungPeer: when the peer's machine stops in the middle, both ends end after
// the connection's time-out.
func TestHungPeer(t *testing.T) {
	a, b, line := loopbackThrough(t, netproto.Options{Heartbeat: 100 * time.Millisecond, Timeout: 500 * time.Millisecond})
	size := int64(1 << 40)
	var both sync.WaitGroup
	var o outcome
	both.Go(func() {
		o = run(t.Context(), a, b, transfer.SendSpec{Source: sparse{size: size}, Size: size, Key: key}, transfer.SinkSpec{},
			transfer.ReceiveSpec{Target: sparse{size: size}, Size: size, Key: key})
	})
	time.Sleep(200 * time.Millisecond)
	line.freeze()
	start := time.Now()
	both.Wait()
	// The end that gives up second may see the first one's socket close.
	if !errors.Is(o.err(), netproto.ErrPeerSilent) || o.sendErr == nil || o.recvErr == nil {
		t.Errorf("sender: %v, receiver: %v; want ErrPeerSilent", o.sendErr, o.recvErr)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestPeerCloses: a connection that ends early is an unexpected end.
func TestPeerCloses(t *testing.T) {
	a, b := pipe(t)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := transfer.Send(t.Context(), transfer.SendSpec{Source: sparse{size: 1 << 30}, Size: 1 << 30, Key: key, Sinks: []transfer.SinkSpec{{Conn: a, Task: task}}})
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the sender says %v", err)
	}
}

// TestRecordsHoldBack: whoever takes records slowly holds the transfer back; it
// does not fill memory, and cancelling still works.
func TestRecordsHoldBack(t *testing.T) {
	a, b := pipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	taken := make(chan struct{}, 1)
	slow := func(ctx context.Context, _ uint32, _ []manifest.Record) error {
		select {
		case taken <- struct{}{}:
			cancel()
		default:
		}
		<-ctx.Done()
		return ctx.Err()
	}
	size := int64(1 << 40)
	o := run(ctx, a, b, transfer.SendSpec{Source: sparse{size: size}, Size: size, Key: key}, transfer.SinkSpec{Records: slow},
		transfer.ReceiveSpec{Target: sparse{size: size}, Size: size, Key: key})
	if !errors.Is(o.sendErr, context.Canceled) {
		t.Errorf("the sender says %v", o.sendErr)
	}
}

// held keeps DATA back until it is let go, and notes what PASSED said.
type held struct {
	transfer.Conn
	passed atomic.Uint32
	gone   chan struct{}
}

func (h *held) WriteFrame(ctx context.Context, t netproto.Type, payload ...[]byte) error {
	switch t {
	case 0x13:
		h.passed.Store(binary.BigEndian.Uint32(payload[0]))
	case 0x80:
		select {
		case <-h.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return h.Conn.WriteFrame(ctx, t, payload...)
}

// TestRunAhead: while the first extent's data is on a slow line, the comparison
// goes on, but not so far that what is not durable fills memory or locks up the
// receiver's records.
func TestRunAhead(t *testing.T) {
	const extents, runAhead = 1700, 1536
	size := int64(extents) * manifest.ExtentSize
	source := headed{sparse{size: size}, random(manifest.ExtentSize, 1)}
	a, b := pipe(t)
	line := &held{Conn: a, gone: make(chan struct{})}
	var j journal
	var o outcome
	var both sync.WaitGroup
	both.Go(func() {
		o = run(t.Context(), line, b, transfer.SendSpec{Source: source, Size: size, Key: key}, transfer.SinkSpec{},
			transfer.ReceiveSpec{Target: headed{sparse{size: size}, make([]byte, manifest.ExtentSize)}, Size: size, Key: key, Records: j.take})
	})
	// It stands still when PASSED has not moved for a second, and not because this computer is slow.
	deadline := time.Now().Add(2 * time.Minute)
	for last := uint32(0); line.passed.Load() < runAhead/2 || line.passed.Load() > last; time.Sleep(time.Second) {
		if last = line.passed.Load(); time.Now().After(deadline) {
			break
		}
	}
	if passed := line.passed.Load(); passed > runAhead || passed < runAhead/2 {
		t.Errorf("the comparison went %d extents ahead; at most %d may be", passed, runAhead)
	}
	close(line.gone)
	both.Wait()
	if err := o.err(); err != nil {
		t.Fatal(err)
	}
	if j.watermark != extents || len(j.records) != extents {
		t.Errorf("watermark %d and %d records for %d extents", j.watermark, len(j.records), extents)
	}
}

// headed is a sparse disk whose beginning is in memory.
type headed struct {
	sparse
	head []byte
}

func (d headed) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.sparse.ReadAt(p, off)
	if off < int64(len(d.head)) {
		copy(p, d.head[off:])
	}
	return n, err
}

func (d headed) WriteAt(p []byte, off int64) (int, error) { return copy(d.head[off:], p), nil }

// TestPanic: a defect in a stage fails the transfer with its stack, not the
// process.
func TestPanic(t *testing.T) {
	a, b := pipe(t)
	size := int64(8 * manifest.ExtentSize)
	defect := func(context.Context, uint32, []manifest.Record) error { panic("a defect") }
	o := run(t.Context(), a, b, transfer.SendSpec{Source: sparse{size: size}, Size: size, Key: key}, transfer.SinkSpec{Records: defect},
		transfer.ReceiveSpec{Target: sparse{size: size}, Size: size, Key: key})
	if o.sendErr == nil || !strings.Contains(o.sendErr.Error(), "a defect") || !strings.Contains(o.sendErr.Error(), "recorder.go") {
		t.Errorf("the sender says %v", o.sendErr)
	}
}

// TestCopyNamesTheCause: a copy inside one process fails with its own cause, not
// with what one end heard from the other.
func TestCopyNamesTheCause(t *testing.T) {
	source := random(manifest.ExtentSize, 1)
	full := blockio.NewFaulty(blockio.NewMemory(int64(len(source))), blockio.Rule{Op: blockio.OpWrite, Err: unix.ENOSPC})
	_, err := transfer.Copy(t.Context(), transfer.CopySpec{Source: memory(t, source), Target: full, Size: int64(len(source)), Key: key})
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("the copy says %v", err)
	}
}
