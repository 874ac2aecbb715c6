package xva

import (
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
)

// Checksum is a kind of checksums: what is added to a chunk's name to name the file with its checksum (xapi-facts §10.3).
type Checksum string

const (
	SHA1  Checksum = ".checksum" // 40 lower-case hexadecimal digits; every release takes it
	XXH64 Checksum = ".xxhash"   // with seed 0, 16 upper-case hexadecimal digits; what newer releases write
)

// maxChecksum is the size of the longer of the two.
const maxChecksum = 2 * sha1.Size

// of gives the text that a chunk's checksum file must hold.
func (c Checksum) of(chunk []byte) string {
	if c == SHA1 {
		sum := sha1.Sum(chunk)
		return hex.EncodeToString(sum[:])
	}
	return fmt.Sprintf("%016X", xxh64(chunk))
}

// The primes of XXH64 (xxHash specification, 'XXH64 algorithm description').
const (
	prime1 uint64 = 0x9E3779B185EBCA87
	prime2 uint64 = 0xC2B2AE3D27D4EB4F
	prime3 uint64 = 0x165667B19E3779F9
	prime4 uint64 = 0x85EBCA77C2B2AE63
	prime5 uint64 = 0x27D4EB2F165667C5
)

func xxhRound(accumulator, lane uint64) uint64 {
	return bits.RotateLeft64(accumulator+lane*prime2, 31) * prime1
}

// xxh64 is XXH64 with seed 0.
func xxh64(b []byte) uint64 {
	length := uint64(len(b))
	var sum uint64
	if len(b) < 32 {
		sum = prime5
	} else {
		var first, none uint64 = prime1, 0 // variables: the sums below wrap around, which constants may not
		lanes := [4]uint64{first + prime2, prime2, none, none - prime1}
		for ; len(b) >= 32; b = b[32:] {
			for n := range lanes {
				lanes[n] = xxhRound(lanes[n], binary.LittleEndian.Uint64(b[8*n:]))
			}
		}
		for n, rotation := range [4]int{1, 7, 12, 18} {
			sum += bits.RotateLeft64(lanes[n], rotation)
		}
		for _, lane := range lanes {
			sum = (sum^xxhRound(0, lane))*prime1 + prime4
		}
	}
	sum += length
	for ; len(b) >= 8; b = b[8:] {
		sum = bits.RotateLeft64(sum^xxhRound(0, binary.LittleEndian.Uint64(b)), 27)*prime1 + prime4
	}
	if len(b) >= 4 {
		sum = bits.RotateLeft64(sum^uint64(binary.LittleEndian.Uint32(b))*prime1, 23)*prime2 + prime3
		b = b[4:]
	}
	for _, c := range b {
		sum = bits.RotateLeft64(sum^uint64(c)*prime5, 11) * prime1
	}
	sum = (sum ^ sum>>33) * prime2
	sum = (sum ^ sum>>29) * prime3
	return sum ^ sum>>32
}
