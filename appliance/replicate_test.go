package appliance_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/appliance"
	"github.com/understudy-dr/understudy/appliance/control"
	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/manifest"
)

// diskSize of these tests: three extents, the last of them short and of an odd length.
const diskSize = 2*manifest.ExtentSize + 3*manifest.BlockSize + 777

// pair is two delegates with one key.
type pair struct {
	source, target *delegate
	key            manifest.Key
}

func newPair(t *testing.T) pair {
	t.Helper()
	return newPairWith(t, nil)
}

func newPairWith(t *testing.T, change func(*appliance.Options)) pair {
	t.Helper()
	p := pair{source: launchWith(t, change), target: launchWith(t, change), key: newKey(t)}
	setKey(t, p.key, p.source, p.target)
	return p
}

// specs returns the two ends of the transfer of one disk. With push the source dials.
func (p pair) specs(id string, size int64, push bool) (send, receive control.TaskSpec) {
	token := control.Token(randomHex(16))
	toTarget := control.Peer{Fingerprint: p.target.identity.Fingerprint, Token: token}
	toSource := control.Peer{Fingerprint: p.source.identity.Fingerprint, Token: token}
	if push {
		toTarget.Address = p.target.address
	} else {
		toSource.Address = p.source.address
	}
	send = control.TaskSpec{
		ID: id, Kind: control.KindSend, Device: 4, Size: size, KeyID: p.key.ID(), Sinks: []control.Sink{{Peer: toTarget}},
	}
	receive = control.TaskSpec{
		ID: id, Kind: control.KindReceive, Device: 4, Size: size, KeyID: p.key.ID(), Peer: &toSource, Generation: manifest.NewGeneration(),
	}
	return send, receive
}

// replicate runs both ends and expects them to succeed and to agree.
func (p pair) replicate(t *testing.T, send, receive control.TaskSpec) (sent, received control.TaskStatus) {
	t.Helper()
	p.source.post(send)
	p.target.post(receive)
	sent, received = p.source.wait(send.ID), p.target.wait(receive.ID)
	p.source.expectDone(sent)
	p.target.expectDone(received)
	if sent.Sinks[0].Result != received.Result || received.Result == (manifest.Digest{}) {
		t.Errorf("results are %s and %s", sent.Sinks[0].Result, received.Result)
	}
	return sent, received
}

func TestPushAndPull(t *testing.T) {
	p := newPair(t)
	content := noise(1, diskSize)
	p.source.plug(4, image(t, content))
	replica := image(t, noise(2, diskSize+4096)) // larger: storage rounds up
	p.target.plug(4, replica)
	for i, push := range []bool{true, false} {
		send, receive := p.specs(fmt.Sprintf("run-%d", i), diskSize, push)
		sent, received := p.replicate(t, send, receive)
		expectContent(t, replica, content)
		if want := root(t, p.key, content); sent.Root != want || received.Root != want {
			t.Errorf("push %v: roots are %s and %s, want %s", push, sent.Root, received.Root, want)
		}
		counters := sent.Sinks[0].Counters
		if push && counters.Sent != diskSize || !push && counters.Same != diskSize {
			t.Errorf("push %v: counters are %+v", push, counters)
		}
		if sent.Counters.Read < diskSize || counters.Wire == 0 {
			t.Errorf("push %v: read %d, wire %d", push, sent.Counters.Read, counters.Wire)
		}
	}
}

// What a seed holds does not travel, and a seed is only read.
func TestSeeds(t *testing.T) {
	p := newPair(t)
	template := noise(1, diskSize)
	content := slices.Clone(template)
	copy(content[manifest.ExtentSize:], noise(2, 3*manifest.BlockSize))
	p.source.plug(4, image(t, content))
	replica, seed := image(t, make([]byte, diskSize)), image(t, template)
	p.target.plug(4, replica)
	p.target.plug(9, seed)
	send, receive := p.specs("seeded", diskSize, true)
	receive.Seeds = []control.Seed{{Device: 9, Size: diskSize}}
	sent, _ := p.replicate(t, send, receive)
	expectContent(t, replica, content)
	expectContent(t, seed, template)
	if got := sent.Sinks[0].Counters; got.Sent != 3*manifest.BlockSize || got.Copied != diskSize-3*manifest.BlockSize {
		t.Errorf("%d bytes were sent, %d copied", got.Sent, got.Copied)
	}
}

