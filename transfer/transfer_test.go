package transfer_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const task = "disk 0 of a test"

var key = func() manifest.Key {
	k, err := manifest.ParseKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		panic(err)
	}
	return k
}()

// fataler is what *testing.T and *rapid.T have in common.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// memory is a device with the given content.
func memory(t fataler, content []byte) *blockio.Memory {
	t.Helper()
	m := blockio.NewMemory(int64(len(content)))
	if _, err := m.WriteAt(content, 0); err != nil {
		t.Fatalf("fill the device: %v", err)
	}
	return m
}

func content(t fataler, d blockio.Device) []byte {
	t.Helper()
	p := make([]byte, d.Size())
	if _, err := d.ReadAt(p, 0); err != nil {
		t.Fatalf("read the device: %v", err)
	}
	return p
}

// extentDigests builds a disk's manifest without the engine.
func manifestOf(p []byte) (root manifest.Digest, extents []manifest.Digest, blocks [][]manifest.Digest) {
	g := manifest.Geometry{Size: int64(len(p))}
	h := key.NewHasher()
	r := key.NewRoot(g)
	for e := range g.Extents() {
		var list []manifest.Digest
		for b := range g.BlocksIn(e) {
			off, n := g.BlockRange(e*manifest.BlocksPerExtent + uint32(b))
			list = append(list, h.Block(p[off:off+int64(n)]))
		}
		blocks = append(blocks, list)
		extents = append(extents, h.Extent(list))
		r.Add(extents[e])
	}
	root, err := r.Sum()
	if err != nil {
		panic(err)
	}
	return root, extents, blocks
}

// known is a Baseline of a manifest at hand.
type known struct {
	extents []manifest.Digest
	blocks  [][]manifest.Digest
}

func knownOf(p []byte) *known {
	_, extents, blocks := manifestOf(p)
	return &known{extents, blocks}
}

func (k *known) Extents() []manifest.Digest { return k.extents }
func (k *known) Prefetch(...uint32)         {}
func (k *known) Blocks(_ context.Context, e uint32) ([]manifest.Digest, error) {
	return k.blocks[e], nil
}

// journal gathers what a RecordFunc is given.
type journal struct {
	mu        sync.Mutex
	watermark uint32
	records   []manifest.Record
}

func (j *journal) take(_ context.Context, watermark uint32, records []manifest.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range records {
		if r.Extent < j.watermark || r.Extent >= watermark {
			return fmt.Errorf("extent %d between watermarks %d and %d", r.Extent, j.watermark, watermark)
		}
	}
	j.watermark = watermark
	j.records = append(j.records, records...)
	return nil
}

// compose applies a journal to a manifest.
func (j *journal) compose(base []manifest.Digest, size int) manifest.Digest {
	extents := make([]manifest.Digest, manifest.Geometry{Size: int64(size)}.Extents())
	copy(extents, base)
	h := key.NewHasher()
	for _, r := range j.records {
		extents[r.Extent] = h.Extent(r.Blocks)
	}
	root := key.NewRoot(manifest.Geometry{Size: int64(size)})
	for _, d := range extents {
		root.Add(d)
	}
	sum, err := root.Sum()
	if err != nil {
		panic(err)
	}
	return sum
}

// pipe connects two ends in memory.
func pipe(t fataler) (a, b *netproto.Conn) {
	t.Helper()
	a, b, err := netproto.Pipe(netproto.Options{})
	if err != nil {
		t.Fatalf("pipe: %v", err)
	}
	return a, b
}

// loopback connects two ends over TCP and TLS.
func loopback(t testing.TB, o netproto.Options) (a, b *netproto.Conn) {
	t.Helper()
	a, b, _ = loopbackThrough(t, o)
	return a, b
}

// line is a socket that can stop passing bytes without closing. Deadlines go on.
type line struct {
	net.Conn
	frozen atomic.Bool
}

func (l *line) freeze() { l.frozen.Store(true) }

func (l *line) Read(p []byte) (int, error) {
	for {
		n, err := l.Conn.Read(p)
		if err != nil || !l.frozen.Load() {
			return n, err
		}
	}
}

func (l *line) Write(p []byte) (int, error) {
	if l.frozen.Load() {
		return len(p), nil // into the void
	}
	return l.Conn.Write(p)
}

// loopbackThrough also returns the listener's socket, which can be frozen.
func loopbackThrough(t testing.TB, o netproto.Options) (a, b *netproto.Conn, through *line) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, far := identity(t), identity(t)
	var group errgroup.Group
	group.Go(func() error {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		through = &line{Conn: c}
		tlsConn := tls.Server(netproto.Meter(through), far.ServerTLS(func(f netproto.Fingerprint) bool { return f == near.Fingerprint() }, netproto.ALPN))
		b, err = netproto.Server(t.Context(), tlsConn, o)
		return err
	})
	a, err = netproto.Dial(t.Context(), l.Addr().String(), near, far.Fingerprint(), o)
	if err := errors.Join(err, group.Wait()); err != nil {
		t.Fatal(err)
	}
	return a, b, through
}

