package manifest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/manifest"
)

func TestKeyShowsNoSecret(t *testing.T) {
	key, err := manifest.NewKey()
	must(t, err)
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	nested := struct{ key manifest.Key }{key}
	log.Info("key", "key", key, "nested", nested)
	for _, v := range []any{key, &key, nested, []manifest.Key{key}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	p, err := json.Marshal(struct{ Key manifest.Key }{key})
	must(t, err)
	out.Write(p)
	secret := key.Bytes()
	for _, form := range []string{
		string(secret), fmt.Sprintf("%x", secret), strings.Trim(fmt.Sprint(secret), "[]"), fmt.Sprintf("%q", secret), fmt.Sprintf("%X", secret),
	} {
		if strings.Contains(out.String(), form) {
			t.Fatalf("the secret was printed: %s", out.String())
		}
	}
	if !strings.Contains(out.String(), key.ID().String()) {
		t.Error("a printed key should be named by its id")
	}
}

func TestKeyRoundTripAndSeparation(t *testing.T) {
	key, err := manifest.NewKey()
	must(t, err)
	again, err := manifest.ParseKey(key.Bytes())
	must(t, err)
	other, err := manifest.NewKey()
	must(t, err)
	p := []byte("content")
	if key.ID() != again.ID() || key.NewHasher().Block(p) != again.NewHasher().Block(p) {
		t.Error("a key read back is another key")
	}
	if key.ID() == other.ID() || key.NewHasher().Block(p) == other.NewHasher().Block(p) {
		t.Error("two keys share a domain")
	}
	key.Bytes()[0]++
	if !bytes.Equal(key.Bytes(), again.Bytes()) {
		t.Error("Bytes hands out the secret itself")
	}
	_, err = manifest.ParseKey(make([]byte, 31))
	wantError(t, err, manifest.ErrInvalid)
	var none manifest.Key
	if !none.IsZero() || key.IsZero() || none.String() != "key:none" || none.ID() != (manifest.KeyID{}) {
		t.Error("the zero key is not told from others")
	}
	id, err := manifest.ParseKeyID(key.ID().String())
	must(t, err)
	if id != key.ID() {
		t.Error("key id does not survive its text")
	}
}

func TestDigestsOfDifferentKindsDiffer(t *testing.T) {
	key := testKey(0)
	h := key.NewHasher()
	d := h.Block([]byte("x"))
	asBlock := h.Block(d[:])
	asExtent := h.Extent([]manifest.Digest{d})
	root := key.NewRoot(manifest.Geometry{Size: 1})
	root.Add(d)
	asRoot, err := root.Sum()
	must(t, err)
	if asBlock == asExtent || asExtent == asRoot || asBlock == asRoot {
		t.Error("digests of two kinds are equal over the same content")
	}
}

func TestHasherProperties(t *testing.T) {
	h, reused := testKey(0).NewHasher(), testKey(0).NewHasher()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, manifest.BlockSize).Draw(t, "length")
		p := bytes.Repeat([]byte{rapid.Byte().Draw(t, "fill")}, n)
		d := h.Block(p)
		if reused.Block(p) != d || h.Block(p) != d || testKey(0).NewHasher().Block(p) != d {
			t.Fatalf("a digest depends on what was hashed before")
		}
		if n < manifest.BlockSize && h.Block(append(p, 0)) == d {
			t.Fatalf("a zero byte at the end does not count")
		}
		if manifest.IsZero(p) != (h.ZeroBlock(n) == d) {
			t.Fatalf("ZeroBlock(%d) and Block disagree on %d times %02x", n, n, p[0])
		}
		p[rapid.IntRange(0, n-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if h.Block(p) == d {
			t.Fatalf("a flipped bit does not count")
		}
		if short := d.Short(); !bytes.Equal(short[:], d[:16]) {
			t.Fatalf("Short of %s is %x", d, short)
		}
	})
}

func TestExtentDigestCountsEveryBlock(t *testing.T) {
	h := testKey(0).NewHasher()
	zero := make([]manifest.Digest, manifest.BlocksPerExtent)
	seen := make(map[manifest.Digest]bool)
	for n := 1; n <= len(zero); n++ {
		seen[h.Extent(zero[:n])] = true
	}
	for i := range zero {
		changed := append([]manifest.Digest(nil), zero...)
		changed[i][31] = 1
		seen[h.Extent(changed)] = true
	}
	if len(seen) != 2*manifest.BlocksPerExtent {
		t.Errorf("%d different digests of %d different extents", len(seen), 2*manifest.BlocksPerExtent)
	}
}

