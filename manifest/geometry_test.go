package manifest_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/manifest"
)

func TestGeometryCoversTheDiskExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := manifest.Geometry{Size: sizes().Draw(t, "size")}
		must(t, g.Validate())
		var next int64
		for b := range g.Blocks() {
			off, length := g.BlockRange(b)
			if off != next || length < 1 || length > manifest.BlockSize || length < manifest.BlockSize && b != g.Blocks()-1 {
				t.Fatalf("block %d of %d bytes: %d bytes at %d", b, g.Size, length, off)
			}
			next = off + int64(length)
		}
		if next != g.Size {
			t.Fatalf("blocks cover %d of %d bytes", next, g.Size)
		}
		next = 0
		blocks := 0
		for e := range g.Extents() {
			off, length := g.ExtentRange(e)
			if off != next || length < 1 || length > manifest.ExtentSize || length < manifest.ExtentSize && e != g.Extents()-1 {
				t.Fatalf("extent %d of %d bytes: %d bytes at %d", e, g.Size, length, off)
			}
			if first, _ := g.BlockRange(e * manifest.BlocksPerExtent); first != off {
				t.Fatalf("extent %d begins at %d, its first block at %d", e, off, first)
			}
			next = off + int64(length)
			blocks += g.BlocksIn(e)
		}
		if next != g.Size || blocks != int(g.Blocks()) {
			t.Fatalf("extents cover %d of %d bytes, %d of %d blocks", next, g.Size, blocks, g.Blocks())
		}
	})
}

func TestGeometryLimits(t *testing.T) {
	for _, size := range []int64{0, -1, -1 << 63, manifest.MaxSize + 1, 1<<63 - 1} {
		wantError(t, manifest.Geometry{Size: size}.Validate(), manifest.ErrInvalid)
	}
	g := manifest.Geometry{Size: manifest.MaxSize}
	must(t, g.Validate())
	if g.Blocks() != 1<<30 || g.Extents() != 1<<24 {
		t.Errorf("the largest disk has %d blocks, %d extents", g.Blocks(), g.Extents())
	}
	if off, length := g.BlockRange(g.Blocks() - 1); off+int64(length) != g.Size {
		t.Errorf("its last block is %d bytes at %d", length, off)
	}
	defer func() {
		if recover() == nil {
			t.Error("a block beyond the disk has a place")
		}
	}()
	g.BlockRange(g.Blocks())
}
