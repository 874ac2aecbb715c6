package xva

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what is taken into memory.
const (
	maxMetadata = 16 << 20 // ova.xml
	maxChunk    = 64 << 20
	maxDigits   = 10 // of a chunk's number: no product of numbers and lengths overflows
)

// Reader reads an XVA as it comes. It takes what xapi takes: plain, gzip or zstd; ustar, pax and GNU headers; both kinds of
// checksums, one behind each chunk; chunks of any length, also empty ones, which a pool's export uses to keep a connection
// alive. It is not safe for concurrent use.
type Reader struct {
	// Force makes Next give chunks whose checksum is wrong, too, as an import with force does.
	Force bool

	source   *source
	archive  *tar.Reader
	metadata *metadata
	buffer   []byte

	disk   int   // whose chunks come now
	number int64 // of the next chunk of it
	offset int64 // where that would begin
	unit   int64 // what a number that was left out stands for: the length of the first chunk of the stream
}

// NewReader reads and checks ova.xml. Everything else is read by Next.
func NewReader(r io.Reader) (*Reader, error) {
	s, err := newSource(r)
	if err != nil {
		return nil, err
	}
	x := &Reader{source: s, archive: tar.NewReader(s)}
	header, err := x.file(metadataFile, maxMetadata)
	if errors.Is(err, ErrFormat) {
		return nil, &Error{Kind: ErrNoArchive}
	} else if err != nil {
		return nil, err
	}
	if header == nil {
		return nil, malformed("", "the archive is empty")
	}
	if header.Name != metadataFile {
		return nil, &Error{Kind: ErrUnexpected, Expected: metadataFile, Found: header.Name}
	}
	text, err := x.content(header)
	if err != nil {
		return nil, err
	}
	if x.metadata, err = parseMetadata(text); err != nil {
		return nil, err
	}
	x.skipEmptyDisks()
	return x, nil
}

// Version tells what wrote the XVA.
func (x *Reader) Version() Version { return x.metadata.version }

// Objects gives the objects of ova.xml in their order. They must not be changed.
func (x *Reader) Objects() []Object { return x.metadata.objects }

// Disks gives the disks in the order of the stream, with what has been read of them so far.
func (x *Reader) Disks() []DiskInfo { return slices.Clone(x.metadata.disks) }

// Complete tells whether all disks have been read to their size. xapi stops reading there; only Next goes on to the end
// of the archive.
func (x *Reader) Complete() bool { return x.disk == len(x.metadata.disks) }

// Chunk is a piece of a disk. What lies between two pieces is zero.
type Chunk struct {
	VDI    string // id of the VDI
	Offset int64
	Data   []byte // valid until the next call; never empty
}

// Next gives the next chunk whose checksum is right. The error is io.EOF when all disks are complete and the archive has
// ended as it should; else an *Error, or what the underlying reader gave.
func (x *Reader) Next() (Chunk, error) {
	for {
		header, err := x.file(x.expected(), maxChunk)
		if err != nil {
			return Chunk{}, err
		}
		if header == nil {
			return Chunk{}, x.end()
		}
		offset, err := x.place(header)
		if err != nil {
			return Chunk{}, err
		}
		data, err := x.content(header)
		if err != nil {
			return Chunk{}, err
		}
		if err := x.verify(header.Name, data); err != nil {
			return Chunk{}, err
		}
		disk := &x.metadata.disks[x.disk]
		x.offset = offset + int64(len(data))
		disk.Bytes += int64(len(data))
		x.skipEmptyDisks()
		if len(data) > 0 {
			disk.Chunks++
			return Chunk{VDI: disk.ID, Offset: offset, Data: data}, nil
		}
	}
}

// skipEmptyDisks goes on to the next disk of which something is missing.
func (x *Reader) skipEmptyDisks() {
	for !x.Complete() && x.offset == x.metadata.disks[x.disk].Size {
		x.disk, x.number, x.offset = x.disk+1, 0, 0
	}
}

// expected is the name of the file that should come next; "" when none should.
func (x *Reader) expected() string {
	if x.Complete() {
		return ""
	}
	return fmt.Sprintf("%s/%08d", x.metadata.disks[x.disk].ID, x.number)
}