// A trusted sender reports, asks for block digests of what differs, and sends only that.
func TestTrusted(t *testing.T) {
	for _, trusted := range []control.Trusted{control.TrustKnown, control.TrustManifest} {
		t.Run(string(trusted), func(t *testing.T) { testTrusted(t, trusted) })
	}
}

func testTrusted(t *testing.T, trusted control.Trusted) {
	p := newPair(t)
	old := noise(1, diskSize)
	now := slices.Clone(old)
	copy(now[manifest.ExtentSize+5*manifest.BlockSize:], noise(3, 100)) // within one block of extent 1
	p.source.plug(4, image(t, now))
	replica := image(t, old)
	p.target.plug(4, replica)
	known, records := extents(p.key, old)

	send, receive := p.specs("trusted", diskSize, true)
	send.Known, send.Sinks[0].Trusted, send.Sinks[0].Records = true, trusted, true
	receive.Trusted = control.TrustPeer
	p.target.post(receive)
	p.source.post(send)
	ctx := t.Context()

	expectWaiting(t, p.source, "trusted", "PUT known")
	expectCode(t, p.source.PutBlocks(ctx, "trusted", 0, records[:1]), control.CodeConflict)
	expectCode(t, p.source.PutKnown(ctx, "trusted", known[1:]), control.CodeInvalid)
	for range 2 { // again, as after a lost answer
		if err := p.source.PutKnown(ctx, "trusted", known); err != nil {
			t.Fatal(err)
		}
	}
	if trusted == control.TrustManifest {
		expectWaiting(t, p.source, "trusted", "PUT baseline?sink=0")
		if err := p.source.PutBaseline(ctx, "trusted", 0, known); err != nil {
			t.Fatal(err)
		}
	}
	wanted, err := p.source.Wanted(ctx, "trusted", 0, 0, within)
	if err != nil || !slices.Equal(wanted.Extents, []uint32{1}) {
		t.Fatalf("wanted is %+v, %v, want extent 1", wanted, err)
	}
	if later, err := p.source.Wanted(ctx, "trusted", 0, wanted.Sequence, 10*time.Millisecond); err != nil || len(later.Extents) != 0 {
		t.Errorf("wanted after %d is %+v, %v, want none", wanted.Sequence, later, err)
	}
	expectCode(t, p.source.PutBlocks(ctx, "trusted", 0, []manifest.Record{{Extent: 1, Blocks: records[0].Blocks}}), control.CodeMismatch)
	expectCode(t, p.source.PutBlocks(ctx, "trusted", 0, []manifest.Record{{Extent: 2, Blocks: records[0].Blocks}}), control.CodeMismatch)
	expectCode(t, p.source.PutBlocks(ctx, "trusted", 0, []manifest.Record{{Extent: 9, Blocks: records[0].Blocks}}), control.CodeMismatch)
	if err := p.source.PutBlocks(ctx, "trusted", 0, records[1:2]); err != nil {
		t.Fatal(err)
	}
	page, err := p.source.Journal(ctx, "trusted", 0, 0, within, 0)
	if err != nil || len(page.Records) != 1 || page.Records[0].Extent != 1 {
		t.Errorf("journal is %+v, %v, want extent 1", page, err)
	}
	status := p.source.wait("trusted")
	p.source.expectDone(status)
	received := p.target.wait("trusted")
	p.target.expectDone(received)
	expectContent(t, replica, now)
	if c := status.Sinks[0].Counters; c.Sent+c.Spared != manifest.BlockSize {
		t.Errorf("sent %d and spared %d bytes, want one block together", c.Sent, c.Spared)
	}
	// At most the block's parts, and the block again to be patched.
	if !received.Trusted || received.Counters.Read > 2*manifest.BlockSize {
		t.Errorf("the target was scanned: trusted %v, read %d", received.Trusted, received.Counters.Read)
	}
	_, newRecords := extents(p.key, now)
	if !slices.Equal(page.Records[0].Blocks, newRecords[1].Blocks) {
		t.Error("the journal's digests are not those of the new content")
	}
}

