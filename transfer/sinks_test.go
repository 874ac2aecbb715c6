package transfer_test

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/transfer"
)

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
	if got.Root != root || len(j.records) != 1 || j.records[0].Extent != 2 || !slices.Equal(j.records[0].Blocks, blocks[2]) {
		t.Errorf("root %v, want %v; records %v", got, root, j.records)
	}
}