// file goes on to the next file, which may have up to limit bytes; nil when the archive has ended.
func (x *Reader) file(expected string, limit int64) (*tar.Header, error) {
	header, err := x.archive.Next()
	switch {
	case errors.Is(err, io.EOF) && x.source.failed == nil:
		if !x.source.ended() {
			return nil, &Error{Kind: ErrTruncated, Expected: expected}
		}
		return nil, nil
	case err != nil:
		return nil, x.source.explain(expected, err)
	case header.Typeflag != tar.TypeReg:
		return nil, &Error{Kind: ErrUnexpected, Detail: "no regular file", Expected: expected, Found: header.Name}
	case header.Size > limit:
		return nil, &Error{Kind: ErrSize, File: header.Name, Detail: fmt.Sprintf("%d bytes, more than %d", header.Size, limit)}
	}
	return header, nil
}

// content reads a file into memory.
func (x *Reader) content(header *tar.Header) ([]byte, error) {
	if int64(cap(x.buffer)) < header.Size {
		x.buffer = make([]byte, header.Size)
	}
	data := x.buffer[:header.Size]
	if _, err := io.ReadFull(x.archive, data); err != nil {
		return nil, x.source.explain(header.Name, err)
	}
	return data, nil
}

// place finds where a chunk belongs and moves the reader's number there.
func (x *Reader) place(header *tar.Header) (offset int64, err error) {
	id, digits, _ := strings.Cut(header.Name, "/")
	number, err := strconv.ParseInt(digits, 10, 64)
	index := slices.IndexFunc(x.metadata.disks, func(d DiskInfo) bool { return d.ID == id })
	switch {
	case err != nil || fmt.Sprintf("%08d", number) != digits || len(digits) > maxDigits || index < 0:
		return 0, &Error{Kind: ErrUnexpected, Expected: x.expected(), Found: header.Name}
	case index < x.disk:
		return 0, &Error{Kind: ErrSize, File: header.Name, Detail: fmt.Sprintf("data beyond the disk's size of %d", x.metadata.disks[index].Size)}
	case index > x.disk && x.number > 0:
		return 0, x.lastMissing()
	case index > x.disk || number < x.number:
		return 0, &Error{Kind: ErrOrder, Expected: x.expected(), Found: header.Name}
	case x.number == 0 && number > 0:
		return 0, &Error{Kind: ErrOrder, Detail: "the first chunk of the disk is missing", Expected: x.expected(), Found: header.Name}
	}
	if x.unit == 0 {
		if x.unit = header.Size; x.unit == 0 {
			return 0, malformed(header.Name, "the first chunk, whose length holds for all that are left out, is empty")
		}
	}
	size := x.metadata.disks[x.disk].Size
	offset = x.offset + (number-x.number)*x.unit
	if offset > size || header.Size > size-offset {
		return 0, &Error{Kind: ErrSize, File: header.Name, Detail: fmt.Sprintf("data beyond the disk's size of %d", size)}
	}
	x.number = number + 1
	return offset, nil
}

// verify reads the checksum behind a chunk and compares.
func (x *Reader) verify(name string, data []byte) error {
	header, err := x.file(name+string(SHA1), maxChunk)
	if err != nil {
		return err
	}
	if header == nil {
		return malformed(name, "no checksum follows it")
	}
	suffix, ok := strings.CutPrefix(header.Name, name)
	if !ok || Checksum(suffix) != SHA1 && Checksum(suffix) != XXH64 {
		return &Error{Kind: ErrUnexpected, Expected: name + string(SHA1), Found: header.Name}
	}
	if header.Size > maxChecksum {
		return &Error{Kind: ErrSize, File: header.Name, Detail: fmt.Sprintf("%d bytes, more than any checksum has", header.Size)}
	}
	stored := make([]byte, header.Size)
	if _, err := io.ReadFull(x.archive, stored); err != nil {
		return x.source.explain(header.Name, err)
	}
	if computed := Checksum(suffix).of(data); computed != string(stored) && !x.Force {
		return &Error{Kind: ErrChecksum, File: name, Expected: string(stored), Found: computed}
	}
	return nil
}

// end judges the end of the archive.
func (x *Reader) end() error {
	if !x.Complete() {
		return x.lastMissing()
	}
	if err := x.source.drain(); err != nil {
		return err
	}
	return io.EOF
}

func (x *Reader) lastMissing() error {
	disk := x.metadata.disks[x.disk]
	return malformed(disk.ID, fmt.Sprintf("its last chunk is missing: %d of %d bytes are there", x.offset, disk.Size))
}
