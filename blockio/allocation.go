package blockio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"slices"

	"golang.org/x/sys/unix"
)

// AllocationUnit is the unit of an AllocationMap in bytes: the granularity of changed block tracking (xapi-facts §11) and of qcow2
// clusters.
const AllocationUnit = 64 << 10

// AllocationMap marks parts of a device: those that hold data, or those that changed. A range is marked outward, in whole units, so
// that what is not marked is surely none of them. It takes 2 MiB a TiB, however fragmented the device is.
//
// It may be read by several goroutines; marking needs it alone.
type AllocationMap struct {
	size  int64
	words []uint64 // unit i is bit i%64 of word i/64
}

// ErrMap is returned for a map that is not what it should be: damaged, or of another device.
var ErrMap = errors.New("blockio: bad allocation map")

// NewAllocationMap returns a map of a device of size bytes with nothing marked.
func NewAllocationMap(size int64) *AllocationMap {
	units := (max(size, 0) + AllocationUnit - 1) / AllocationUnit
	return &AllocationMap{size: max(size, 0), words: make([]uint64, (units+63)/64)}
}

// ParseBitmap reads a bitmap as VDI.list_changed_blocks gives it: one bit a unit, the first in the highest bit of a byte
// (xapi-facts §11). Bits beyond the size are ignored: storage rounds a disk up. A bitmap that is too short is ErrMap.
func ParseBitmap(bitmap []byte, size int64) (*AllocationMap, error) {
	m := NewAllocationMap(size)
	if units := m.units(); int64(len(bitmap)) < (units+7)/8 {
		return nil, fmt.Errorf("%w: a bitmap of %d bytes for a device of %d bytes, which has %d units of %d", ErrMap, len(bitmap), size, units, AllocationUnit)
	}
	for i := range m.words {
		for b := range 8 {
			if at := 8*i + b; at < len(bitmap) {
				m.words[i] |= uint64(bits.Reverse8(bitmap[at])) << (8 * b)
			}
		}
	}
	m.trim()
	return m, nil
}

func (m *AllocationMap) units() int64 { return (m.size + AllocationUnit - 1) / AllocationUnit }

// trim clears bits beyond the size.
func (m *AllocationMap) trim() {
	if rest := m.units() % 64; rest > 0 {
		m.words[len(m.words)-1] &= 1<<rest - 1
	}
}

// Size is the size of the device in bytes.
func (m *AllocationMap) Size() int64 { return m.size }

// Mark marks every unit that the range touches. What lies outside the device is ignored.
func (m *AllocationMap) Mark(off, length int64) {
	end := m.size
	if length < end-off {
		end = off + length
	}
	off = max(off, 0)
	if off >= end {
		return
	}
	first, last := off/AllocationUnit, (end-1)/AllocationUnit
	for word := first / 64; word <= last/64; word++ {
		mask := ^uint64(0)
		if word == first/64 {
			mask &= ^uint64(0) << (first % 64)
		}
		if word == last/64 {
			mask &= ^uint64(0) >> (63 - last%64)
		}
		m.words[word] |= mask
	}
}

// Word returns 64 units as a bitmap, unit 64 × i in its lowest bit.
func (m *AllocationMap) Word(i int) uint64 { return m.words[i] }

// Words is the number of words, the last of which may be used in part.
func (m *AllocationMap) Words() int { return len(m.words) }

// Marked reports whether any unit that the range touches is marked.
func (m *AllocationMap) Marked(off, length int64) bool {
	for range m.Within(off, length) {
		return true
	}
	return false
}

// Bytes is how much is marked.
func (m *AllocationMap) Bytes() int64 {
	units := 0
	for _, w := range m.words {
		units += bits.OnesCount64(w)
	}
	total := int64(units) * AllocationUnit
	if last := m.units() - 1; last >= 0 && m.words[last/64]>>(last%64)&1 == 1 {
		total -= (last+1)*AllocationUnit - m.size
	}
	return total
}

// Ranges yields the marked ranges, ascending and apart from each other, as offset and length.
func (m *AllocationMap) Ranges() iter.Seq2[int64, int64] { return m.Within(0, m.size) }

// Within yields the marked parts of a range, ascending and apart from each other, as offset and length.
func (m *AllocationMap) Within(off, length int64) iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		end := m.size
		if length < end-off {
			end = off + length
		}
		for at := max(off, 0); at < end; {
			start := m.next(at, end, 0)
			if start >= end {
				return
			}
			at = m.next(start, end, ^uint64(0))
			if !yield(start, at-start) {
				return
			}
		}
	}
}

// next returns the first offset from at on that lies in a unit which is marked, or with flip all ones in one which is not; end when
// there is none.
func (m *AllocationMap) next(at, end int64, flip uint64) int64 {
	unit := at / AllocationUnit
	for word := int(unit / 64); word < len(m.words); word++ {
		w := m.words[word] ^ flip
		if word == int(unit/64) {
			w &= ^uint64(0) << (unit % 64)
		}
		if w != 0 {
			first := (int64(word)*64 + int64(bits.TrailingZeros64(w))) * AllocationUnit
			return min(max(first, at), end)
		}
		if int64(word+1)*64*AllocationUnit >= end {
			break
		}
	}
	return end
}

