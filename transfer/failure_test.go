package transfer_test

import (
	"bytes"
	"context"
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
		"offered digest":     {t: offerType, change: flip(28), want: transfer.ErrMismatch},
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
		return h.Conn.WriteFrame(ctx, 0x17, make([]byte, 32+7*8))
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

// TestSeveralSinks: one read pass feeds several sinks, each with its own
// baseline; one that fails does not hold up the others.
func TestSeveralSinks(t *testing.T) {
	source := random(12*manifest.ExtentSize+777, 1)
	half := slices.Clone(source)
	clear(half[:len(half)/2])
	targets := []*blockio.Memory{memory(t, half), blockio.NewMemory(int64(len(source))), memory(t, half), blockio.NewMemory(int64(len(source)))}
	broken := errors.New("no more room")
	spec := transfer.SendSpec{Source: memory(t, source), Size: int64(len(source)), Key: key}
	var receivers sync.WaitGroup
	errs := make([]error, len(targets))
	for i, target := range targets {
		a, b := pipe(t)
		sink, receive := transfer.SinkSpec{Conn: a, Task: task}, transfer.ReceiveSpec{Conn: b, Task: task, Target: target, Size: spec.Size, Key: key}
		switch i {
		case 1:
			sink.Trusted, receive.Trusted = transfer.ZeroBaseline(key, spec.Size), true
		case 2:
			sink.Trusted, receive.Trusted = knownOf(half), true
		case 3:
			receive.Target = blockio.NewFaulty(target, blockio.Rule{Op: blockio.OpWrite, After: 10, Err: broken})
		}
		spec.Sinks = append(spec.Sinks, sink)
		receivers.Go(func() { _, errs[i] = transfer.Receive(t.Context(), receive) })
	}
	result, err := transfer.Send(t.Context(), spec)
	receivers.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for i, target := range targets[:3] {
		if err := errors.Join(errs[i], result.Sinks[i].Err); err != nil || !bytes.Equal(target.Bytes(), source) {
			t.Errorf("sink %d: %v; equal: %v", i, err, bytes.Equal(target.Bytes(), source))
		}
	}
	if !errors.Is(errs[3], broken) || result.Sinks[3].Err == nil {
		t.Errorf("the broken sink: %v, %v", errs[3], result.Sinks[3].Err)
	}
	if want, _, _ := manifestOf(source); result.Root != want {
		t.Error("the root is wrong")
	}
}

// TestOneRead: however many sinks there are, the source is read once.
func TestOneRead(t *testing.T) {
	source := random(3*manifest.ExtentSize+777, 1)
	meter := blockio.NewMeter(memory(t, source))
	spec := transfer.SendSpec{Source: meter, Size: int64(len(source)), Key: key}
	var receivers sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		a, b := pipe(t)
		spec.Sinks = append(spec.Sinks, transfer.SinkSpec{Conn: a, Task: task})
		receivers.Go(func() {
			_, errs[i] = transfer.Receive(t.Context(), transfer.ReceiveSpec{Conn: b, Task: task, Target: memory(t, source), Size: spec.Size, Key: key})
		})
	}
	_, err := transfer.Send(t.Context(), spec)
	receivers.Wait()
	if err := errors.Join(append(errs, err)...); err != nil {
		t.Fatal(err)
	}
	if read := meter.Counters().ReadBytes; read != spec.Size {
		t.Errorf("%d bytes were read of a disk of %d", read, spec.Size)
	}
}

// TestDuplicatesTravelOnce: content that occurs many times is sent once.
func TestDuplicatesTravelOnce(t *testing.T) {
	block := random(manifest.BlockSize, 1)
	source := bytes.Repeat(block, 3*manifest.BlocksPerExtent)
	target := blockio.NewMemory(int64(len(source)))
	a, b := pipe(t)
	o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, source), Size: target.Size(), Key: key}, transfer.SinkSpec{},
		transfer.ReceiveSpec{Target: target, Size: target.Size(), Key: key})
	if err := o.err(); err != nil {
		t.Fatal(err)
	}
	c := o.send.Sinks[0].Counters
	if !bytes.Equal(target.Bytes(), source) || c.Sent != manifest.BlockSize || c.Copied != target.Size()-manifest.BlockSize {
		t.Errorf("sent %d, copied %d of %d", c.Sent, c.Copied, target.Size())
	}
}

// TestTrustedCopies: the sender knows what unchanged parts of the replica hold,
// though the sink does not scan.
func TestTrustedCopies(t *testing.T) {
	target := random(6*manifest.ExtentSize, 1)
	source := slices.Clone(target)
	copy(source[4*manifest.ExtentSize:], source[:manifest.ExtentSize]) // a file was copied
	device := memory(t, target)
	a, b := pipe(t)
	o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, source), Size: device.Size(), Key: key},
		transfer.SinkSpec{Trusted: knownOf(target)}, transfer.ReceiveSpec{Target: device, Size: device.Size(), Key: key, Trusted: true})
	if err := o.err(); err != nil {
		t.Fatal(err)
	}
	c := o.send.Sinks[0].Counters
	if !bytes.Equal(device.Bytes(), source) || c.Sent != 0 || c.Copied != manifest.ExtentSize {
		t.Errorf("sent %d, copied %d", c.Sent, c.Copied)
	}
	if o.receive.Counters.Read != manifest.ExtentSize {
		t.Errorf("the trusted target read %d bytes, want only those that it copied", o.receive.Counters.Read)
	}
}

func TestCopy(t *testing.T) {
	source := random(5*manifest.ExtentSize+1000, 1)
	root, _, _ := manifestOf(source)
	old := slices.Clone(source)
	clear(old[:manifest.ExtentSize])
	for name, c := range map[string]struct {
		old     []byte
		trusted transfer.Baseline
	}{
		"untrusted": {old, nil},
		"trusted":   {old, knownOf(old)},
		"zero":      {make([]byte, len(source)), transfer.ZeroBaseline(key, int64(len(source)))},
	} {
		t.Run(name, func(t *testing.T) {
			target := memory(t, c.old)
			var j journal
			got, err := transfer.Copy(t.Context(), transfer.CopySpec{
				Source: memory(t, source), Target: target, Size: target.Size(), Key: key, Trusted: c.trusted, Records: j.take,
			})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(target.Bytes(), source) || got.Root != root || j.compose(nil, len(source)) != root {
				t.Error("the copy, its root or its records are wrong")
			}
		})
	}
}

func TestScan(t *testing.T) {
	disk := random(5*manifest.ExtentSize+1000, 1)
	root, extents, blocks := manifestOf(disk)
	stale := slices.Clone(extents)
	stale[2][0] ^= 1
	var j journal
	got, err := transfer.Scan(t.Context(), transfer.ScanSpec{Source: memory(t, disk), Size: int64(len(disk)), Key: key, Known: stale, Records: j.take})
	if err != nil {
		t.Fatal(err)
	}
	if got != root || len(j.records) != 1 || j.records[0].Extent != 2 || !slices.Equal(j.records[0].Blocks, blocks[2]) {
		t.Errorf("root %v, want %v; records %v", got, root, j.records)
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
