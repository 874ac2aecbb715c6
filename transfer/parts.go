package transfer

import (
	"math/bits"

	"github.com/understudy-dr/understudy/manifest"
)

// Parts says when changed blocks travel as those 4 KiB parts that differ.
type Parts string

// PartsAuto asks for parts while the line is slow beside the cores.
const (
	PartsAuto Parts = "auto"
	PartsOn   Parts = "on"
	PartsOff  Parts = "off"
)

// wholeBlock has a bit for each part of a block of so many bytes.
func wholeBlock(length int) uint16 { return uint16(1<<partsIn(length) - 1) }

// digestParts appends the digests of a block's parts.
func digestParts(digests []partDigest, h *manifest.Hasher, block []byte) []partDigest {
	for len(block) > 0 {
		part := block[:min(partSize, len(block))]
		block = block[len(part):]
		d := h.Block(part)
		digests = append(digests, partDigest(d[:]))
	}
	return digests
}

// differing returns the parts of a block whose digests are not the old ones. It is never empty: the block differs, and when no
// part seems to, all of them are sent. So they are when three quarters differ: then nobody has to read the old block again.
func differing(h *manifest.Hasher, block []byte, old []partDigest) uint16 {
	var room [partsPerBlock]partDigest
	var parts uint16
	for i, d := range digestParts(room[:0], h, block) {
		if d != old[i] {
			parts |= 1 << i
		}
	}
	if n := bits.OnesCount16(parts); n == 0 || 4*n >= 3*len(old) {
		return wholeBlock(len(block))
	}
	return parts
}

// takeParts moves the parts of a block to its beginning, and returns how many bytes they are.
func takeParts(block []byte, parts uint16) int {
	at := 0
	for i := range partsIn(len(block)) {
		if parts>>i&1 == 1 {
			at += copy(block[at:], block[i*partSize:min((i+1)*partSize, len(block))])
		}
	}
	return at
}

// putParts is the inverse: it puts content, parts of a block, into the block.
func putParts(block, content []byte, parts uint16) {
	for i := range partsIn(len(block)) {
		if parts>>i&1 == 1 {
			content = content[copy(block[i*partSize:min((i+1)*partSize, len(block))], content):]
		}
	}
}

// partsOf returns the digests of the old content's parts of a block in parted.
func (m *want) partsOf(b int) []partDigest {
	first := bits.OnesCount64(m.parted&(1<<b-1)) * partsPerBlock // only the disk's last block has fewer
	return m.parts[first:min(first+partsPerBlock, len(m.parts))]
}

// notePartial notes that a block is sent in parts, before it is. Until ACK covers the extent the sink may find that they do not make
// the block that it was promised, and ask for it once more.
func (s *sendSession) notePartial(p *pending, b int, parts uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.partial == nil {
		p.partial = make([]uint16, manifest.BlocksPerExtent)
		s.partial[p.number] = p
	}
	p.partial[b] = parts
}

// askedAgain takes a WANT of blocks that the sink could not make from their parts.
func (s *sendSession) askedAgain(m *want) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.partial[m.extent]
	if p == nil || m.blocks == 0 || m.later|m.parted != 0 {
		return malformed("WANT", "blocks %#x of extent %d were not offered", m.blocks, m.extent)
	}
	for b := range ones(m.blocks) {
		if p.partial[b] == 0 {
			return malformed("WANT", "block %d of extent %d was not sent in parts", b, m.extent)
		}
		n := blockLength(s.geometry, m.extent, b)
		rest := int64(n - partsLength(n, p.partial[b]))
		s.progress.sent.Add(rest)
		s.progress.spared.Add(-rest)
		p.partial[b] = 0
	}
	s.again = append(s.again, &answer{pending: &pending{extent: p.extent}, want: m, again: true})
	signal(s.againCame)
	return nil
}

// takeAgain takes what was asked for again.
func (s *sendSession) takeAgain() []*answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	again := s.again
	s.again = nil
	return again
}

// forgetPartial drops the notes of extents that are durable at the sink.
func (s *sendSession) forgetPartial(below uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for number := range s.partial {
		if number < below {
			delete(s.partial, number)
		}
	}
}