// Clone returns a copy.
func (m *AllocationMap) Clone() *AllocationMap {
	return &AllocationMap{size: m.size, words: slices.Clone(m.words)}
}

// Union marks what o marks, too. The maps must be of one size, else it is ErrMap.
func (m *AllocationMap) Union(o *AllocationMap) error {
	if m.size != o.size {
		return m.unlike(o)
	}
	for i := range m.words {
		m.words[i] |= o.words[i]
	}
	return nil
}

// Intersect leaves marked only what o marks, too. The maps must be of one size, else it is ErrMap.
func (m *AllocationMap) Intersect(o *AllocationMap) error {
	if m.size != o.size {
		return m.unlike(o)
	}
	for i := range m.words {
		m.words[i] &= o.words[i]
	}
	return nil
}

func (m *AllocationMap) unlike(o *AllocationMap) error {
	return fmt.Errorf("%w: of a device of %d bytes, the other of %d", ErrMap, m.size, o.size)
}

// Resize makes it the map of a device of another size. What is new is marked, since nothing is known of it.
func (m *AllocationMap) Resize(size int64) *AllocationMap {
	resized := NewAllocationMap(size)
	copy(resized.words, m.words)
	if len(resized.words) > 0 {
		resized.trim()
	}
	if size > m.size {
		resized.Mark(m.size, size-m.size)
	}
	return resized
}

// Append appends the encoded map: its size, then the lengths in units of what is not and what is marked in turn, all as uvarints.
func (m *AllocationMap) Append(p []byte) []byte {
	p = binary.AppendUvarint(p, uint64(m.size))
	at := int64(0) // unit
	for off, length := range m.Ranges() {
		first, count := off/AllocationUnit, (length+AllocationUnit-1)/AllocationUnit
		p = binary.AppendUvarint(p, uint64(first-at))
		p = binary.AppendUvarint(p, uint64(count))
		at = first + count
	}
	return p
}

// ParseAllocationMap decodes what Append made, of a device of exactly size bytes; anything else is ErrMap.
func ParseAllocationMap(p []byte, size int64) (*AllocationMap, error) {
	next := func() (int64, bool) {
		v, n := binary.Uvarint(p)
		if n <= 0 || v > 1<<62 || n > 1 && p[n-1] == 0 { // or longer than it need be
			return 0, false
		}
		p = p[n:]
		return int64(v), true
	}
	told, ok := next()
	if !ok || told != size {
		return nil, fmt.Errorf("%w: it is of a device of %d bytes, want %d", ErrMap, told, size)
	}
	m := NewAllocationMap(size)
	for at := int64(0); len(p) > 0; {
		gap, ok := next()
		count, also := next()
		switch {
		case !ok || !also:
			return nil, fmt.Errorf("%w: it is cut or damaged", ErrMap)
		case gap == 0 && at > 0 || count == 0:
			return nil, fmt.Errorf("%w: a range without length", ErrMap)
		case gap >= m.units()-at || count > m.units()-at-gap:
			return nil, fmt.Errorf("%w: it marks more than %d units", ErrMap, m.units())
		}
		m.Mark((at+gap)*AllocationUnit, count*AllocationUnit)
		at += gap + count
	}
	return m, nil
}

// Allocator is a device that can tell where it holds data.
type Allocator interface {
	// Allocation returns a map in which everything is marked that may read as other than zero.
	Allocation() (*AllocationMap, error)
}

// Allocation asks a device where it holds data. One that cannot tell has all of it marked.
func Allocation(device Readable) (*AllocationMap, error) {
	if a, ok := device.(Allocator); ok {
		return a.Allocation()
	}
	m := NewAllocationMap(device.Size())
	m.Mark(0, m.size)
	return m, nil
}

// Allocation implements Allocator.
func (m *Meter) Allocation() (*AllocationMap, error) { return Allocation(m.dev) }

// Allocation implements Allocator.
func (f *Faulty) Allocation() (*AllocationMap, error) { return Allocation(f.dev) }

// Allocation implements Allocator. A file's holes are found by SEEK_DATA and SEEK_HOLE (lseek(2)); those of a block device are not
// told by the kernel.
func (d *file) Allocation() (*AllocationMap, error) {
	d.state.RLock()
	defer d.state.RUnlock()
	if d.closed {
		return nil, ErrClosed
	}
	m := NewAllocationMap(d.size)
	if d.block {
		m.Mark(0, d.size)
		return m, nil
	}
	fd := int(d.any().Fd())
	for at := int64(0); at < d.size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return m, nil // a hole up to the end
		}
		var hole int64
		if err == nil {
			hole, err = unix.Seek(fd, data, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, fmt.Errorf("blockio: %s: find holes from offset %d: %w", d.path, at, err)
		}
		m.Mark(data, hole-data)
		at = hole
	}
	return m, nil
}
