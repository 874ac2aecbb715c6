package debian

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ErrFormat means that a file is no Debian package, or a damaged one.
var ErrFormat = errors.New("debian: not a package")

const (
	arMagic      = "!<arch>\n"
	arHeader     = 60 // name 16, time 12, owner 6, group 6, mode 8, size 10, end 2
	maxMembers   = 16
	maxPathBytes = 4096
)

// Unpack calls visit for each entry of a package's data archive, in its order. Names are cleaned: relative, without
// '.' or '..'; the root itself is left out. The reader is valid during the call and need not be read.
func Unpack(archive string, visit func(header *tar.Header, content io.Reader) error) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("debian: %w", err)
	}
	defer f.Close()
	if err := UnpackFrom(bufio.NewReaderSize(f, 1<<20), visit); err != nil {
		return fmt.Errorf("%s: %w", archive, err)
	}
	return nil
}

// UnpackFrom is Unpack for a stream. It stops after the data archive. A stream compressed by xz may have it take as
// much memory as its header asks for: what is not checked against a signed index should not come here.
func UnpackFrom(r io.Reader, visit func(header *tar.Header, content io.Reader) error) error {
	data, err := dataArchive(r)
	if err != nil {
		return err
	}
	defer data.Close()
	return walk(data, visit)
}

func walk(data io.Reader, visit func(header *tar.Header, content io.Reader) error) error {
	entries := tar.NewReader(data)
	for {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: its data archive: %w", ErrFormat, err)
		}
		name, err := clean(header.Name)
		if err != nil {
			return err
		}
		if name == "." {
			continue
		}
		header.Name = name
		if err := visit(header, entries); err != nil {
			return err
		}
	}
}

// clean makes an entry's name relative and refuses one that leaves the tree.
func clean(name string) (string, error) {
	cleaned := path.Clean(strings.TrimPrefix(name, "/"))
	if len(name) > maxPathBytes || strings.ContainsRune(name, 0) || cleaned == ".." || strings.HasPrefix(cleaned, "../") || strings.HasPrefix(cleaned, "/") {
		return "", fmt.Errorf("%w: it has an entry %.100q", ErrFormat, name)
	}
	return cleaned, nil
}

// dataArchive finds data.tar[.gz|.xz|.zst] in the outer ar archive (deb(5)).
func dataArchive(r io.Reader) (io.ReadCloser, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, fmt.Errorf("%w: it does not begin like an ar archive", ErrFormat)
	}
	for range maxMembers {
		header := make([]byte, arHeader)
		if _, err := io.ReadFull(r, header); err != nil {
			return nil, fmt.Errorf("%w: it ends before its data archive (%w)", ErrFormat, err)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
		size, err := strconv.ParseUint(strings.TrimRight(string(header[48:58]), " "), 10, 40)
		if err != nil || string(header[58:]) != "`\n" {
			return nil, fmt.Errorf("%w: member %q has a broken header", ErrFormat, name)
		}
		if suffix, ok := strings.CutPrefix(name, "data.tar"); ok {
			return decompress(suffix, io.LimitReader(r, int64(size)))
		}
		if _, err := io.CopyN(io.Discard, r, int64(size+size%2)); err != nil {
			return nil, fmt.Errorf("%w: it ends within its member %q (%w)", ErrFormat, name, err)
		}
	}
	return nil, fmt.Errorf("%w: none of its first %d members is a data archive", ErrFormat, maxMembers)
}

func decompress(suffix string, r io.Reader) (io.ReadCloser, error) {
	var (
		plain io.ReadCloser
		err   error
	)
	switch suffix {
	case "":
		plain = io.NopCloser(r)
	case ".gz":
		plain, err = gzip.NewReader(r)
	case ".xz":
		var x io.Reader
		x, err = xz.NewReader(r)
		plain = io.NopCloser(x)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderMaxMemory(1<<30)); err == nil {
			plain = z.IOReadCloser()
		}
	default:
		return nil, fmt.Errorf("%w: its data archive is compressed in an unknown way: data.tar%s", ErrFormat, suffix)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: its data archive: %w", ErrFormat, err)
	}
	return plain, nil
}
