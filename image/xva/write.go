package xva

import (
	"archive/tar"
	"bufio"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

// chunkSize is the length of all chunks that Write makes. It is what every reader expects of the first one.
const chunkSize = mib

// metadataFile is the name of the archive's first file.
const metadataFile = "ova.xml"

// Write writes an appliance as an uncompressed XVA. The same appliance gives the same bytes: there is no time, owner or
// random number in them. Zeroes inside the disk take no room.
//
// The archive is plain ustar, with SHA-1 checksums, because each release of xapi reads that (xapi-facts §10.1, §10.3).
func Write(w io.Writer, a Appliance) error {
	a, err := a.complete()
	if err != nil {
		return err
	}
	document, err := a.document()
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(w, 64<<10)
	archive := tar.NewWriter(buffered)
	if err := addFile(archive, metadataFile, document); err != nil {
		return err
	}
	if err := addDisk(archive, idVDI, a.Disk); err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("xva: end of archive: %w", err)
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("xva: end of archive: %w", err)
	}
	return nil
}

func addDisk(archive *tar.Writer, id string, disk Disk) error {
	chunk := make([]byte, chunkSize)
	last := disk.Size/chunkSize - 1
	for n := range last + 1 {
		if read, err := disk.Content.ReadAt(chunk, n*chunkSize); read < chunkSize {
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("xva: the content of disk %s ends at %d, before its size %d", disk.Name, n*chunkSize+int64(read), disk.Size)
			}
			return fmt.Errorf("xva: read disk %s at %d: %w", disk.Name, n*chunkSize, err)
		}
		if zero(chunk) && n != 0 && n != last {
			continue
		}
		name := fmt.Sprintf("%s/%08d", id, n)
		sum := sha1.Sum(chunk)
		if err := addFile(archive, name, chunk); err != nil {
			return err
		}
		if err := addFile(archive, name+sha1Suffix, []byte(hex.EncodeToString(sum[:]))); err != nil {
			return err
		}
	}
	return nil
}

func addFile(archive *tar.Writer, name string, content []byte) error {
	err := archive.WriteHeader(&tar.Header{
		Name: name, Size: int64(len(content)), Mode: 0o644, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR,
	})
	if err == nil {
		_, err = archive.Write(content)
	}
	if err != nil {
		return fmt.Errorf("xva: write %s: %w", name, err)
	}
	return nil
}

// zero tells whether all bytes are zero: the first is, and each equals the one before it.
func zero(b []byte) bool { return len(b) == 0 || b[0] == 0 && string(b[1:]) == string(b[:len(b)-1]) }
