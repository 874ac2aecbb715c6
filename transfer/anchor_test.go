package transfer

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// TestAnchors: rolling from part to part makes of each window what docs/protocol.md says, so
// that both ends know a content by the same anchor wherever it lies.
func TestAnchors(t *testing.T) {
	disk := make([]byte, 300*partSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(disk)
	clear(disk[100*partSize : 130*partSize])
	var rolling window
	count := 0
	for end := 1; end <= len(disk)/partSize; end++ {
		a, ok := rolling.roll(partSum(disk[(end-1)*partSize:]))
		first := end - partsPerBlock
		if first < 0 {
			if ok {
				t.Fatalf("a window of %d parts has an anchor", end)
			}
			continue
		}
		var h uint64
		for i := range partsPerBlock {
			h = h*0x9e3779b97f4a7c15 + uint64(crc32.Checksum(disk[(first+i)*partSize:][:1024], crc32.MakeTable(crc32.Castagnoli)))
		}
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
		zero := first >= 100 && end <= 130
		if want := h%8 == 0 && !zero; ok != want || ok && uint64(a) != h>>24 {
			t.Fatalf("the window at part %d has the anchor %x, %v; want %x, %v", first, a, ok, h>>24, want)
		}
		if ok {
			count++
			if again := decodeAnchor(a.append(nil)); again != a {
				t.Errorf("%x travels as %x", a, again)
			}
		}
	}
	if count < 15 || count > 60 {
		t.Errorf("%d anchors in %d parts", count, len(disk)/partSize)
	}
}

// TestNoAnchorAcrossAGap: of a part that is not known, no window has an anchor.
func TestNoAnchorAcrossAGap(t *testing.T) {
	var w window
	for part := range uint32(1000) {
		if part%partsPerBlock == partsPerBlock-1 {
			w.skip()
		} else if a, ok := w.roll(part + 1); ok {
			t.Fatalf("part %d ends an anchor, %x", part, a)
		}
	}
}
