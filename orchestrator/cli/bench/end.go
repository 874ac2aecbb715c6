package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/transfer"
)

const task = "bench"

// End is one end of the transfer, in a process of its own: it takes its order from stdin and answers on stdout, with its failure
// too. It stops when stdin ends, and returns only then. The error is of the talk with the parent.
func End(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	in, out := decoder(stdin), json.NewEncoder(stdout)
	var o order
	if err := in.Decode(&o); err != nil {
		return fmt.Errorf("bench: reading the order: %w", err)
	}
	started, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with stdin
		defer close(ended)
		if in.Decode(&start{}) == nil {
			close(started)
			_, _ = io.Copy(io.Discard, stdin)
		}
		stop(errors.New("the parent process has gone"))
	}()
	r, err := work(ctx, o, started, out)
	a := answer{Result: r}
	if err != nil {
		a = answer{Error: err.Error()}
	}
	err = out.Encode(a)
	<-ended
	return err
}

func work(ctx context.Context, o order, started <-chan struct{}, out *json.Encoder) (*result, error) {
	key, err := manifest.ParseKey(o.Key)
	if err != nil {
		return nil, err
	}
	identity, err := netproto.ParseIdentity(o.Seed)
	if err != nil {
		return nil, err
	}
	device, err := open(o.Path, o.Role == sender, o.Buffered)
	if err != nil {
		return nil, err
	}
	disk := blockio.NewMeter(device)
	defer disk.Close() //nolint:errcheck // closed below with its error, unless another one counts
	var r *result
	if o.Role == sender {
		r, err = send(ctx, o, disk, key, identity, started, out)
	} else {
		r, err = receive(ctx, o, disk, key, identity, out)
	}
	if err != nil {
		return nil, err
	}
	if err := disk.Close(); err != nil {
		return nil, fmt.Errorf("closing %s: %w", o.Path, err)
	}
	r.ReadBytes, r.PeakRSS = disk.Counters().ReadBytes, peakRSS()
	return r, nil
}

// open opens an image or device; the error for a file system without direct I/O names the way out.
func open(path string, readOnly, buffered bool) (blockio.Device, error) {
	device, err := blockio.Open(path, blockio.Options{ReadOnly: readOnly, Buffered: buffered})
	if errors.Is(err, blockio.ErrDirectUnsupported) {
		return nil, fmt.Errorf("%w: use a file system on a disk, or give --buffered", err)
	}
	return device, err
}

func send(ctx context.Context, o order, disk *blockio.Meter, key manifest.Key, id *netproto.Identity, started <-chan struct{}, out *json.Encoder) (*result, error) {
	trusted, closeManifest, err := baseline(o, key)
	if err != nil {
		return nil, err
	}
	defer closeManifest()
	if err := out.Encode(answer{}); err != nil {
		return nil, err
	}
	select {
	case <-started:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	conn, err := netproto.Dial(ctx, o.Address, id, o.Peer, netproto.Options{Software: task})
	if err != nil {
		return nil, err
	}
	hint, err := holes(disk, o.Size)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	progress := new(transfer.Progress) // of reading and of the one sink
	sent, err := transfer.Send(ctx, transfer.SendSpec{
		Source: disk, Size: o.Size, Key: key, Hint: hint, Tuning: o.Tuning, Progress: progress,
		Sinks: []transfer.SinkSpec{{Conn: conn, Task: task, Trusted: trusted, Progress: progress}},
	})
	if err != nil {
		return nil, err
	}
	sink := sent.Sinks[0]
	return measured(progress.Snapshot(), sink.Result), sink.Err
}

// baseline is what a trusted sender knows of the target; nil when it is to scan itself.
func baseline(o order, key manifest.Key) (transfer.Baseline, func(), error) {
	if !o.Trusted {
		return nil, func() {}, nil
	}
	f, err := os.Open(o.Manifest)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	view, err := manifest.Open(f, info.Size())
	if err == nil {
		err = view.Verify(key)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("the target's manifest: %w", err), f.Close())
	}
	return transfer.ViewBaseline(view), func() { _ = f.Close() }, nil
}

func receive(ctx context.Context, o order, disk *blockio.Meter, key manifest.Key, id *netproto.Identity, out *json.Encoder) (*result, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	if err := out.Encode(answer{Address: listener.Addr().String()}); err != nil {
		return nil, err
	}
	socket, err := listener.Accept()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	} else if err != nil {
		return nil, err
	}
	allowed := func(f netproto.Fingerprint) bool { return f == o.Peer }
	conn, err := netproto.Server(ctx, tls.Server(netproto.Meter(socket), id.ServerTLS(allowed, netproto.ALPN)), netproto.Options{Software: task})
	if err != nil {
		return nil, err
	}
	spec := transfer.ReceiveSpec{Conn: conn, Task: task, Target: disk, Size: o.Size, Key: key, Trusted: o.Trusted, Tuning: o.Tuning}
	if !o.Trusted {
		if spec.Hint, err = holes(disk, o.Size); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	received, err := transfer.Receive(ctx, spec)
	return measured(received.Counters, received.Result), err
}

// holes spares reading what a file has no blocks for; nil where there is nothing to spare.
func holes(disk *blockio.Meter, size int64) (*transfer.Hint, error) {
	allocated, err := disk.Allocation()
	if err != nil {
		return nil, err
	}
	if allocated = allocated.Resize(size); allocated.Bytes() == size {
		return nil, nil
	}
	return &transfer.Hint{Allocated: allocated}, nil
}

func measured(c transfer.Counters, digest manifest.Digest) *result {
	return &result{Counters: c, WireBytes: c.Wire, Digest: digest.String()}
}

// peakRSS is VmHWM of this process in bytes (proc_pid_status(5)). ru_maxrss would not do: a process that another one starts
// inherits the starter's peak in it.
func peakRSS() int64 {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64) // the kernel's own format
			return kib << 10
		}
	}
	return 0
}