// What change tracking does not name is not read of the source, whether the replica is trusted or scanned.
func TestChangedBlocksHint(t *testing.T) {
	p := newPair(t)
	old := noise(1, diskSize)
	now := slices.Clone(old)
	copy(now[manifest.ExtentSize+5*manifest.BlockSize:], noise(3, 100))
	p.source.plug(4, image(t, now))
	known, records := extents(p.key, old)
	changed := blockio.NewAllocationMap(diskSize)
	changed.Mark(manifest.ExtentSize+5*manifest.BlockSize, manifest.BlockSize)
	for i, trusted := range []control.Trusted{control.TrustKnown, control.TrustNone} {
		id := fmt.Sprintf("hinted-%d", i)
		replica := image(t, old)
		p.target.plug(10+i, replica)
		send, receive := p.specs(id, diskSize, true)
		send.Known, send.Sinks[0].Trusted, send.Sinks[0].Records, receive.Device = true, trusted, true, 10+i
		send.Hint = &control.Hint{Kind: control.HintChanged, Base: manifest.NewGeneration(), Map: changed.Append(nil), Slice: 2}
		if trusted != control.TrustNone {
			receive.Trusted = control.TrustPeer
		}
		p.target.post(receive)
		p.source.post(send)
		ctx := t.Context()
		if err := p.source.PutKnown(ctx, id, known); err != nil {
			t.Fatal(err)
		}
		wanted, err := p.source.Wanted(ctx, id, 0, 0, within)
		if err != nil || !slices.Equal(wanted.Extents, []uint32{1}) {
			t.Fatalf("wanted is %+v, %v, want extent 1", wanted, err)
		}
		if err := p.source.PutBlocks(ctx, id, 0, records[1:2]); err != nil {
			t.Fatal(err)
		}
		status := p.source.wait(id)
		p.source.expectDone(status)
		p.target.expectDone(p.target.wait(id))
		expectContent(t, replica, now)
		const slice = diskSize - 2*manifest.ExtentSize
		if c := status.Counters; c.Read != slice+manifest.BlockSize || c.Assumed != diskSize-c.Read || status.Root != root(t, p.key, now) {
			t.Errorf("trusted %q: %d bytes were read, %d assumed", trusted, c.Read, c.Assumed)
		}
		if status.Hint == nil || status.Hint.Disabled != "" || status.Hint.Slice != 0 {
			t.Errorf("trusted %q: the hint is %+v", trusted, status.Hint)
		}
	}
}

