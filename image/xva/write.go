package xva

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"
)

// chunkSize is the length of all chunks but a disk's last. It is what every reader expects of the first one.
const chunkSize = mib

// metadataFile is the name of the archive's first file.
const metadataFile = "ova.xml"

// Write writes an appliance as an uncompressed XVA. The same appliance gives the same bytes: there is no time, owner or
// random number in them. Zeroes inside the disk take no room.
func Write(w io.Writer, a Appliance) error {
	a, err := a.complete()
	if err != nil {
		return err
	}
	x, err := NewWriter(w, applianceVersion, a.objects(), SHA1)
	if err != nil {
		return err
	}
	if err := x.Disk(idVDI, a.Disk.Size, a.Disk.Content); err != nil {
		return err
	}
	return x.Close()
}

// Writer writes an XVA piece by piece. The archive is plain ustar, because each release of xapi reads that (xapi-facts §10.1).
// It is not safe for concurrent use.
type Writer struct {
	buffered *bufio.Writer
	archive  *tar.Writer
	sum      Checksum
	last     string // id of the last disk
}

// NewWriter writes ova.xml. Values in the objects' snapshots are string, int64, bool, float64, DateTime, or arrays and maps of
// these. Disks follow, then Close.
func NewWriter(w io.Writer, v Version, objects []Object, sum Checksum) (*Writer, error) {
	text, err := document(v, objects)
	if err != nil {
		return nil, err
	}
	x := &Writer{buffered: bufio.NewWriterSize(w, 64<<10), sum: sum}
	x.archive = tar.NewWriter(x.buffered)
	return x, x.file(metadataFile, text)
}

// Disk writes the chunks of a VDI: the first, the last, and those between that are not zero. Readers expect disks in the
// order of their ids.
func (x *Writer) Disk(id string, size int64, content io.ReaderAt) error {
	if id <= x.last {
		return fmt.Errorf("xva: disk %s after %s: readers want them in the order of their ids", id, x.last)
	}
	x.last = id
	buffer := make([]byte, chunkSize)
	last := (size - 1) / chunkSize
	for n := range last + 1 {
		chunk := buffer[:min(chunkSize, size-n*chunkSize)]
		if read, err := content.ReadAt(chunk, n*chunkSize); read < len(chunk) {
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("xva: the content of disk %s ends at %d, before its size %d", id, n*chunkSize+int64(read), size)
			}
			return fmt.Errorf("xva: read disk %s at %d: %w", id, n*chunkSize, err)
		}
		if zero(chunk) && n != 0 && n != last {
			continue
		}
		name := fmt.Sprintf("%s/%08d", id, n)
		if err := x.file(name, chunk); err != nil {
			return err
		}
		if err := x.file(name+string(x.sum), []byte(x.sum.of(chunk))); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the archive. It does not close the underlying writer.
func (x *Writer) Close() error {
	err := x.archive.Close()
	if err == nil {
		err = x.buffered.Flush()
	}
	if err != nil {
		return fmt.Errorf("xva: end of archive: %w", err)
	}
	return nil
}

func (x *Writer) file(name string, content []byte) error {
	err := x.archive.WriteHeader(&tar.Header{
		Name: name, Size: int64(len(content)), Mode: 0o644, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR,
	})
	if err == nil {
		_, err = x.archive.Write(content)
	}
	if err != nil {
		return fmt.Errorf("xva: write %s: %w", name, err)
	}
	return nil
}

// zero tells whether all bytes are zero: the first is, and each equals the one before it.
func zero(b []byte) bool { return len(b) == 0 || b[0] == 0 && string(b[1:]) == string(b[:len(b)-1]) }
