package appliance_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/transfer"
)

func scanSpec(id string, key manifest.Key, size int64) control.TaskSpec {
	return control.TaskSpec{ID: id, Kind: control.KindScan, Device: 4, Size: size, KeyID: key.ID()}
}

// A scan reports what differs from the known manifest, and its journal can be read again from any acknowledged place.
func TestScanWithKnown(t *testing.T) {
	d, key := launch(t), newKey(t)
	setKey(t, key, d)
	const count = 5
	old := noise(1, count*manifest.ExtentSize)
	now := slices.Clone(old)
	for _, e := range []int{0, 2, 3} {
		now[e*manifest.ExtentSize+1]++
	}
	d.plug(4, image(t, now))
	known, _ := extents(key, old)
	spec := scanSpec("scan", key, int64(len(now)))
	spec.Known, spec.Records = true, true
	d.post(spec)
	ctx := t.Context()
	if err := d.PutKnown(ctx, "scan", known); err != nil {
		t.Fatal(err)
	}
	status := d.wait("scan")
	d.expectDone(status)
	if want := root(t, key, now); status.Root != want {
		t.Errorf("root is %s, want %s", status.Root, want)
	}

	_, records := extents(key, now)
	var got []uint32
	after := int64(0)
	for end := false; !end; {
		page, err := d.Journal(ctx, "scan", 0, after, within, 1) // one record at a time
		if err != nil || len(page.Records) != 1 || page.Sequence != after+1 {
			t.Fatalf("page after %d is %+v, %v", after, page, err)
		}
		again, err := d.Journal(ctx, "scan", 0, after, within, 1) // not acknowledged: the same once more
		if err != nil || again.Sequence != page.Sequence || again.Records[0].Extent != page.Records[0].Extent {
			t.Fatalf("page after %d again is %+v, %v", after, again, err)
		}
		record := page.Records[0]
		if !slices.Equal(record.Blocks, records[record.Extent].Blocks) {
			t.Errorf("digests of extent %d are wrong", record.Extent)
		}
		// A watermark beyond a record that was not told yet would lose it.
		if next := map[uint32]uint32{0: 2, 2: 3, 3: count}[record.Extent]; page.Watermark > next {
			t.Errorf("watermark is %d with the record of extent %d", page.Watermark, record.Extent)
		}
		got = append(got, record.Extent)
		after, end = page.Sequence, page.End
	}
	if !slices.Equal(got, []uint32{0, 2, 3}) {
		t.Errorf("journal has extents %v, want 0, 2, 3", got)
	}
	_, err := d.Journal(ctx, "scan", 0, 0, 0, 0)
	expectCode(t, err, control.CodeGone)
	_, err = d.Journal(ctx, "scan", 0, 99, 0, 0)
	expectCode(t, err, control.CodeInvalid)
	last, err := d.Journal(ctx, "scan", 0, after, 0, 0)
	if err != nil || len(last.Records) != 0 || !last.End || last.Watermark != count {
		t.Errorf("after the last record: %+v, %v, want the end and watermark %d", last, err, count)
	}
}

// A verify reads what it was told to and names what differs.
func TestVerifySample(t *testing.T) {
	d, key := launch(t), newKey(t)
	setKey(t, key, d)
	content := noise(1, 5*manifest.ExtentSize)
	known, _ := extents(key, content)
	for _, e := range []int{1, 2, 4} {
		content[e*manifest.ExtentSize+1]++
	}
	d.plug(4, image(t, content))
	for first, want := range map[uint32][]uint32{0: {2, 4}, 1: {1}} {
		spec := scanSpec(fmt.Sprintf("verify-%d", first), key, int64(len(content)))
		spec.Kind, spec.Known, spec.Sample = control.KindVerify, true, transfer.Sample{Every: 2, First: first}
		d.post(spec)
		if err := d.PutKnown(t.Context(), spec.ID, spec.Sample.Of(known)); err != nil {
			t.Fatal(err)
		}
		status := d.wait(spec.ID)
		d.expectDone(status)
		if status.Verified == nil || !slices.Equal(status.Verified.Differing, want) || status.Verified.Bytes != status.Counters.Read {
			t.Errorf("sample %d of 2: %+v, read %d; want extents %v", first, status.Verified, status.Counters.Read, want)
		}
	}
}

