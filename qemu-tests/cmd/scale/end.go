package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
	"github.com/understudy-dr/understudy/qemu-tests/synthetic"
	"github.com/understudy-dr/understudy/transfer"
)

const (
	memoryLimit = 80 << 20 // as the delegate sets it
	buffers     = 56 << 20 // which the delegate gives to buffers and extent digests together
	task        = "scale"
)

// end is one end of the transfer, told what to do on standard input.
func end(ctx context.Context) error {
	debug.SetMemoryLimit(memoryLimit)
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return err
	}
	key, err := manifest.ParseKey(bytes.Repeat([]byte{7}, manifest.KeySize))
	if err != nil {
		return err
	}
	id, err := netproto.ParseIdentity(o.Seed)
	if err != nil {
		return err
	}
	var result outcome
	if o.Role == "receiver" {
		result, err = receive(ctx, o, key, id)
	} else {
		result, err = send(ctx, o, key, id)
	}
	if err != nil {
		return err
	}
	result.PeakRSS, err = peakRSS()
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(result))
}

// tuning leaves room for extent digests and maps, as the delegate does.
func tuning(tables int64) transfer.Tuning {
	return transfer.Tuning{Memory: min(transfer.DefaultMemory, buffers-tables)}
}

func (o order) tableBytes() int64 {
	return int64(manifest.Geometry{Size: o.Size}.Extents()) * int64(len(manifest.Digest{}))
}

func (o order) mapBytes() int64 { return o.Size / blockio.AllocationUnit / 8 }

func receive(ctx context.Context, o order, key manifest.Key, id *netproto.Identity) (result outcome, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return result, err
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	if err := json.NewEncoder(os.Stdout).Encode(l.Addr().String()); err != nil {
		return result, err
	}
	socket, err := l.Accept()
	if err != nil {
		return result, err
	}
	config := id.ServerTLS(func(f netproto.Fingerprint) bool { return f == o.Peer }, netproto.ALPN)
	conn, err := netproto.Server(ctx, tls.Server(netproto.Meter(socket), config), netproto.Options{})
	if err != nil {
		return result, err
	}
	target, err := synthetic.New(o.content(0), o.Folder)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	spec := transfer.ReceiveSpec{Conn: conn, Task: task, Target: target, Size: o.Size, Key: key, Trusted: o.Trusted, Tuning: tuning(0)}
	if o.Hinted && !o.Trusted {
		allocated, err := blockio.Allocation(target)
		if err != nil {
			return result, err
		}
		spec.Hint, spec.Tuning = &transfer.Hint{Allocated: allocated}, tuning(o.mapBytes())
	}
	start := time.Now()
	received, err := transfer.Receive(ctx, spec)
	if err != nil {
		return result, err
	}
	return outcomeOf(received.Counters, start), nil
}

func outcomeOf(c transfer.Counters, start time.Time) outcome {
	return outcome{Wall: time.Since(start).Seconds(), Read: c.Read, Assumed: c.Assumed, Sent: c.Sent, Wire: c.Wire}
}

func send(ctx context.Context, o order, key manifest.Key, id *netproto.Identity) (result outcome, err error) {
	content := o.content(o.Changed)
	source, err := synthetic.New(content, o.Folder)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	expected, err := rootOf(synthetic.NewBaseline(content, key), o.Size, key)
	if err != nil {
		return result, err
	}
	base := synthetic.NewBaseline(o.content(0), key)
	journal, err := newJournal(o.Folder)
	if err != nil {
		return result, err
	}
	defer journal.file.Close()
	sink := transfer.SinkSpec{Task: task, Records: journal.take, Progress: new(transfer.Progress)}
	spec := transfer.SendSpec{
		Source: source, Size: o.Size, Key: key, Known: base.Extents(), Tuning: tuning(o.tableBytes()), Progress: sink.Progress,
	}
	if o.Trusted {
		sink.Trusted = base
	}
	if o.Hinted {
		spec.Hint, spec.Tuning = new(transfer.Hint), tuning(o.tableBytes()+o.mapBytes())
		if o.Trusted {
			spec.Hint.Changed, spec.Hint.Base = content.Changes(), base
		} else if spec.Hint.Allocated, err = blockio.Allocation(source); err != nil {
			return result, err
		}
	}
	start := time.Now()
	if sink.Conn, err = netproto.Dial(ctx, o.Address, id, o.Peer, netproto.Options{}); err != nil {
		return result, err
	}
	spec.Sinks = []transfer.SinkSpec{sink}
	sent, err := transfer.Send(ctx, spec)
	if err = errors.Join(err, sent.Hint.Disabled); err == nil {
		err = sent.Sinks[0].Err
	}
	if err != nil {
		return result, err
	}
	result = outcomeOf(sink.Progress.Snapshot(), start)
	result.Journal, result.Root, result.Expected = journal.bytes, sent.Root.String(), expected.String()
	return result, nil
}

func rootOf(b *synthetic.Baseline, size int64, key manifest.Key) (manifest.Digest, error) {
	root := key.NewRoot(manifest.Geometry{Size: size})
	for _, d := range b.Extents() {
		root.Add(d)
	}
	return root.Sum()
}

// journal is a file of records.
type journal struct {
	file  *os.File
	bytes int64
	buf   []byte
}

func newJournal(folder string) (*journal, error) {
	f, err := os.CreateTemp(folder, "scale-journal-*")
	if err != nil {
		return nil, err
	}
	return &journal{file: f}, os.Remove(f.Name())
}

func (j *journal) take(_ context.Context, _ uint32, records []manifest.Record) error {
	j.buf = j.buf[:0]
	for _, r := range records {
		j.buf = manifest.AppendRecord(j.buf, r)
	}
	j.bytes += int64(len(j.buf))
	_, err := j.file.Write(j.buf)
	return err
}

// peakRSS is VmHWM of this process in bytes (proc_pid_status(5)).
func peakRSS() (int64, error) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the kernel does not tell VmHWM")
}