func identity(t testing.TB) *netproto.Identity {
	t.Helper()
	id, err := netproto.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// outcome of one transfer between two ends.
type outcome struct {
	send    transfer.SendResult
	receive transfer.ReceiveResult
	sendErr error
	recvErr error
}

func (o outcome) err() error { return errors.Join(o.sendErr, o.recvErr) }

// run sends to one sink over the given connection.
func run(ctx context.Context, a, b transfer.Conn, send transfer.SendSpec, sink transfer.SinkSpec, receive transfer.ReceiveSpec) (o outcome) {
	sink.Conn, receive.Conn = a, b
	if sink.Task == "" {
		sink.Task = task
	}
	if receive.Task == "" {
		receive.Task = task
	}
	send.Sinks = []transfer.SinkSpec{sink}
	var both sync.WaitGroup
	both.Go(func() { o.send, o.sendErr = transfer.Send(ctx, send) })
	both.Go(func() { o.receive, o.recvErr = transfer.Receive(ctx, receive) })
	both.Wait()
	return o
}

// drawDisk draws a disk's size and the contents of a source and a target that
// share some of their blocks, at the same places and elsewhere.
func drawDisks(t *rapid.T) (source, target []byte) {
	size := rapid.IntRange(1, manifest.ExtentSize*3/2).Draw(t, "size")
	if rapid.Bool().Draw(t, "whole blocks") {
		size = max(1, size/manifest.BlockSize) * manifest.BlockSize
	}
	rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	kinds := rapid.IntRange(1, 12).Draw(t, "kinds of blocks")
	fill := func(p []byte) {
		for off := 0; off < len(p); off += manifest.BlockSize {
			block := p[off:min(off+manifest.BlockSize, len(p))]
			switch kind := rnd.IntN(kinds + 2); {
			case kind == 0: // stays zero
			case kind <= kinds:
				r := rand.New(rand.NewPCG(uint64(kind), 2))
				for i := range block {
					block[i] = byte(r.Uint32() >> uint(kind%8))
				}
			default:
				for i := range block {
					block[i] = byte(rnd.Uint32())
				}
			}
		}
	}
	source, target = make([]byte, size), make([]byte, size)
	fill(source)
	fill(target)
	for off := 0; off < size; off += manifest.BlockSize {
		block := target[off:min(off+manifest.BlockSize, size)]
		switch rnd.IntN(4) {
		case 0:
		case 1: // some of its bytes differ
			copy(block, source[off:])
			for range rnd.IntN(12) {
				block[rnd.IntN(len(block))] ^= byte(1 + rnd.IntN(255))
			}
		default:
			copy(block, source[off:])
		}
	}
	return source, target
}

// TestTransferProperty: whatever the disks hold and however the baseline is
// known, the target becomes the source, the counters add up, and both ends'
// records compose to the source's manifest.
func TestTransferProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source, target := drawDisks(t)
		mode := rapid.SampledFrom([]string{"scan", "trusted", "zero"}).Draw(t, "mode")
		if mode == "zero" {
			clear(target)
		}
		base := knownOf(target)
		var sent, received journal
		send := transfer.SendSpec{
			Source: memory(t, source), Size: int64(len(source)), Key: key, Known: base.extents,
			Tuning: transfer.Tuning{Compression: rapid.SampledFrom([]transfer.Compression{"", "on", "off"}).Draw(t, "compression"),
				Parts: rapid.SampledFrom([]transfer.Parts{"", "on", "off"}).Draw(t, "parts")},
		}
		sink := transfer.SinkSpec{Records: sent.take}
		device := memory(t, append(slices.Clone(target), 1, 2, 3))
		receive := transfer.ReceiveSpec{Target: device, Size: send.Size, Key: key}
		switch mode {
		case "scan":
			receive.Known, receive.Records = base.extents, received.take
		case "trusted":
			sink.Trusted, receive.Trusted = base, true
		case "zero":
			sink.Trusted, receive.Trusted = transfer.ZeroBaseline(key, send.Size), true
		}
		a, b := pipe(t)
		o := run(context.Background(), a, b, send, sink, receive)
		if err := o.err(); err != nil {
			t.Fatalf("transfer: %v", err)
		}
		if got := content(t, device); !bytes.Equal(got[:len(source)], source) || !bytes.Equal(got[len(source):], []byte{1, 2, 3}) {
			t.Fatalf("the target differs from the source, or was written beyond the logical size")
		}
		root, extents, _ := manifestOf(source)
		if o.send.Root != root {
			t.Fatalf("the sender's root is %v, want %v", o.send.Root, root)
		}
		if got := sent.compose(base.extents, len(source)); got != root {
			t.Fatalf("the sender's records compose to %v, want %v", got, root)
		}
		if mode == "scan" {
			if o.receive.Root != root {
				t.Fatalf("the receiver's root is %v, want %v", o.receive.Root, root)
			}
			if diff := cmp.Diff(sent.records, received.records); diff != "" {
				t.Fatalf("the ends report different records (-sender +receiver):\n%s", diff)
			}
		}
		for _, r := range sent.records {
			if extents[r.Extent] == base.extents[r.Extent] {
				t.Fatalf("extent %d is reported and did not change", r.Extent)
			}
		}
		c := o.send.Sinks[0].Counters
		if got := c.Same + c.Zero + c.Copied + c.Sent + c.Spared; got != send.Size || c.Processed != send.Size {
			t.Fatalf("the verdicts add up to %d, processed are %d of %d", got, c.Processed, send.Size)
		}
		if o.send.Sinks[0].Result != o.receive.Result {
			t.Fatalf("RESULT differs between the ends")
		}
	})
}