// A hint spares reading; one that is wrong is told, and costs nothing but time.
func TestScanWithHint(t *testing.T) {
	d, key := launch(t), newKey(t)
	setKey(t, key, d)
	content := make([]byte, 6*manifest.ExtentSize)
	copy(content, noise(1, manifest.ExtentSize))
	content[3*manifest.ExtentSize] = 1
	allocated := blockio.NewAllocationMap(int64(len(content)))
	allocated.Mark(0, manifest.ExtentSize)
	incomplete := allocated.Append(nil)
	allocated.Mark(3*manifest.ExtentSize, 1)
	d.plug(4, image(t, content))
	for i, test := range []struct {
		hint     control.Hint
		read     int64
		disabled bool
	}{
		{control.Hint{Map: allocated.Append(nil), Slice: 5}, 2*manifest.ExtentSize + 1*manifest.BlockSize, false},
		{control.Hint{Map: incomplete, Slice: 3}, int64(len(content)) + manifest.ExtentSize, true},
	} {
		spec := scanSpec(fmt.Sprintf("scan-%d", i), key, int64(len(content)))
		test.hint.Kind, spec.Hint = control.HintAllocated, &test.hint
		d.post(spec)
		d.post(spec) // again, as after a lost answer
		status := d.wait(spec.ID)
		d.expectDone(status)
		if status.Hint == nil || status.Hint.Disabled != "" != test.disabled || status.Counters.Read != test.read || status.Root != root(t, key, content) {
			t.Errorf("hint %+v: %+v, read %d, want %d", test.hint, status.Hint, status.Counters.Read, test.read)
		}
		if assumed := status.Counters.Assumed; assumed > 0 == test.disabled {
			t.Errorf("%d bytes are assumed", assumed)
		}
	}
	spec := scanSpec("damaged", key, int64(len(content)))
	spec.Hint = &control.Hint{Kind: control.HintAllocated, Map: incomplete[1:]}
	_, err := d.StartTask(t.Context(), spec)
	expectCode(t, err, control.CodeInvalid)
}

func TestPostIsIdempotent(t *testing.T) {
	d, key := launch(t), newKey(t)
	setKey(t, key, d)
	d.plug(4, image(t, noise(1, diskSize)))
	spec := scanSpec("scan", key, diskSize)
	d.expectDone(d.run(spec))
	status, err := d.StartTask(t.Context(), spec)
	if err != nil || status.State != control.StateDone {
		t.Errorf("posted again: %s, %v, want done", status.State, err)
	}
	spec.Size--
	_, err = d.StartTask(t.Context(), spec)
	expectCode(t, err, control.CodeConflict)
}

func TestPostRefused(t *testing.T) {
	d, key := launch(t), newKey(t)
	ctx := t.Context()
	d.plug(4, image(t, noise(1, diskSize)))
	spec := scanSpec("scan", key, diskSize)
	_, err := d.StartTask(ctx, spec)
	expectCode(t, err, control.CodeKey) // none
	setKey(t, newKey(t), d)
	_, err = d.StartTask(ctx, spec)
	expectCode(t, err, control.CodeKey) // another
	setKey(t, key, d)
	for _, test := range []struct {
		name   string
		change func(*control.TaskSpec)
		code   control.Code
	}{
		{"unknown disk", func(s *control.TaskSpec) { s.Device = 7 }, control.CodeNotFound},
		{"no id", func(s *control.TaskSpec) { s.ID = "" }, control.CodeInvalid},
		{"id with slash", func(s *control.TaskSpec) { s.ID = "a/b" }, control.CodeInvalid},
		{"no size", func(s *control.TaskSpec) { s.Size = 0 }, control.CodeInvalid},
		{"absurd size", func(s *control.TaskSpec) { s.Size = 1 << 60 }, control.CodeInvalid},
		{"digests beyond memory", func(s *control.TaskSpec) { s.Size, s.Known = 16<<40, true }, control.CodeMemory},
		{"generation without writing", func(s *control.TaskSpec) { s.Generation = manifest.NewGeneration() }, control.CodeInvalid},
		{"copy without generation", func(s *control.TaskSpec) { s.Kind, s.Target = control.KindCopy, 5 }, control.CodeInvalid},
		{"send without sink", func(s *control.TaskSpec) { s.Kind = control.KindSend }, control.CodeInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := spec
			test.change(&changed)
			_, err := d.StartTask(ctx, changed)
			expectCode(t, err, test.code)
		})
	}
	d.expectDone(d.run(spec)) // nothing of all that is left behind
}

