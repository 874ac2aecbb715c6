package transfer

import (
	"bytes"
	"context"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
)

// extentsOnly is a manifest of which nobody asks for blocks.
type extentsOnly []manifest.Digest

func (e extentsOnly) Extents() []manifest.Digest                              { return e }
func (extentsOnly) Prefetch(...uint32)                                        {}
func (extentsOnly) Blocks(context.Context, uint32) ([]manifest.Digest, error) { return nil, nil }

// TestHoldOfAnEmptySink: at a sink that is all zero nothing waits, whether it is known by a manifest or because it is new.
func TestHoldOfAnEmptySink(t *testing.T) {
	key, err := manifest.ParseKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	g := manifest.Geometry{Size: 3*manifest.ExtentSize + 5000}
	empty := ZeroBaseline(key, g.Size)
	some := append(extentsOnly(nil), empty.Extents()...)
	known := append(extentsOnly(nil), some...)
	some[1] = manifest.Digest{1}
	for _, c := range []struct {
		sink    Baseline
		content int
		waits   bool
	}{{empty, 0, false}, {known, 0, false}, {some, manifest.BlocksPerExtent, true}} {
		h := newHold(Tuning{}, g, c.sink, key)
		if waits := h.allowance.admit(); h.allowance.content != c.content || waits != c.waits {
			t.Errorf("%T: %d blocks hold something, one waits: %v; want %d, %v", c.sink, h.allowance.content, waits, c.content, c.waits)
		}
	}
}