func TestOverTLS(t *testing.T) {
	source := random(9*manifest.ExtentSize+12345, 1)
	target := slices.Clone(source)
	copy(target[5*manifest.ExtentSize:], random(3*manifest.ExtentSize, 2))
	for name, trusted := range map[string]bool{"scan": false, "trusted": true} {
		t.Run(name, func(t *testing.T) {
			a, b := loopback(t, netproto.Options{})
			device := memory(t, target)
			sink, receive := transfer.SinkSpec{}, transfer.ReceiveSpec{Target: device, Size: int64(len(source)), Key: key}
			if trusted {
				sink.Trusted, receive.Trusted = knownOf(target), true
			}
			o := run(t.Context(), a, b, transfer.SendSpec{Source: memory(t, source), Size: int64(len(source)), Key: key}, sink, receive)
			if err := o.err(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(content(t, device), source) {
				t.Fatal("the target differs from the source")
			}
			c := o.send.Sinks[0].Counters
			if want := int64(3 * manifest.ExtentSize); c.Sent != want {
				t.Errorf("%d bytes of content were sent, want %d", c.Sent, want)
			}
			if c.Wire < c.Sent || c.Wire > c.Sent+c.Sent/100 {
				t.Errorf("%d bytes on the wire for %d that do not compress", c.Wire, c.Sent)
			}
		})
	}
}

func random(size int, seed uint64) []byte {
	p := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(p)
	return p
}

// TestWireOfUnchanged: what an unchanged disk costs on the wire.
func TestWireOfUnchanged(t *testing.T) {
	const extents = 512
	source := sparse{size: extents * manifest.ExtentSize}
	for name, c := range map[string]struct {
		trusted bool
		limit   int64
	}{
		"scan":    {false, 40*extents + 8<<10}, // handshakes besides
		"trusted": {true, 8 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := loopback(t, netproto.Options{})
			sink, receive := transfer.SinkSpec{}, transfer.ReceiveSpec{Target: source, Size: source.size, Key: key, Trusted: c.trusted}
			if c.trusted {
				sink.Trusted = transfer.ZeroBaseline(key, source.size)
			}
			o := run(t.Context(), a, b, transfer.SendSpec{Source: source, Size: source.size, Key: key}, sink, receive)
			if err := o.err(); err != nil {
				t.Fatal(err)
			}
			counters := o.send.Sinks[0].Counters
			if counters.Same != source.size || counters.Wire > c.limit || counters.Wire == 0 {
				t.Errorf("same %d of %d, %d bytes on the wire, at most %d are allowed", counters.Same, source.size, counters.Wire, c.limit)
			}
		})
	}
}

// sparse is a large disk of zeroes that refuses to be written.
type sparse struct {
	blockio.Device
	size int64
}

func (s sparse) Size() int64 { return s.size }
func (s sparse) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}
func (s sparse) Flush() error { return nil }

// TestTimeToCancel: both ends end within a second when one is cancelled.
func TestCancel(t *testing.T) {
	for _, who := range []string{"sender", "receiver"} {
		t.Run(who, func(t *testing.T) {
			size := int64(1 << 40)
			a, b := loopback(t, netproto.Options{})
			ctx, cancel := context.WithCancel(t.Context())
			ctxS, ctxR := t.Context(), t.Context()
			if who == "sender" {
				ctxS = ctx
			} else {
				ctxR = ctx
			}
			var both sync.WaitGroup
			var sendErr, recvErr error
			both.Go(func() {
				_, sendErr = transfer.Send(ctxS, transfer.SendSpec{Source: sparse{size: size}, Size: size, Key: key, Sinks: []transfer.SinkSpec{{Conn: a, Task: task}}})
			})
			both.Go(func() {
				_, recvErr = transfer.Receive(ctxR, transfer.ReceiveSpec{Conn: b, Task: task, Target: sparse{size: size}, Size: size, Key: key})
			})
			time.Sleep(200 * time.Millisecond)
			cancel()
			start := time.Now()
			both.Wait()
			if took := time.Since(start); took > time.Second {
				t.Errorf("it took %v to end", took)
			}
			if sendErr == nil || recvErr == nil {
				t.Errorf("sender: %v, receiver: %v; both must fail", sendErr, recvErr)
			}
		})
	}
}
