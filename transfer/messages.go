package transfer

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/understudy-dr/understudy/manifest"
	"github.com/understudy-dr/understudy/netproto"
)

// Message types. Those from 0x80 count in netproto's window. docs/protocol.md
// is the specification.
const (
	typeOpen     netproto.Type = 0x10 // S → R
	typeBaseline netproto.Type = 0x11 // R → S
	typeOffer    netproto.Type = 0x12 // S → R
	typePassed   netproto.Type = 0x13 // S → R
	typeWant     netproto.Type = 0x14 // R → S
	typeAck      netproto.Type = 0x15 // R → S
	typeEnd      netproto.Type = 0x16 // S → R
	typeResult   netproto.Type = 0x17 // R → S
	typeData     netproto.Type = 0x80 // S → R
)

// Limits of the conversation. They are part of the protocol: a peer that
// exceeds one breaks it.
const (
	// scanWindow is how many extents beyond PASSED the receiver scans.
	scanWindow = 256
	// maxOffers is how many offers may wait for their WANT.
	maxOffers = 256
	// runAhead is how many extents beyond ACK the sender may tell of: it
	// bounds what both ends hold of extents that are not durable, and so
	// lies below maxRecords.
	runAhead = 1536
	// baselineBatch is how many digests one BASELINE holds at most.
	baselineBatch = 32
	// gatherBlocks is how many blocks one DATA holds at most (1 MiB).
	gatherBlocks = 16
	maxTask      = 64
)

// mode says how the baseline is known.
type mode uint8

const (
	modeScan    mode = 1 // the receiver scans and sends BASELINE
	modeTrusted mode = 2 // the sender has the receiver's manifest
)

// open is the first message: the sender says what it was told. The conversation is about the extents from start on, those below are
// settled already.
type open struct {
	mode  mode
	start uint32
	size  int64
	key   manifest.KeyID
	task  string
}

func (m open) append(b []byte) []byte {
	b = append(b, byte(m.mode), byte(len(m.task)), 0, 0)
	b = binary.BigEndian.AppendUint32(b, m.start)
	b = binary.BigEndian.AppendUint64(b, uint64(m.size))
	b = append(b, m.key[:]...)
	return append(b, m.task...)
}

func decodeOpen(p []byte) (m open, err error) {
	const fixed = 24
	if len(p) < fixed || len(p) != fixed+int(p[1]) {
		return m, malformed("OPEN", "its length is %d", len(p))
	}
	m.mode = mode(p[0])
	m.start = binary.BigEndian.Uint32(p[4:])
	m.size = int64(binary.BigEndian.Uint64(p[8:]))
	m.key = manifest.KeyID(p[16:24])
	m.task = string(p[fixed:])
	switch {
	case m.mode != modeScan && m.mode != modeTrusted:
		return m, malformed("OPEN", "mode %d is unknown", m.mode)
	case p[2]|p[3] != 0:
		return m, malformed("OPEN", "reserved bytes % x", p[2:4])
	case len(m.task) == 0 || len(m.task) > maxTask:
		return m, malformed("OPEN", "the task's name has %d bytes", len(m.task))
	}
	g := manifest.Geometry{Size: m.size}
	if err := g.Validate(); err != nil {
		return m, malformed("OPEN", "%v", err)
	}
	if m.start > g.Extents() {
		return m, malformed("OPEN", "it starts at extent %d of %d", m.start, g.Extents())
	}
	return m, nil
}

// baseline carries the digests of consecutive extents from first.
type baseline struct {
	first   uint32
	digests []manifest.Digest
}

func (m baseline) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, m.first)
	for i := range m.digests {
		b = append(b, m.digests[i][:]...)
	}
	return b
}

func decodeBaseline(p []byte) (m baseline, err error) {
	n := (len(p) - 4) / len(manifest.Digest{})
	if n < 1 || n > baselineBatch || len(p) != 4+n*len(manifest.Digest{}) {
		return m, malformed("BASELINE", "its length is %d", len(p))
	}
	m.first = binary.BigEndian.Uint32(p)
	m.digests = make([]manifest.Digest, n)
	for i := range m.digests {
		copy(m.digests[i][:], p[4+i*len(m.digests[i]):])
	}
	return m, nil
}

// shortDigest is the truncated digest that decides 'same' on the wire.
type shortDigest = [16]byte

// want is an answer to an offer: the blocks that shall be sent, maybe none, and those that a later answer will be about; every other
// block of the offer needs no data. blocks and later are disjoint. Of the blocks in parted, a subset of blocks, parts holds
// the digests of the old content's parts, ascending; only the parts that differ need to be sent.
type want struct {
	extent uint32
	blocks uint64
	later  uint64
	parted uint64
	parts  []partDigest
}

func (m *want) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, m.extent)
	bitmaps := [...]uint64{m.blocks, m.later, m.parted}
	for _, bitmap := range bitmaps[:m.last()+1] {
		b = binary.BigEndian.AppendUint64(b, bitmap)
	}
	for i := range m.parts {
		b = append(b, m.parts[i][:]...)
	}
	return b
}

// last is the number of the last bitmap that stands in the message: those behind
// it are left out, for they are zero.
func (m *want) last() int {
	switch {
	case m.parted != 0:
		return 2
	case m.later != 0:
		return 1
	}
	return 0
}

