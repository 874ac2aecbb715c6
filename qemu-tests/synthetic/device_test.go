package synthetic_test

import (
	"bytes"
	"testing"

	"github.com/understudy-dr/understudy/blockio"
	"github.com/understudy-dr/understudy/blockio/blockiotest"
	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/qemu-tests/synthetic"
)

func device(t *testing.T, c synthetic.Content) *synthetic.Device {
	t.Helper()
	d, err := synthetic.New(c, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestDevice(t *testing.T) {
	blockiotest.TestDevice(t, func(t *testing.T, size int64) blockio.Device { return device(t, synthetic.Content{Size: size}) })
}

// TestContent: what is read does not depend on how it is read; generations differ where they say so; holes are holes; and the
// baseline is that of the content.
func TestContent(t *testing.T) {
	first := synthetic.Content{Size: 256<<20 + 4711, Seed: 3, Data: 2}
	second := first
	second.Changed = 50
	a, b := device(t, first), device(t, second)
	changes := second.Changes()
	allocation, err := blockio.Allocation(a)
	if err != nil {
		t.Fatal(err)
	}
	if n := allocation.Bytes(); n == 0 || n == first.Size {
		t.Fatalf("%d of %d bytes are allocated", n, first.Size)
	}
	digests := synthetic.NewBaseline(first, mustKey(t))
	h := mustKey(t).NewHasher()
	g := manifest.Geometry{Size: first.Size}
	contents := map[string]bool{}
	p, q, part := make([]byte, manifest.BlockSize), make([]byte, manifest.BlockSize), make([]byte, manifest.BlockSize)
	for e := range g.Extents() {
		var list []manifest.Digest
		for i := range g.BlocksIn(e) {
			off, n := g.BlockRange(e*manifest.BlocksPerExtent + uint32(i))
			read(t, a, p[:n], off)
			read(t, b, q[:n], off)
			for at := 0; at < n; {
				length := min(1+(at*7+i)%9000, n-at)
				read(t, a, part[at:at+length], off+int64(at))
				at += length
			}
			switch {
			case !bytes.Equal(p[:n], part[:n]):
				t.Fatalf("block at %d read in parts is another", off)
			case bytes.Equal(p[:n], q[:n]) == changes.Marked(off, 1):
				t.Fatalf("block at %d: equal in both generations: %v", off, bytes.Equal(p[:n], q[:n]))
			case !allocation.Marked(off, 1) && !manifest.IsZero(p[:n]):
				t.Fatalf("block at %d lies in a hole and has content", off)
			}
			list = append(list, h.Block(p[:n]))
			if n == manifest.BlockSize {
				contents[list[i].String()] = true
			}
		}
		if h.Extent(list) != digests.Extents()[e] {
			t.Fatalf("the baseline's extent %d is not that of the content", e)
		}
	}
	if blocks := int(allocation.Bytes() / manifest.BlockSize); len(contents) < blocks/2 || len(contents) > blocks*9/10 {
		t.Errorf("%d different contents in %d blocks: want many of their own and some that recur", len(contents), blocks)
	}
}

func read(t *testing.T, d blockio.Device, p []byte, off int64) {
	t.Helper()
	if _, err := d.ReadAt(p, off); err != nil {
		t.Fatal(err)
	}
}

func mustKey(t *testing.T) manifest.Key {
	t.Helper()
	k, err := manifest.ParseKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return k
}
