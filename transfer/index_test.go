package transfer_test

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/transfer"
)

// numbered is the digest of a content with a number.
func numbered(n uint64) (d manifest.Digest) {
	// splitmix64 spreads as a keyed digest does.
	for i := 0; i < len(d); i += 8 {
		n += 0x9e3779b97f4a7c15
		z := (n ^ n>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(d[i:], z^z>>31)
	}
	return d
}

// TestIndexProperty: what an index says was once put, and in a roomy one nothing
// is lost.
func TestIndexProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		memory := rapid.SampledFrom([]int64{1, 1 << 10, 1 << 20}).Draw(t, "memory")
		x := transfer.NewIndex(memory, 1000)
		held := map[uint64]uint32{}
		for range rapid.IntRange(0, 500).Draw(t, "steps") {
			n, block := rapid.Uint64Range(0, 300).Draw(t, "content"), rapid.Uint32Range(0, 1<<30).Draw(t, "block")
			if old, ok := held[n]; ok && rapid.Bool().Draw(t, "remove") {
				x.Remove(numbered(n), old)
				delete(held, n)
				continue
			}
			x.Put(numbered(n), block)
			held[n] = block
		}
		for n := range uint64(301) {
			got, ok := x.Find(numbered(n))
			want, was := held[n]
			if ok && (!was || got != want) || !ok && was && memory == 1<<20 {
				t.Fatalf("content %d is at %d, %v; the index says %d, %v", n, want, was, got, ok)
			}
		}
		if int64(x.Bytes()) > max(memory, 8*12) {
			t.Fatalf("%d bytes of at most %d", x.Bytes(), memory)
		}
	})
}

// TestLargeDisk: on a disk with two hundred times more blocks than its index has
// entries, a file of 1 GiB that lies elsewhere is found nearly whole.
func TestLargeDisk(t *testing.T) {
	const (
		blocks = 1 << 22 // 256 GiB
		file   = 1 << 14
		memory = 256 << 10
		at     = 1<<21 + 17
	)
	x := transfer.NewIndex(memory, blocks)
	for n := range uint64(blocks) {
		x.Put(numbered(n), uint32(n))
	}
	if x.Bytes() > memory {
		t.Errorf("the index takes %d bytes, at most %d are allowed", x.Bytes(), memory)
	}
	moved := make([]manifest.Digest, file)
	for i := range moved {
		moved[i] = numbered(at + uint64(i))
	}
	const to = 3 << 20
	if right := x.Follow(moved, to, to-at); right < file*95/100 {
		t.Errorf("%d of %d blocks were found", right, file)
	}
	fresh := make([]manifest.Digest, file)
	for i := range fresh {
		fresh[i] = numbered(blocks + uint64(i))
	}
	if right := x.Follow(fresh, to, to-at); right != 0 {
		t.Errorf("%d blocks of new content were found", right)
	}
}
