package transfer

import (
	"encoding/binary"
	"math/bits"

	"github.com/understudy-dr/understudy/manifest"
)

const (
	// partSize is the unit in which a changed block may travel, in bytes. The last part of a disk is as short as the logical size
	// makes it.
	partSize      = 4 << 10
	partsPerBlock = manifest.BlockSize / partSize
)

// partDigest tells parts apart on the wire: the first bytes of the keyed digest of a part. Two different parts that look the same, one changed part in 65536,
// are noticed by the digest of the whole block, which then travels as a whole. That costs less than a byte for each changed part on average; a longer digest costs
// 16 for each block and byte.
type partDigest = [2]byte

// partsIn is the number of parts of a block of so many bytes.
func partsIn(length int) int { return (length + partSize - 1) / partSize }

// partsLength is the number of bytes that parts of a block of so many bytes hold.
func partsLength(length int, parts uint16) int {
	n := bits.OnesCount16(parts) * partSize
	if last := partsIn(length) - 1; parts>>last&1 == 1 {
		n -= (last+1)*partSize - length
	}
	return n
}

// encoding says how a DATA's content is packed.
type encoding uint8

const (
	encodingRaw  encoding = 0
	encodingZstd encoding = 1 // one zstd frame
)

// dataHeader stands before the content of DATA: blocks of one extent, ascending and without gaps between them. When parts is not empty
// it has an element for each block, and the content holds only those parts of each, ascending; the others are as they were.
type dataHeader struct {
	extent   uint32
	blocks   uint64
	encoding encoding
	parts    []uint16
}

// dataParts is the flag of a DATA that holds parts.
const dataParts = 1

const dataHeaderSize = 16

func (m dataHeader) append(b []byte) []byte {
	var flags byte
	if len(m.parts) > 0 {
		flags = dataParts
	}
	b = binary.BigEndian.AppendUint32(b, m.extent)
	b = append(b, byte(m.encoding), flags, 0, 0)
	b = binary.BigEndian.AppendUint64(b, m.blocks)
	for _, parts := range m.parts {
		b = binary.BigEndian.AppendUint16(b, parts)
	}
	return b
}

// length is the number of bytes that the content unpacks to.
func (m dataHeader) length(g manifest.Geometry) int {
	if len(m.parts) == 0 {
		return contentLength(g, m.extent, m.blocks)
	}
	n, i := 0, 0
	for b := range ones(m.blocks) {
		n += partsLength(blockLength(g, m.extent, b), m.parts[i])
		i++
	}
	return n
}

// partial has the blocks of which not all parts are here.
func (m dataHeader) partial(g manifest.Geometry) (blocks uint64) {
	i := 0
	for b := range ones(m.blocks) {
		if len(m.parts) > 0 && m.parts[i] != wholeBlock(blockLength(g, m.extent, b)) {
			blocks |= 1 << b
		}
		i++
	}
	return blocks
}

func decodeData(p []byte, g manifest.Geometry) (m dataHeader, content []byte, err error) {
	if len(p) <= dataHeaderSize {
		return m, nil, malformed("DATA", "its length is %d", len(p))
	}
	m = dataHeader{extent: binary.BigEndian.Uint32(p), encoding: encoding(p[4]), blocks: binary.BigEndian.Uint64(p[8:])}
	content = p[dataHeaderSize:]
	switch {
	case m.encoding > encodingZstd || p[5]&^dataParts|p[6]|p[7] != 0:
		return m, nil, malformed("DATA", "encoding % x is unknown", p[4:8])
	case m.extent >= g.Extents() || m.blocks == 0 || m.blocks&^fullBitmap(g, m.extent) != 0:
		return m, nil, malformed("DATA", "blocks %#x of extent %d", m.blocks, m.extent)
	}
	if p[5] == dataParts {
		if content, err = m.decodeParts(content, g); err != nil {
			return m, nil, err
		}
	}
	switch length := m.length(g); {
	case length > maxContent:
		return m, nil, malformed("DATA", "it gathers %d bytes; at most %d are allowed", length, maxContent)
	case m.encoding == encodingRaw && len(content) != length:
		return m, nil, malformed("DATA", "%d bytes for blocks %#x, which have %d", len(content), m.blocks, length)
	}
	return m, content, nil
}

// decodeParts takes the bitmaps of parts, and returns what follows them.
func (m *dataHeader) decodeParts(p []byte, g manifest.Geometry) (content []byte, err error) {
	count := bits.OnesCount64(m.blocks)
	if len(p) <= 2*count {
		return nil, malformed("DATA", "%d bytes after its header, for parts of %d blocks", len(p), count)
	}
	m.parts = make([]uint16, 0, count)
	for b := range ones(m.blocks) {
		parts := binary.BigEndian.Uint16(p)
		p = p[2:]
		if parts == 0 || parts>>partsIn(blockLength(g, m.extent, b)) != 0 {
			return nil, malformed("DATA", "parts %#x of block %d of extent %d", parts, b, m.extent)
		}
		m.parts = append(m.parts, parts)
	}
	return p, nil
}
