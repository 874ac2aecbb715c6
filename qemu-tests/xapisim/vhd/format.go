package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf16"
)

// The kinds of flaws. An error about the content of a stream matches one of them with errors.Is; others are those of the
// underlying reader or writer.
var (
	ErrFormat    = errors.New("malformed VHD")
	ErrChecksum  = errors.New("checksum mismatch")
	ErrSize      = errors.New("size out of bounds")
	ErrTruncated = errors.New("truncated VHD")
)

const (
	// BlockSize is the length of the blocks that Write makes, in bytes; storage drivers read no other.
	BlockSize = 2 << 20
	// MaxSize is the size of the largest disk, in bytes (SM libs/sm/vhdutil.py, MAX_VHD_SIZE).
	MaxSize = 2040 << 30
)

const (
	sectorSize    = 512
	footerSize    = 512
	headerSize    = 1024
	locatorOffset = footerSize + headerSize
	tableOffset   = locatorOffset + sectorSize
	unused        = 0xffffffff // in the allocation table
	version       = 0x00010000
	nowhere       = 0xffffffffffffffff // the header's data offset
	kindDynamic   = 3
	kindDiffering = 4
	macX          = 0x4d616358 // 'MacX': a locator that is a file:// URI
)

// ID is the unique id of an image, a UUID.
type ID [16]byte

// Disk describes an image.
type Disk struct {
	Size   int64 // bytes, a multiple of 512, up to MaxSize
	ID     ID
	Parent *Parent // of a differencing image
}

// Parent is the image that a differencing one lies on.
type Parent struct {
	ID       ID
	Modified time.Time // in whole seconds, not before 2000
	Name     string    // path of the file
	Locator  string    // "file://" and a path; Write makes it from Name
}

// epoch is where the format's time begins, in Unix seconds: 2000-01-01T00:00:00Z.
const epoch = 946684800

