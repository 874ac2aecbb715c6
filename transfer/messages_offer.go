package transfer

import (
	"encoding/binary"
	"math/bits"

	"github.com/understudy-dr/understudy/manifest"
)

// offer says what one extent holds at the sender. Bit i of a bitmap is block i
// of the extent. zero and copied are subsets of blocks; copied and zero are
// disjoint. parts asks for the digests of old blocks' parts in the answer. digests holds those of blocks without zero, sources one position
// for each bit of copied, anchors those of windows, all in ascending order.
type offer struct {
	extent  uint32
	parts   bool
	look    bool
	blocks  uint64
	zero    uint64
	copied  uint64
	digests []shortDigest
	sources []position
	anchors anchors
}

// The flags of an offer: it asks for part digests, the sink is to look at what
// it has before it asks for a block, and there are anchors.
const (
	offerParts = 1 << iota
	offerLook
	offerAnchors
)

// short returns the digest of a block that is offered and not zero.
func (m *offer) short(b int) shortDigest {
	return m.digests[bits.OnesCount64((m.blocks&^m.zero)&(1<<b-1))]
}

func (m *offer) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, m.extent)
	var flags byte
	if m.parts {
		flags |= offerParts
	}
	if m.look {
		flags |= offerLook
	}
	if m.anchors.blocks != 0 {
		flags |= offerAnchors
	}
	b = append(b, flags, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, m.blocks)
	b = binary.BigEndian.AppendUint64(b, m.zero)
	b = binary.BigEndian.AppendUint64(b, m.copied)
	for i := range m.digests {
		b = append(b, m.digests[i][:]...)
	}
	for _, s := range m.sources {
		b = binary.BigEndian.AppendUint64(b, uint64(s))
	}
	if m.anchors.blocks != 0 {
		b = binary.BigEndian.AppendUint64(b, m.anchors.blocks)
	}
	for _, a := range m.anchors.of {
		b = a.append(b)
	}
	return b
}

func decodeOffer(p []byte, g manifest.Geometry) (m *offer, err error) {
	const fixed = 32
	if len(p) < fixed {
		return nil, malformed("OFFER", "its length is %d", len(p))
	}
	m = &offer{
		extent: binary.BigEndian.Uint32(p),
		parts:  p[4]&offerParts != 0,
		look:   p[4]&offerLook != 0,
		blocks: binary.BigEndian.Uint64(p[8:]),
		zero:   binary.BigEndian.Uint64(p[16:]),
		copied: binary.BigEndian.Uint64(p[24:]),
	}
	digests, sources := bits.OnesCount64(m.blocks&^m.zero), bits.OnesCount64(m.copied)
	length := fixed + 16*digests + 8*sources
	if p[4]&offerAnchors != 0 {
		if len(p) >= length+8 {
			m.anchors.blocks = binary.BigEndian.Uint64(p[length:])
		}
		length += 8 + anchorBytes*bits.OnesCount64(m.anchors.blocks)
	}
	switch {
	case p[4]&^(offerParts|offerLook|offerAnchors)|p[5]|p[6]|p[7] != 0:
		return nil, malformed("OFFER", "flags % x", p[4:8])
	case m.extent >= g.Extents():
		return nil, malformed("OFFER", "extent %d is beyond the disk's %d", m.extent, g.Extents())
	case m.blocks == 0 || m.blocks&^fullBitmap(g, m.extent) != 0:
		return nil, malformed("OFFER", "blocks %#x of extent %d", m.blocks, m.extent)
	case m.zero&^m.blocks != 0 || m.copied&^m.blocks != 0 || m.zero&m.copied != 0:
		return nil, malformed("OFFER", "zero %#x or copied %#x are not parts of blocks %#x", m.zero, m.copied, m.blocks)
	case m.anchors.blocks&^(m.blocks&^m.zero) != 0 || p[4]&offerAnchors != 0 && m.anchors.blocks == 0:
		return nil, malformed("OFFER", "anchors of blocks %#x of %#x", m.anchors.blocks, m.blocks&^m.zero)
	case len(p) != length:
		return nil, malformed("OFFER", "its length is %d", len(p))
	}
	p = p[fixed:]
	m.digests = make([]shortDigest, digests)
	for i := range m.digests {
		copy(m.digests[i][:], p[16*i:])
	}
	p = p[16*digests:]
	m.sources = make([]position, sources)
	for i := range m.sources {
		if m.sources[i] = position(binary.BigEndian.Uint64(p[8*i:])); m.sources[i] >= blockPosition(g.Blocks()) {
			return nil, malformed("OFFER", "copy from part %d, beyond the disk's %d blocks", m.sources[i], g.Blocks())
		}
	}
	if m.anchors.blocks != 0 {
		p = p[8*sources+8:]
		m.anchors.of = make([]anchor, bits.OnesCount64(m.anchors.blocks))
		for i := range m.anchors.of {
			m.anchors.of[i] = decodeAnchor(p[anchorBytes*i:])
		}
	}
	return m, nil
}
