package manifest_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/manifest"
)

// golden returns the bytes of the blocks in the specification, by name.
func golden(t *testing.T) map[string][]byte {
	t.Helper()
	doc, err := os.ReadFile("../docs/manifest.md")
	must(t, err)
	blocks := make(map[string][]byte)
	for _, m := range regexp.MustCompile("(?s)```golden name=([a-z0-9-]+)\n(.*?)```").FindAllSubmatch(doc, -1) {
		p, err := hex.DecodeString(strings.Join(strings.Fields(string(m[2])), ""))
		must(t, err)
		blocks[string(m[1])] = p
	}
	return blocks
}

func TestGoldenBytes(t *testing.T) {
	want := golden(t)
	got := make(map[string][]byte)
	key := testKey(0)
	hasher := key.NewHasher()
	id := key.ID()
	got["key-id"] = id[:]

	disk := append(bytes.Repeat([]byte{1}, manifest.BlockSize), make([]byte, manifest.BlockSize)...)
	disk = append(disk, bytes.Repeat([]byte{3}, 1000)...)
	digests := func(disk []byte) (blocks []manifest.Digest) {
		g := manifest.Geometry{Size: int64(len(disk))}
		for b := range g.Blocks() {
			off, length := g.BlockRange(b)
			blocks = append(blocks, hasher.Block(disk[off:off+int64(length)]))
		}
		return blocks
	}
	blocks := digests(disk)
	got["block-0"], got["block-1"], got["block-2"] = blocks[0][:], blocks[1][:], blocks[2][:]
	extent := hasher.Extent(blocks)
	got["extent-0"] = extent[:]
	got["record"] = manifest.AppendRecord(nil, manifest.Record{Extent: 0, Blocks: blocks})

	h := manifest.Header{Geometry: manifest.Geometry{Size: int64(len(disk))}, Generation: [16]byte(bytes.Repeat([]byte{0xa0}, 16)), Assumed: true}
	got["manifest"] = build(t, key, h, [][]manifest.Digest{blocks})
	base := open(t, got["manifest"])
	root := base.Root()
	got["root"] = root[:]

	copy(disk, bytes.Repeat([]byte{2}, manifest.BlockSize))
	h.Generation, h.Assumed = [16]byte(bytes.Repeat([]byte{0xb0}, 16)), false
	var delta bytes.Buffer
	_, err := manifest.ComposeDelta(&delta, key, h, base, manifest.MissingFails, manifest.Sorted([]manifest.Record{{Blocks: digests(disk)}}))
	must(t, err)
	got["delta"] = delta.Bytes()

	if len(want) != len(got) {
		t.Fatalf("the specification has %d golden blocks, the test makes %d", len(want), len(got))
	}
	for name := range want {
		if !bytes.Equal(got[name], want[name]) {
			t.Errorf("%s:\n got %x\nwant %x", name, got[name], want[name])
		}
	}
}

func TestGoldenBytesDecode(t *testing.T) {
	g := golden(t)
	base := open(t, g["manifest"])
	must(t, base.Verify(testKey(0)))
	if h := base.Header(); !h.Assumed || h.Geometry.Size != 132072 || h.Generation.String() != strings.Repeat("a0", 16) {
		t.Errorf("header of the golden manifest: %+v", h)
	}
	o, err := manifest.NewOverlay(testKey(0), base, openDelta(t, g["delta"]))
	must(t, err)
	old, err := base.BlockDigests(0)
	must(t, err)
	blocks, err := o.BlockDigests(0)
	must(t, err)
	if !bytes.Equal(old[2][:], g["block-2"]) || manifest.DiffBlocks(old, blocks) != 1 || o.Header().Assumed {
		t.Errorf("the golden files hold other digests: %v, %v", old, blocks)
	}
	r, err := manifest.ReadRecord(bytes.NewReader(g["record"]))
	must(t, err)
	if manifest.DiffBlocks(r.Blocks, old) != 0 {
		t.Errorf("the golden record holds %v", r.Blocks)
	}
}
