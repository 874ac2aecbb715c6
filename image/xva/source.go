package xva

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory of the zstd decoder; it is what the zstd command takes without being asked.
const maxWindow = 128 << 20

// source gives the tar stream of a file that may be packed, and remembers what the tar reader hides: whether the
// underlying reader failed, and whether the archive's end was there.
type source struct {
	plain  io.Reader
	failed error // of the underlying reader
	zeroes int64 // bytes at the end of what was read so far that are zero
}

// failing notes the errors of a reader in a source.
type failing struct {
	io.Reader
	source *source
}

func (f failing) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.source.failed = err
	}
	return n, err
}

func newSource(r io.Reader) (*source, error) {
	s := &source{}
	raw := bufio.NewReaderSize(failing{r, s}, 64<<10)
	magic, err := raw.Peek(4)
	if err != nil {
		return nil, s.explain(metadataFile, err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878 §3.1.1
		s.plain, err = zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}): // RFC 1952 §2.3.1
		s.plain, err = gzip.NewReader(raw)
	default:
		s.plain = raw
	}
	if err != nil {
		return nil, s.explain(metadataFile, err)
	}
	return s, nil
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.plain.Read(p)
	rest := len(bytes.TrimRight(p[:n], "\x00"))
	if rest > 0 {
		s.zeroes = 0
	}
	s.zeroes += int64(n - rest)
	return n, err
}

// archiveEnd is the length of the end of an archive: two blocks of zeroes.
const archiveEnd = 1024

// ended tells, where the tar reader finds no further file, whether the archive says so itself. Before the end of archive
// stands a text, padded with less than 512 zeroes; so 1024 of them are never padding and one block.
func (s *source) ended() bool { return s.zeroes >= archiveEnd }

// maxPadding is how many zeroes may follow the end of the archive; tar pads to 10 KiB unless told otherwise.
const maxPadding = 1 << 20

// drain reads to the end of the stream, for checksums of the packing and to find what does not belong there.
func (s *source) drain() error {
	buffer := make([]byte, 32<<10)
	for total := 0; ; {
		n, err := s.Read(buffer)
		if total += n; len(bytes.TrimRight(buffer[:n], "\x00")) > 0 || total > maxPadding {
			return malformed("", "there is something behind the end of the archive")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.explain("", err)
		}
	}
}

// explain makes an error of this package of what came out of the layers below while a file was read.
func (s *source) explain(file string, err error) error {
	switch {
	case s.failed != nil:
		return fmt.Errorf("xva: read: %w", s.failed)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{Kind: ErrTruncated, File: file}
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, zstd.ErrCRCMismatch):
		return &Error{Kind: ErrChecksum, File: file, Detail: "of the packed stream: " + err.Error()}
	default:
		return malformed(file, err.Error())
	}
}
