package transfer_test

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/transfer"
)

// TestUnknownExtentsProperty: a sink is trusted but for some extents, which may hold anything. They are brought to the source's
// content, are recorded, and what they hold already does not travel.
func TestUnknownExtentsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source, target := drawDisks(t)
		base := knownOf(target)
		unknown := slices.Clone(base.extents)
		for e := range unknown {
			if !rapid.Bool().Draw(t, "unknown") {
				continue
			}
			unknown[e], base.blocks[e] = manifest.Digest{}, nil
			piece := target[e*manifest.ExtentSize : min((e+1)*manifest.ExtentSize, len(target))]
			switch rapid.IntRange(0, 3).Draw(t, "content") {
			case 0:
				copy(piece, source[e*manifest.ExtentSize:])
			case 1:
				clear(piece)
			case 2:
				copy(piece[:len(piece)/2], source[e*manifest.ExtentSize:])
			}
		}
		device := memory(t, target)
		near, far := pipe(t)
		var done journal
		size := int64(len(source))
		o := run(context.Background(), near, far, transfer.SendSpec{Source: memory(t, source), Size: size, Key: key, Known: unknown},
			transfer.SinkSpec{Trusted: &known{unknown, base.blocks}, Records: done.take},
			transfer.ReceiveSpec{Target: device, Size: size, Key: key, Trusted: true})
		if err := o.err(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content(t, device), source) {
			t.Fatal("the target differs from the source")
		}
		if root, _, _ := manifestOf(source); o.send.Root != root || done.compose(unknown, len(source)) != root {
			t.Fatal("the root or the records are not those of the source")
		}
		if count := (manifest.Geometry{Size: size}).Extents(); o.send.Sinks[0].Reached != count || o.receive.Reached != count {
			t.Fatalf("the ends say that %d and %d extents were reached, of %d", o.send.Sinks[0].Reached, o.receive.Reached, count)
		}
	})
}

// TestUnknownAndEqual: what is not known, and is there, is neither sent nor written, far behind much that has changed.
func TestUnknownAndEqual(t *testing.T) {
	const extents = 24
	source := random(extents*manifest.ExtentSize, 1)
	clear(source[22*manifest.ExtentSize:])
	target := random(extents*manifest.ExtentSize, 2)
	unknown := knownOf(target)
	copy(target[20*manifest.ExtentSize:], source[20*manifest.ExtentSize:])
	for e := 20; e < extents; e++ {
		unknown.extents[e], unknown.blocks[e] = manifest.Digest{}, nil
	}
	near, far := pipe(t)
	size := int64(len(source))
	o := run(t.Context(), near, far, transfer.SendSpec{Source: memory(t, source), Size: size, Key: key},
		transfer.SinkSpec{Trusted: unknown}, transfer.ReceiveSpec{Target: memory(t, target), Size: size, Key: key, Trusted: true})
	if err := o.err(); err != nil {
		t.Fatal(err)
	}
	if c := o.receive.Counters; c.Sent != 20*manifest.ExtentSize || c.Same != 4*manifest.ExtentSize || c.Zero != 0 || c.Written != c.Sent {
		t.Errorf("counters %+v", c)
	}
}

// TestReachedBoundsWrites: of a transfer that was cut, nothing differs at or above what either end reached.
func TestReachedBoundsWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source, target := drawDisks(t)
		before := bytes.Clone(target)
		device := memory(t, target)
		near, far := cutAfter(t, rapid.IntRange(1, 40).Draw(t, "cut"))
		sink, receive := transfer.SinkSpec{}, transfer.ReceiveSpec{Target: device, Size: int64(len(source)), Key: key}
		if rapid.Bool().Draw(t, "trusted") {
			sink.Trusted, receive.Trusted = knownOf(target), true
		}
		o := run(context.Background(), near, far, transfer.SendSpec{Source: memory(t, source), Size: receive.Size, Key: key}, sink, receive)
		for _, reached := range []uint32{o.send.Sinks[0].Reached, o.receive.Reached} {
			from := min(int(reached)*manifest.ExtentSize, len(before))
			if !bytes.Equal(content(t, device)[from:], before[from:]) {
				t.Fatalf("something was written at or above extent %d", reached)
			}
		}
	})
}