func TestWrongSizes(t *testing.T) {
	p := newPair(t)
	p.source.plug(4, image(t, noise(1, diskSize)))
	small := noise(2, diskSize-1)
	replica := image(t, small)
	p.target.plug(4, replica)
	send, receive := p.specs("small", diskSize, true)
	p.source.post(send)
	p.target.post(receive)
	status := p.target.wait("small")
	if status.State != control.StateFailed || !strings.Contains(status.Error, "smaller than the logical size") {
		t.Errorf("target too small: task is %s: %s", status.State, status.Error)
	}
	if _, err := p.source.CancelTask(t.Context(), "small"); err != nil {
		t.Fatal(err)
	}
	expectContent(t, replica, small)
	status = p.source.run(scanSpec("large", p.key, diskSize+1))
	if status.State != control.StateFailed || !strings.Contains(status.Error, "source disk 4") {
		t.Errorf("source too small: task is %s: %s", status.State, status.Error)
	}
}

// Cancelling ends a task that waits for its peer, and one that waits for digests, within a second.
func TestCancel(t *testing.T) {
	p := newPair(t)
	p.source.plug(4, image(t, noise(1, diskSize)))
	p.target.plug(4, image(t, noise(2, diskSize)))
	send, receive := p.specs("cancel", diskSize, true)
	send.Known = true
	p.source.post(send)
	p.target.post(receive)
	expectWaiting(t, p.source, "cancel", "PUT known")
	expectWaiting(t, p.target, "cancel", "other end")
	for _, d := range []*delegate{p.source, p.target} {
		start := time.Now()
		status, err := d.CancelTask(t.Context(), "cancel")
		if err != nil || status.State != control.StateCancelled {
			t.Errorf("cancelled task is %s, %v", status.State, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("cancel took %v", took)
		}
		again, err := d.CancelTask(t.Context(), "cancel")
		if err != nil || again.State != control.StateCancelled {
			t.Errorf("cancelled again: %s, %v", again.State, err)
		}
		if err := d.Detach(t.Context(), 4); err != nil {
			t.Errorf("the disk is still held: %v", err)
		}
	}
}

// A transfer under way ends within a second too, and so does its other end. Here the sender waits for block digests.
func TestCancelRunning(t *testing.T) {
	p := newPair(t)
	p.source.plug(4, image(t, noise(1, diskSize)))
	p.target.plug(4, image(t, noise(2, diskSize)))
	send, receive := p.specs("running", diskSize, true)
	send.Known, send.Sinks[0].Trusted, send.Sinks[0].Records, receive.Trusted = true, control.TrustKnown, true, control.TrustPeer
	p.source.post(send)
	p.target.post(receive)
	known, _ := extents(p.key, noise(2, diskSize))
	if err := p.source.PutKnown(t.Context(), "running", known); err != nil {
		t.Fatal(err)
	}
	if wanted, err := p.source.Wanted(t.Context(), "running", 0, 0, within); err != nil || len(wanted.Extents) == 0 {
		t.Fatalf("wanted is %+v, %v", wanted, err)
	}
	start := time.Now()
	status, err := p.source.CancelTask(t.Context(), "running")
	if err != nil || status.State != control.StateCancelled {
		t.Errorf("cancelled task is %s, %v: %s", status.State, err, status.Error)
	}
	status = p.target.wait("running")
	if status.State != control.StateFailed || status.Error == "" {
		t.Errorf("the other end is %s: %q", status.State, status.Error)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("both ends took %v to end", took)
	}
	page, err := p.source.Journal(t.Context(), "running", 0, 0, within, 0)
	if err != nil || !page.End || len(page.Records) != 0 {
		t.Errorf("the journal is %+v, %v, want its end", page, err)
	}
}