func TestZeroBlocksAreThoseOfAZeroDisk(t *testing.T) {
	h := testKey(0).NewHasher()
	g := manifest.Geometry{Size: manifest.ExtentSize + manifest.BlockSize + 7}
	for e := range g.Extents() {
		for i, d := range h.ZeroBlocks(g, e) {
			_, length := g.BlockRange(e*manifest.BlocksPerExtent + uint32(i))
			if d != h.Block(make([]byte, length)) {
				t.Fatalf("block %d of extent %d", i, e)
			}
		}
	}
}

func TestHasherPanicsOnImpossibleLengths(t *testing.T) {
	h := testKey(0).NewHasher()
	for name, call := range map[string]func(){
		"empty block":   func() { h.Block(nil) },
		"long block":    func() { h.Block(make([]byte, manifest.BlockSize+1)) },
		"empty extent":  func() { h.Extent(nil) },
		"long extent":   func() { h.Extent(make([]manifest.Digest, manifest.BlocksPerExtent+1)) },
		"empty record":  func() { manifest.AppendRecord(nil, manifest.Record{}) },
		"no key":        func() { manifest.Key{}.NewHasher() },
		"no key's root": func() { manifest.Key{}.NewRoot(manifest.Geometry{Size: 1}) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			call()
		})
	}
}

func TestRootCoversSizeOrderAndCount(t *testing.T) {
	sum := func(size int64, digests ...manifest.Digest) (manifest.Digest, error) {
		r := testKey(0).NewRoot(manifest.Geometry{Size: size})
		for _, d := range digests {
			r.Add(d)
		}
		first, err := r.Sum()
		if again, _ := r.Sum(); again != first { // asked twice
			t.Error("Sum changes the root")
		}
		return first, err
	}
	a, b := digestOf(1), digestOf(2)
	seen := make(map[manifest.Digest]bool)
	for _, args := range []struct {
		size    int64
		digests []manifest.Digest
	}{
		{manifest.ExtentSize + 1, []manifest.Digest{a, b}},
		{manifest.ExtentSize + 2, []manifest.Digest{a, b}},
		{manifest.ExtentSize + 1, []manifest.Digest{b, a}},
		{manifest.ExtentSize, []manifest.Digest{a}},
	} {
		d, err := sum(args.size, args.digests...)
		must(t, err)
		seen[d] = true
	}
	for _, n := range []int64{100, 255, 256, 1000} { // more than one chunk of BLAKE3
		_, err := sum(n*manifest.ExtentSize, make([]manifest.Digest, n)...)
		must(t, err)
	}
	if len(seen) != 4 {
		t.Errorf("%d different roots of 4 disks", len(seen))
	}
	for _, size := range []int64{1, 2*manifest.ExtentSize + 1, 0, -1, manifest.MaxSize + 1} {
		_, err := sum(size, a, b)
		wantError(t, err, manifest.ErrInvalid)
	}
}

func TestIsZero(t *testing.T) {
	if !manifest.IsZero(nil) {
		t.Error("nothing is not zero")
	}
	p := make([]byte, 3*4096+5)
	for n := range len(p) {
		if !manifest.IsZero(p[:n]) {
			t.Fatalf("%d zeroes are not zero", n)
		}
	}
	for i := range p {
		p[i] = 1
		if manifest.IsZero(p) {
			t.Fatalf("byte %d is overlooked", i)
		}
		p[i] = 0
	}
}

func TestHasherDoesNotAllocate(t *testing.T) {
	h := testKey(0).NewHasher()
	p := make([]byte, manifest.BlockSize)
	blocks := make([]manifest.Digest, manifest.BlocksPerExtent)
	if n := testing.AllocsPerRun(20, func() {
		blocks[0] = h.Block(p)
		blocks[1] = h.Block(p[:100])
		blocks[2] = h.ZeroBlock(len(p))
		h.Extent(blocks)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHasherBlock(b *testing.B) {
	h := testKey(0).NewHasher()
	p := make([]byte, manifest.BlockSize)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		h.Block(p)
	}
}

func BenchmarkIsZero(b *testing.B) {
	p := make([]byte, manifest.BlockSize)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		manifest.IsZero(p)
	}
}