func decodeWant(p []byte, g manifest.Geometry) (*want, error) {
	const first, bitmap = 4, 8
	if len(p) < first+bitmap {
		return nil, malformed("WANT", "its length is %d", len(p))
	}
	m := &want{extent: binary.BigEndian.Uint32(p)}
	rest, last := p[first:], -1
	for _, to := range []*uint64{&m.blocks, &m.later, &m.parted} {
		if len(rest) >= bitmap {
			*to, rest = binary.BigEndian.Uint64(rest), rest[bitmap:]
			last++
		}
	}
	switch {
	case last != m.last():
		return nil, malformed("WANT", "its length is %d, and its last bitmap zero", len(p))
	case m.extent >= g.Extents():
		return nil, malformed("WANT", "extent %d is beyond the disk's %d", m.extent, g.Extents())
	case (m.blocks|m.later)&^fullBitmap(g, m.extent) != 0 || m.blocks&m.later != 0 || m.parted&^m.blocks != 0:
		return nil, malformed("WANT", "blocks %#x, later %#x, in parts %#x of extent %d", m.blocks, m.later, m.parted, m.extent)
	}
	count := 0
	for b := range ones(m.parted) {
		count += partsIn(blockLength(g, m.extent, b))
	}
	if len(rest) != count*len(partDigest{}) {
		return nil, malformed("WANT", "its length is %d, for %d parts", len(p), count)
	}
	m.parts = make([]partDigest, count)
	for i := range m.parts {
		copy(m.parts[i][:], rest[i*len(partDigest{}):])
	}
	return m, nil
}

// appendNumber encodes PASSED and ACK, which hold one extent number.
func appendNumber(b []byte, extent uint32) []byte { return binary.BigEndian.AppendUint32(b, extent) }

func decodeNumber(name string, p []byte, g manifest.Geometry) (uint32, error) {
	if len(p) != 4 {
		return 0, malformed(name, "its length is %d", len(p))
	}
	n := binary.BigEndian.Uint32(p)
	if n > g.Extents() {
		return 0, malformed(name, "%d is beyond the disk's %d extents", n, g.Extents())
	}
	return n, nil
}

// end closes the sender's side; result is its digest over all that was
// offered.
type end struct{ result manifest.Digest }

func (m end) append(b []byte) []byte { return append(b, m.result[:]...) }

func decodeEnd(p []byte) (m end, err error) {
	if len(p) != len(m.result) {
		return m, malformed("END", "its length is %d", len(p))
	}
	copy(m.result[:], p)
	return m, nil
}

// result is the receiver's last word: everything is durable.
type result struct {
	result                              manifest.Digest
	same, zero, copied, sent, spared    int64 // content by verdict, in bytes
	readBytes, writtenBytes, bytesTotal int64 // I/O on the target; bytesTotal is the logical size
}

func (m *result) numbers() []*int64 {
	return []*int64{&m.same, &m.zero, &m.copied, &m.sent, &m.spared, &m.readBytes, &m.writtenBytes, &m.bytesTotal}
}

func (m *result) append(b []byte) []byte {
	b = append(b, m.result[:]...)
	for _, n := range m.numbers() {
		b = binary.BigEndian.AppendUint64(b, uint64(*n))
	}
	return b
}

func decodeResult(p []byte) (m result, err error) {
	numbers := m.numbers()
	if len(p) != len(m.result)+8*len(numbers) {
		return m, malformed("RESULT", "its length is %d", len(p))
	}
	copy(m.result[:], p)
	for i, n := range numbers {
		if *n = int64(binary.BigEndian.Uint64(p[len(m.result)+8*i:])); *n < 0 {
			return m, malformed("RESULT", "counter %d is negative", i)
		}
	}
	for _, n := range numbers[:5] {
		if *n > m.bytesTotal {
			return m, malformed("RESULT", "a verdict counts %d of %d bytes", *n, m.bytesTotal)
		}
	}
	if sum := m.same + m.zero + m.copied + m.sent + m.spared; sum != m.bytesTotal {
		return m, malformed("RESULT", "the verdicts add up to %d of %d bytes", sum, m.bytesTotal)
	}
	return m, nil
}

// fullBitmap has a bit for each block of an extent.
func fullBitmap(g manifest.Geometry, extent uint32) uint64 {
	return ^uint64(0) >> (64 - g.BlocksIn(extent))
}

// contentLength is the number of bytes that blocks of an extent hold.
func contentLength(g manifest.Geometry, extent uint32, blocks uint64) int {
	n := 0
	for b := range ones(blocks) {
		n += blockLength(g, extent, b)
	}
	return n
}

// blockLength is the length of block b of an extent: the disk's last block is
// as short as the logical size makes it.
func blockLength(g manifest.Geometry, extent uint32, b int) int {
	_, n := g.BlockRange(extent*manifest.BlocksPerExtent + uint32(b))
	return n
}

// ones yields the positions of the set bits, ascending.
func ones(bitmap uint64) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for ; bitmap != 0; bitmap &= bitmap - 1 {
			if !yield(bits.TrailingZeros64(bitmap)) {
				return
			}
		}
	}
}

func malformed(message, format string, args ...any) error {
	return fmt.Errorf("%w: malformed %s: "+format, append([]any{ErrProtocol, message}, args...)...)
}