// checksum is the complement of the sum of all bytes, with the field of the checksum itself taken as zero.
func checksum(b []byte, field int) uint32 {
	var sum uint32
	for n, c := range b {
		if n < field || n >= field+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}

// Where the checksums stand.
const (
	footerChecksum = 64
	headerChecksum = 36
)

// geometry is the disk's cylinders, heads and sectors a track ('CHS Calculation' of the specification).
func geometry(size int64) (cylinders uint16, heads, sectors uint8) {
	total := min(size/sectorSize, 65535*16*255)
	track, head := int64(255), int64(16)
	if total <= 65535*16*63 {
		track = 17
		head = max((total/track+1023)/1024, 4)
		if total/track >= head*1024 || head > 16 {
			track, head = 31, 16
		}
		if total/track >= head*1024 {
			track, head = 63, 16
		}
	}
	return uint16(total / track / head), uint8(head), uint8(track)
}

func (d Disk) check() error {
	if d.Size <= 0 || d.Size > MaxSize || d.Size%sectorSize != 0 {
		return fmt.Errorf("vhd: %w: a disk of %d bytes: want a multiple of %d up to %d", ErrSize, d.Size, sectorSize, int64(MaxSize))
	}
	return nil
}

// footer is the footer, and its copy at the beginning.
func (d Disk) footer() []byte {
	b := make([]byte, footerSize)
	copy(b, "conectix")
	binary.BigEndian.PutUint32(b[8:], 2) // features: the bit that is always set
	binary.BigEndian.PutUint32(b[12:], version)
	binary.BigEndian.PutUint64(b[16:], footerSize) // the header follows the copy; the time stamp stays 0
	copy(b[28:], "caml")
	binary.BigEndian.PutUint32(b[32:], 1)
	binary.BigEndian.PutUint64(b[40:], uint64(d.Size))
	binary.BigEndian.PutUint64(b[48:], uint64(d.Size))
	cylinders, heads, sectors := geometry(d.Size)
	binary.BigEndian.PutUint16(b[56:], cylinders)
	b[58], b[59] = heads, sectors
	kind := uint32(kindDynamic)
	if d.Parent != nil {
		kind = kindDiffering
	}
	binary.BigEndian.PutUint32(b[60:], kind)
	copy(b[68:], d.ID[:])
	binary.BigEndian.PutUint32(b[footerChecksum:], checksum(b, footerChecksum))
	return b
}

// header is the dynamic header with the parent locator's sector behind it.
func (d Disk) header() ([]byte, error) {
	b := make([]byte, headerSize+sectorSize)
	copy(b, "cxsparse")
	binary.BigEndian.PutUint64(b[8:], nowhere)
	binary.BigEndian.PutUint64(b[16:], tableOffset)
	binary.BigEndian.PutUint32(b[24:], version)
	binary.BigEndian.PutUint32(b[28:], uint32(blocksOf(d.Size, BlockSize)))
	binary.BigEndian.PutUint32(b[32:], BlockSize)
	if d.Parent != nil {
		if err := d.Parent.put(b); err != nil {
			return nil, err
		}
	}
	binary.BigEndian.PutUint32(b[headerChecksum:], checksum(b[:headerSize], headerChecksum))
	return b, nil
}

func (p *Parent) put(b []byte) error {
	name, locator := utf16.Encode([]rune(p.Name)), "file://"+p.Name
	if p.Name == "" || len(name) > 255 || len(locator) > sectorSize {
		return fmt.Errorf("vhd: %w: the parent's name %q: want 1 to 255 characters", ErrSize, p.Name)
	}
	copy(b[40:], p.ID[:])
	binary.BigEndian.PutUint32(b[56:], uint32(p.Modified.Unix()-epoch))
	for n, unit := range name {
		binary.BigEndian.PutUint16(b[64+2*n:], unit)
	}
	binary.BigEndian.PutUint32(b[576:], macX)
	binary.BigEndian.PutUint32(b[580:], 1) // sectors that are its own
	binary.BigEndian.PutUint32(b[584:], uint32(len(locator)))
	binary.BigEndian.PutUint64(b[592:], locatorOffset)
	copy(b[headerSize:], locator)
	return nil
}

// layout is what the footer and the header of an image say.
type layout struct {
	disk      Disk
	header    int64 // where the header is
	table     int64 // where the allocation table is
	entries   int64 // of the table
	blockSize int64
	locator   int64 // where the parent's locator is; 0 for none
	length    int64 // of the locator
}

// parseFooter reads the footer or its copy.
func parseFooter(b []byte) (l layout, err error) {
	kind := binary.BigEndian.Uint32(b[60:])
	switch {
	case string(b[:8]) != "conectix":
		return l, fmt.Errorf("vhd: %w: the footer begins with %q", ErrFormat, b[:8])
	case binary.BigEndian.Uint32(b[footerChecksum:]) != checksum(b, footerChecksum):
		return l, fmt.Errorf("vhd: %w: of the footer", ErrChecksum)
	case binary.BigEndian.Uint32(b[12:]) != version:
		return l, fmt.Errorf("vhd: %w: version %x of the footer", ErrFormat, binary.BigEndian.Uint32(b[12:]))
	case kind != kindDynamic && kind != kindDiffering:
		return l, fmt.Errorf("vhd: %w: disk type %d: want a dynamic or a differencing disk", ErrFormat, kind)
	}
	l.disk = Disk{Size: int64(binary.BigEndian.Uint64(b[48:])), ID: ID(b[68:84])}
	l.header = int64(binary.BigEndian.Uint64(b[16:]))
	if kind == kindDiffering {
		l.disk.Parent = &Parent{}
	}
	return l, l.disk.check()
}

// Bounds of what other tools' images may look like.
const (
	minBlock   = 4 << 10
	maxBlock   = 256 << 20
	maxEntries = 4 << 20
	maxLocator = 511 * sectorSize
)

// parseHeader reads the dynamic header into what the footer has given.
func (l *layout) parseHeader(b []byte) error {
	l.table = int64(binary.BigEndian.Uint64(b[16:]))
	l.entries, l.blockSize = int64(binary.BigEndian.Uint32(b[28:])), int64(binary.BigEndian.Uint32(b[32:]))
	switch {
	case string(b[:8]) != "cxsparse":
		return fmt.Errorf("vhd: %w: the header begins with %q", ErrFormat, b[:8])
	case binary.BigEndian.Uint32(b[headerChecksum:]) != checksum(b[:headerSize], headerChecksum):
		return fmt.Errorf("vhd: %w: of the header", ErrChecksum)
	case binary.BigEndian.Uint32(b[24:]) != version:
		return fmt.Errorf("vhd: %w: version %x of the header", ErrFormat, binary.BigEndian.Uint32(b[24:]))
	case l.blockSize < minBlock || l.blockSize > maxBlock || l.blockSize&(l.blockSize-1) != 0:
		return fmt.Errorf("vhd: %w: blocks of %d bytes: want a power of two from %d to %d", ErrSize, l.blockSize, minBlock, maxBlock)
	case l.entries > maxEntries || l.entries < blocksOf(l.disk.Size, l.blockSize):
		return fmt.Errorf("vhd: %w: a table of %d entries for %d blocks", ErrSize, l.entries, blocksOf(l.disk.Size, l.blockSize))
	}
	if l.disk.Parent != nil {
		l.parseParent(b)
	}
	return nil
}

func (l *layout) parseParent(b []byte) {
	var name []uint16
	for n := range 256 {
		name = append(name, binary.BigEndian.Uint16(b[64+2*n:]))
	}
	if end := slices.Index(name, 0); end >= 0 {
		name = name[:end]
	}
	*l.disk.Parent = Parent{
		ID: ID(b[40:56]), Modified: time.Unix(epoch+int64(binary.BigEndian.Uint32(b[56:])), 0).UTC(), Name: string(utf16.Decode(name)),
	}
	for n := range 8 {
		entry := b[576+24*n:]
		offset, length := int64(binary.BigEndian.Uint64(entry[16:])), int64(binary.BigEndian.Uint32(entry[8:]))
		if binary.BigEndian.Uint32(entry) == macX && length <= maxLocator {
			l.locator, l.length = offset, length
		}
	}
}

// blocksOf is how many blocks a disk has; the last may be cut short.
func blocksOf(size, block int64) int64 { return (size + block - 1) / block }

// roundUp makes a length one of whole sectors.
func roundUp(length int64) int64 { return (length + sectorSize - 1) / sectorSize * sectorSize }
