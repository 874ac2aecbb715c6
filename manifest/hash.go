package manifest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/zeebo/blake3"
)

// Digest is a keyed BLAKE3 digest: of a block, of an extent's block digests, or of a disk's extent digests (a root).
type Digest [32]byte

// Short returns the first 16 bytes, which decide 'same' on the wire.
func (d Digest) Short() [16]byte { return [16]byte(d[:16]) }

// ParseDigest is the inverse of Digest.String.
func ParseDigest(s string) (d Digest, err error) { return d, parseHex(d[:], "digest", s) }

// String returns the digest in lower-case hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText is String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDigest.
func (d *Digest) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDigest(string(text))
	return err
}

var zeroes [BlockSize]byte

// IsZero reports whether every byte of p is zero; also for an empty p.
func IsZero(p []byte) bool {
	const page = 4096 // stays in the innermost cache while p streams past
	for len(p) > page {
		if !bytes.Equal(p[:page], zeroes[:page]) {
			return false
		}
		p = p[page:]
	}
	return bytes.Equal(p, zeroes[:len(p)])
}

// Hasher computes block and extent digests of one domain. It allocates nothing after its making and is not for concurrent use:
// each goroutine has its own.
type Hasher struct {
	block, extent *blake3.Hasher
	zeroBlock     Digest // of BlockSize zero bytes, once asked for
}

// NewHasher returns a Hasher of the Key's domain. It panics on the zero Key.
func (k Key) NewHasher() *Hasher {
	if k.IsZero() {
		panic("manifest: NewHasher of the zero Key")
	}
	return &Hasher{block: newKeyed(&k.keys().block), extent: newKeyed(&k.keys().extent)}
}

// Block returns the digest of exactly the bytes of p: a whole block, or the shorter last block of a disk. It panics unless p
// has 1 to BlockSize bytes.
func (h *Hasher) Block(p []byte) Digest {
	if len(p) == 0 || len(p) > BlockSize {
		panic(fmt.Sprintf("manifest: a block of %d bytes", len(p)))
	}
	return sum(h.block, p)
}

// ZeroBlock returns the digest of length zero bytes, 1 to BlockSize.
func (h *Hasher) ZeroBlock(length int) Digest {
	if length != BlockSize {
		return h.Block(zeroes[:length])
	}
	if h.zeroBlock == (Digest{}) {
		h.zeroBlock = h.Block(zeroes[:])
	}
	return h.zeroBlock
}

// ZeroBlocks returns the block digests of an extent that holds only zeroes.
func (h *Hasher) ZeroBlocks(g Geometry, extent uint32) []Digest {
	blocks := make([]Digest, g.BlocksIn(extent))
	for i := range blocks {
		_, length := g.BlockRange(extent*BlocksPerExtent + uint32(i))
		blocks[i] = h.ZeroBlock(length)
	}
	return blocks
}

// Extent returns the digest of an extent from those of its blocks, 1 to BlocksPerExtent. The number of blocks and, through
// their digests, the length of the last one count.
func (h *Hasher) Extent(blocks []Digest) Digest {
	if len(blocks) == 0 || len(blocks) > BlocksPerExtent {
		panic(fmt.Sprintf("manifest: an extent of %d blocks", len(blocks)))
	}
	h.extent.Reset()
	for i := range blocks {
		_, _ = h.extent.Write(blocks[i][:]) // never fails
	}
	var d Digest
	h.extent.Sum(d[:0])
	return d
}

// RootHasher computes a root: the digest of the logical size and of all extent digests in order. Not for concurrent use.
type RootHasher struct {
	hash     *blake3.Hasher
	geometry Geometry
	added    uint32
}

// NewRoot returns a RootHasher for a disk. It panics on the zero Key.
func (k Key) NewRoot(g Geometry) *RootHasher {
	if k.IsZero() {
		panic("manifest: NewRoot of the zero Key")
	}
	r := &RootHasher{hash: newKeyed(&k.keys().root), geometry: g}
	_, _ = r.hash.Write(binary.BigEndian.AppendUint64(nil, uint64(g.Size)))
	return r
}

// Add takes the digest of the next extent.
func (r *RootHasher) Add(extent Digest) {
	_, _ = r.hash.Write(extent[:])
	r.added++
}

// Added is the number of extent digests taken so far, and so the extent whose digest is next.
func (r *RootHasher) Added() uint32 { return r.added }

// Sum returns the root; it may be called again. It is an ErrInvalid when the geometry is, or when more or fewer digests were added than it has
// extents.
func (r *RootHasher) Sum() (Digest, error) {
	if err := r.geometry.Validate(); err != nil {
		return Digest{}, fmt.Errorf("root: %w", err)
	}
	if want := r.geometry.Extents(); r.added != want {
		return Digest{}, fmt.Errorf("root: %w: %d extent digests for a disk of %d extents", ErrInvalid, r.added, want)
	}
	var d Digest
	r.hash.Sum(d[:0])
	return d, nil
}

// rootOf returns the root over extent digests.
func rootOf(k Key, g Geometry, extents []Digest) (Digest, error) {
	root := k.NewRoot(g)
	for i := range extents {
		root.Add(extents[i])
	}
	return root.Sum()
}

func newKeyed(key *[KeySize]byte) *blake3.Hasher {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("manifest: " + err.Error()) // only for a key of another length
	}
	return h
}

func sum(h *blake3.Hasher, p []byte) (d Digest) {
	h.Reset()
	_, _ = h.Write(p) // never fails
	h.Sum(d[:0])
	return d
}