func expectWaiting(t *testing.T, d *delegate, id, what string) {
	t.Helper()
	d.eventually("task waits for "+what, func() bool {
		status, err := d.Task(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return status.State == control.StateWaiting && strings.Contains(status.Waiting, what)
	})
}

// A new disk that reads as zeroes needs no digests.
func TestZeroBaseline(t *testing.T) {
	p := newPair(t)
	content := make([]byte, diskSize)
	copy(content[manifest.ExtentSize:], noise(1, 2*manifest.BlockSize))
	p.source.plug(4, image(t, content))
	replica := image(t, make([]byte, diskSize))
	p.target.plug(4, replica)
	send, receive := p.specs("zero", diskSize, true)
	send.Sinks[0].Trusted, receive.Trusted = control.TrustZero, control.TrustPeer
	sent, _ := p.replicate(t, send, receive)
	expectContent(t, replica, content)
	if counters := sent.Sinks[0].Counters; counters.Sent != 2*manifest.BlockSize {
		t.Errorf("sent %d bytes, want two blocks", counters.Sent)
	}
}

// One read feeds several sinks; one that cannot be reached does not stop the others.
func TestSeveralSinks(t *testing.T) {
	p := newPairWith(t, impatient)
	second, absent := launch(t), prepare(t)
	setKey(t, p.key, second)
	content := noise(1, diskSize)
	p.source.plug(4, image(t, content))
	replicas := []string{image(t, noise(2, diskSize)), image(t, make([]byte, diskSize))}
	p.target.plug(4, replicas[0])
	second.plug(4, replicas[1])

	send, receive := p.specs("sinks", diskSize, true)
	q := pair{source: p.source, target: second, key: p.key}
	sendSecond, receiveSecond := q.specs("sinks", diskSize, true)
	unreachable := control.Peer{Fingerprint: newIdentity(t).Fingerprint(), Address: absent.address, Token: control.Token(randomHex(16))}
	send.Sinks = []control.Sink{send.Sinks[0], {Peer: unreachable}, sendSecond.Sinks[0]}
	p.target.post(receive)
	second.post(receiveSecond)
	status := p.source.run(send)
	p.target.expectDone(p.target.wait("sinks"))
	second.expectDone(second.wait("sinks"))
	for _, replica := range replicas {
		expectContent(t, replica, content)
	}
	if status.State != control.StateFailed || !strings.Contains(status.Error, "sink 1") || !strings.Contains(status.Sinks[1].Error, absent.address) {
		t.Errorf("task is %s: %s; sink 1: %s", status.State, status.Error, status.Sinks[1].Error)
	}
	if status.Sinks[0].Error != "" || status.Sinks[2].Error != "" || status.Counters.Read > diskSize+manifest.ExtentSize {
		t.Errorf("sinks are %+v, read %d", status.Sinks, status.Counters.Read)
	}
}

func TestCopy(t *testing.T) {
	d, key := launch(t), newKey(t)
	setKey(t, key, d)
	content := noise(1, diskSize)
	d.plug(4, image(t, content))
	replica := image(t, noise(2, diskSize))
	d.plug(5, replica)
	spec := control.TaskSpec{
		ID: "copy", Kind: control.KindCopy, Device: 4, Target: 5, Size: diskSize, KeyID: key.ID(), Generation: manifest.NewGeneration(), Records: true,
	}
	status := d.run(spec)
	d.expectDone(status)
	expectContent(t, replica, content)
	if status.Root != root(t, key, content) || status.Result == (manifest.Digest{}) {
		t.Errorf("root is %s, result %s", status.Root, status.Result)
	}
	page, err := d.Journal(t.Context(), "copy", 0, 0, within, 0)
	if err != nil || len(page.Records) != 3 || !page.End || page.Watermark != 3 {
		t.Errorf("journal has %d records, end %v, watermark %d, %v; want 3, true, 3", len(page.Records), page.End, page.Watermark, err)
	}
}

// More disks than slots: some wait for their turn at both ends.
func TestSeveralDisks(t *testing.T) {
	p := newPair(t)
	const disks, size = 6, 2*manifest.ExtentSize + 1000
	var replicas []string
	var contents [][]byte
	for i := range disks {
		contents = append(contents, noise(uint64(i), size))
		replicas = append(replicas, image(t, make([]byte, size)))
		p.source.plug(i, image(t, contents[i]))
		p.target.plug(i, replicas[i])
	}
	for i := range disks {
		send, receive := p.specs(fmt.Sprintf("disk-%d", i), size, i%2 == 0)
		send.Device, receive.Device = i, i
		p.source.post(send)
		p.target.post(receive)
	}
	for i := range disks {
		p.source.expectDone(p.source.wait(fmt.Sprintf("disk-%d", i)))
		p.target.expectDone(p.target.wait(fmt.Sprintf("disk-%d", i)))
		expectContent(t, replicas[i], contents[i])
	}
	list, err := p.source.Tasks(t.Context())
	if err != nil || len(list) != disks || list[0].ID != "disk-0" {
		t.Errorf("tasks are %v, %v, want %d in the order of posting", list, err, disks)
	}
}
